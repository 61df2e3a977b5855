//! Results as `JUnit` XML, which CI systems show.

use std::io;

use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event},
};

/// The cases of one file.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) cases: Vec<Case>,
}

/// One expectation.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As expected.
    Passed,
    /// Otherwise: in short, and why.
    Failed { short: String, text: String },
    /// It could not be judged.
    Error(String),
}

/// The report of all suites.
pub(crate) fn report(suites: &[Suite]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all: Vec<&Case> = suites.iter().flat_map(|suite| &suite.cases).collect();
    let element = writer.create_element("testsuites").with_attribute(("name", "margayctl policy test"));
    element
        .with_attributes(as_pairs(&totals(&all)))
        .write_inner_content(|writer| suites.iter().try_for_each(|suite| write_suite(writer, suite)))?;
    let mut xml = writer.into_inner();
    xml.push(b'\n');
    Ok(xml)
}

fn write_suite(writer: &mut Writer<Vec<u8>>, suite: &Suite) -> io::Result<()> {
    let cases: Vec<&Case> = suite.cases.iter().collect();
    let name = legal(&suite.name);
    let element = writer.create_element("testsuite").with_attribute(("name", name.as_str()));
    element.with_attributes(as_pairs(&totals(&cases))).write_inner_content(|writer| {
        for case in &suite.cases {
            let case_name = legal(&case.name);
            let element = writer
                .create_element("testcase")
                .with_attribute(("classname", name.as_str()))
                .with_attribute(("name", case_name.as_str()));
            let (tag, short, text) = match &case.outcome {
                Outcome::Passed => {
                    element.write_empty()?;
                    continue;
                }
                Outcome::Failed { short, text } => ("failure", legal(short), legal(text)),
                Outcome::Error(text) => ("error", legal(text), legal(text)),
            };
            element.write_inner_content(|writer| {
                let element = writer.create_element(tag).with_attribute(("message", short.as_str()));
                element.write_text_content(BytesText::new(&text)).map(|_| ())
            })?;
        }
        Ok(())
    })?;
    Ok(())
}

fn totals(cases: &[&Case]) -> [(&'static str, String); 3] {
    let count =
        |fits: fn(&Outcome) -> bool| cases.iter().filter(|case| fits(&case.outcome)).count().to_string();
    [
        ("tests", cases.len().to_string()),
        ("failures", count(|outcome| matches!(outcome, Outcome::Failed { .. }))),
        ("errors", count(|outcome| matches!(outcome, Outcome::Error(_)))),
    ]
}

fn as_pairs<'a>(totals: &'a [(&'static str, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    totals.iter().map(|(key, value)| (*key, value.as_str()))
}

/// Without the characters that XML 1.0 has no way to write (section 2.2, Char).
fn legal(text: &str) -> String {
    let legal = |char: char| match char {
        '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'.. => char,
        _ => '\u{fffd}',
    };
    text.chars().map(legal).collect()
}

#[cfg(test)]
mod tests {
    use super::{Case, Outcome, Suite, report};

    #[test]
    fn every_outcome_is_counted_and_every_text_escaped() {
        let case = |name: &str, outcome| Case { name: name.into(), outcome };
        let suite = Suite {
            name: "shop \"a\"".into(),
            cases: vec![
                case("good", Outcome::Passed),
                case(
                    "b<a> & c",
                    Outcome::Failed { short: "is <denied>".into(), text: "because ]]> \u{1b}".into() },
                ),
                case("lost", Outcome::Error("no pod x/y".into())),
            ],
        };
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="margayctl policy test" tests="3" failures="1" errors="1">
  <testsuite name="shop &quot;a&quot;" tests="3" failures="1" errors="1">
    <testcase classname="shop &quot;a&quot;" name="good"/>
    <testcase classname="shop &quot;a&quot;" name="b&lt;a&gt; &amp; c">
      <failure message="is &lt;denied&gt;">because ]]&gt; �</failure>
    </testcase>
    <testcase classname="shop &quot;a&quot;" name="lost">
      <error message="no pod x/y">no pod x/y</error>
    </testcase>
  </testsuite>
</testsuites>
"#;
        assert_eq!(String::from_utf8(report(&[suite]).unwrap()).unwrap(), expected);
    }
}
