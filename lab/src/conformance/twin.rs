//! The IPv6 twin of a case that is written for IPv4.

use super::case::{Case, IpFamily};
use regex::Regex;
use serde_json::Value;

/// Makes twins; holds what it takes to recognise an address.
pub(super) struct Twins {
    address: Regex,
    symbol: Regex,
}

impl Twins {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            address: Regex::new(r"\b\d{1,3}(\.\d{1,3}){3}\b")?,
            symbol: Regex::new(
                r"\$\{(?:(?P<pods>pods)|(?P<net>net:)?(?P<kind>pod|node|external|service):(?P<name>[^}]*))\}(?P<host>/32\b)?",
            )?,
        })
    }

    /// The twin, when the case has one: with the same table, over IPv6.
    pub(super) fn of(&self, case: &Case) -> Option<Case> {
        if case.families.is_some() {
            return None;
        }
        let mut twin = case.clone();
        twin.name = format!("{} (IPv6)", case.name);
        twin.families = Some(vec![IpFamily::Ipv6]);
        for object in twin.steps.iter_mut().flat_map(|step| &mut step.apply) {
            *object = self.value(object)?;
        }
        Some(twin)
    }

    fn value(&self, value: &Value) -> Option<Value> {
        Some(match value {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect::<Option<_>>()?,
            Value::Object(map) => {
                map.iter().map(|(key, item)| Some((key.clone(), self.value(item)?))).collect::<Option<_>>()?
            }
            other => other.clone(),
        })
    }

    /// `None` when it holds an address that has no twin.
    fn text(&self, text: &str) -> Option<String> {
        if text == "0.0.0.0/0" {
            return Some("::/0".into());
        }
        if self.address.is_match(text) {
            return None;
        }
        let six = |found: &regex::Captures<'_>| {
            let host = if found.name("host").is_some() { "/128" } else { "" };
            let Some((kind, name)) = found.name("kind").zip(found.name("name")) else {
                return format!("${{pods6}}{host}");
            };
            let (kind, name) = (kind.as_str(), name.as_str());
            match found.name("net") {
                // Any length becomes 16.
                Some(_) => {
                    let of = name.rsplit_once('/').map_or(name, |(of, _)| of);
                    format!("${{net:{kind}6:{of}/16}}{host}")
                }
                None => format!("${{{kind}6:{name}}}{host}"),
            }
        };
        Some(self.symbol.replace_all(text, six).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Twins;
    use crate::conformance::case::Case;

    #[test]
    fn symbols_take_their_other_form_and_addresses_have_no_twin() {
        let twins = Twins::new().unwrap();
        for (text, expected) in [
            ("${pod:x/b}/32", Some("${pod6:x/b}/128")),
            ("${net:pod:x/b/4}", Some("${net:pod6:x/b/16}")),
            ("${pods}", Some("${pods6}")),
            ("${external:e1}/32", Some("${external6:e1}/128")),
            ("0.0.0.0/0", Some("::/0")),
            ("192.0.2.0/24", None),
            ("app", Some("app")),
        ] {
            assert_eq!(twins.text(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn only_a_case_that_names_no_family_has_a_twin() {
        let twins = Twins::new().unwrap();
        let case =
            |more: &str| Case::parse(&format!("name: c\n{more}cluster: standard\nsteps: [{{}}]")).unwrap();
        assert_eq!(twins.of(&case("")).unwrap().name, "c (IPv6)");
        assert!(twins.of(&case("families: [ipv4]\n")).is_none());
    }
}
