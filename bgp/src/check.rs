//! `margay-bgp check`: whether a configuration can be used, and whether its policies do what its tests say.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::config::{Config, ConfigError, Located};
use crate::policy_test::{self, PolicyTest};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, each with file and line.
    pub problems: Vec<String>,
    /// Tests that were run.
    pub tests: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    tests: Vec<PolicyTest>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(problem: String) -> Self {
        Self { problems: vec![problem], tests: 0 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.is_good() {
            writeln!(f, "ok, {} tests passed", self.tests)?;
        }
        Ok(())
    }
}

/// Looks at a configuration, and at more tests than it has itself.
pub fn run(config: &Path, tests: Option<&Path>) -> Report {
    let text = match read(config) {
        Ok(text) => text,
        Err(problem) => return Report::problem(problem),
    };
    let parsed: Config = match parse(config, &text) {
        Ok(parsed) => parsed,
        Err(problem) => return Report::problem(problem),
    };
    let located = Located::new(&text);
    let checked = match parsed.check() {
        Ok(checked) => checked,
        Err(ConfigError::Value { path, reason }) => {
            return Report::problem(at(config, &located, &path, &format!("{path}: {reason}")));
        }
        Err(error) => return Report::problem(format!("{}: {error}", config.display())),
    };
    let mut report = Report::default();
    let mut judge = |file: &Path, located: &Located, tests: &[PolicyTest]| {
        report.tests += tests.len();
        for failure in policy_test::run(tests, &checked.policies, checked.asn) {
            let path = format!("tests[{}]", failure.index);
            report.problems.push(at(file, located, &path, &failure.to_string()));
        }
    };
    judge(config, &located, &parsed.tests);
    if let Some(file) = tests {
        match read(file).and_then(|text| Ok((parse::<TestFile>(file, &text)?, text))) {
            Ok((parsed, text)) => judge(file, &Located::new(&text), &parsed.tests),
            Err(problem) => report.problems.push(problem),
        }
    }
    report
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("read {}: {error}", file.display()))
}

fn parse<T: serde::de::DeserializeOwned>(file: &Path, text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or_else(String::new, |location| format!(":{}", location.line()));
        format!("{}{line}: {}", file.display(), error.without_snippet())
    })
}

fn at(file: &Path, located: &Located, path: &str, problem: &str) -> String {
    let line = located.line(path).map_or_else(String::new, |line| format!(":{line}"));
    format!("{}{line}: {problem}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "asn: 64500\nrouter_id: 192.0.2.1\n";

    fn check(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bgp.yaml");
        std::fs::write(&file, text).unwrap();
        let problems = run(&file, None).problems.into_iter();
        problems.map(|problem| problem.replace(&format!("{}:", file.display()), "")).collect()
    }

    #[test]
    fn problems_come_with_their_lines() {
        let cases = [
            ("colour: red\n", "3: unknown field"),
            ("neighbors:\n- address: 192.0.2.2\n  remote_as: 1\n  port: 0\n", "6: neighbors[0].port: 0"),
            ("import: x\n", "3: import: there is no policy `x`"),
            (
                "policies:\n  p:\n    terms:\n    - match:\n        as_path:\n          regex: ['^64501_',\n            '^(64502']\n      then: accept\n",
                "9: policies.p.terms[0].match.as_path.regex[1]: `^(64502`, column 2: unclosed group",
            ),
            (
                "bmp:\n  collectors:\n  - address: 192.0.2.9:1790\n    connect_retry: 0\n",
                "6: bmp.collectors[0].connect_retry: 0 s",
            ),
            (
                "policies:\n  p:\n    terms:\n    - then: next\n    - match: {prefix: [l]}\n      then: accept\n",
                "7: policies.p.terms[1].match.prefix[0]: there is no prefix list `l`",
            ),
        ];
        for (text, expected) in cases {
            let problems = check(&format!("{SMALL}{text}"));
            assert!(problems.len() == 1 && problems[0].starts_with(expected), "{text}: {problems:?}");
        }
    }

    #[test]
    fn a_failed_test_says_what_was_expected_what_came_and_which_term_decided() {
        let text = "\
policies:
  p:
    terms:
    - name: far
      match: {as_path: {length: {ge: 3}}}
      then: reject
    - set: {local_preference: 50, communities: {add: [no-export]}}
      then: accept
  r:
    terms:
    - match: {as_path: {regex: ['^64501_']}}
      set: {med: 7}
      then: accept
tests:
- name: near
  policy: p
  route: {prefix: 198.51.100.0/24, as_path: [64501]}
  expect: {verdict: accept, local_preference: 50, communities: [no-export]}
- name: far
  policy: p
  route: {prefix: 198.51.100.0/24, as_path: [64501, 64502, 64503]}
  expect: {verdict: accept}
- name: preferred
  policy: p
  route: {prefix: 198.51.100.0/24}
  expect: {verdict: accept, local_preference: 200}
- name: by expression
  policy: r
  route: {prefix: 198.51.100.0/24, as_path: [64501, 64502]}
  expect: {verdict: accept, med: 7}
- name: by no expression
  policy: r
  route: {prefix: 198.51.100.0/24, as_path: [645010]}
  expect: {verdict: accept}
- name: lost
  policy: q
  route: {prefix: 198.51.100.0/24}
  expect: {verdict: reject}
";
        let expected = [
            "21: tests[1]: far: expected accept, came reject by policy `p`, term `far`",
            "25: tests[2]: preferred: local_preference: expected 200, came 50 by policy `p`, terms[1]",
            "33: tests[4]: by no expression: expected accept, came reject by policy `r`, its default",
            "37: tests[5]: lost: there is no policy `q`",
        ];
        assert_eq!(check(&format!("{SMALL}{text}")), expected);
    }
}
