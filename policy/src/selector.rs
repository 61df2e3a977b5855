//! Label selectors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// One condition on labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// The key is there with one of these values.
    In(String, BTreeSet<String>),
    /// The key is not there, or has none of these values.
    NotIn(String, BTreeSet<String>),
    /// The key is there.
    Exists(String),
    /// The key is not there.
    DoesNotExist(String),
}

/// Conditions that must all hold; without any it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    requirements: BTreeSet<Requirement>,
}

impl Selector {
    /// The selector with these conditions.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self { requirements: requirements.into_iter().collect() }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether labels meet all conditions.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            // The key missing is no match with any of the values: selected (labels.Requirement.Matches).
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }

    /// A key, and the values of which an object needs one to be selected, if there is such a condition.
    pub(crate) fn asked(&self) -> Option<(&str, &BTreeSet<String>)> {
        self.requirements.iter().find_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((key.as_str(), values)),
            _ => None,
        })
    }

    /// Reads the API's form.
    ///
    /// # Errors
    /// When an expression is wrong: which field, and how.
    pub fn from_api(selector: &LabelSelector) -> Result<Self, (String, String)> {
        let mut requirements = BTreeSet::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.insert(Requirement::In(key.clone(), BTreeSet::from([value.clone()])));
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let key = expression.key.clone();
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let wrong =
                |field: &str, reason: String| Err((format!("matchExpressions[{index}].{field}"), reason));
            requirements.insert(match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Requirement::In(key, values),
                ("NotIn", false) => Requirement::NotIn(key, values),
                ("Exists", true) => Requirement::Exists(key),
                ("DoesNotExist", true) => Requirement::DoesNotExist(key),
                (operator @ ("In" | "NotIn"), true) => {
                    return wrong("values", format!("{operator} needs at least one value"));
                }
                (operator @ ("Exists" | "DoesNotExist"), false) => {
                    return wrong("values", format!("{operator} takes no values"));
                }
                (operator, _) => {
                    return wrong(
                        "operator",
                        format!("`{operator}` is not one of In, NotIn, Exists, DoesNotExist"),
                    );
                }
            });
        }
        Ok(Self { requirements })
    }
}

/// As `kubectl --selector` takes it.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{requirement}")?;
        }
        Ok(())
    }
}

/// As `kubectl --selector` takes it.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Self::In(key, values) => write!(f, "{key} in ({})", list(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Requirement, Selector};

    fn check(requirement: &Requirement, labels: &[(&str, &str)], expected: bool) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(
            Selector::new([requirement.clone()]).matches(&labels),
            expected,
            "{requirement:?} {labels:?}"
        );
    }

    #[test]
    fn each_operator_with_the_key_present_other_and_missing() {
        let key = || "app".to_owned();
        let values = || ["web".to_owned()].into();
        for (labels, [is_in, not_in, exists]) in [
            (&[("app", "web")] as &[_], [true, false, true]),
            (&[("app", "db")], [false, true, true]),
            (&[("tier", "web")], [false, true, false]),
        ] {
            check(&Requirement::In(key(), values()), labels, is_in);
            check(&Requirement::NotIn(key(), values()), labels, not_in);
            check(&Requirement::Exists(key()), labels, exists);
            check(&Requirement::DoesNotExist(key()), labels, !exists);
        }
    }

    #[test]
    fn it_reads_like_a_selector_of_kubectl() {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let selector = Selector::new([
            Requirement::In("app".into(), values(&["web"])),
            Requirement::In("tier".into(), values(&["b", "a"])),
            Requirement::NotIn("env".into(), values(&["dev"])),
            Requirement::Exists("team".into()),
            Requirement::DoesNotExist("old".into()),
        ]);
        assert_eq!(selector.to_string(), "app=web,tier in (a,b),env notin (dev),team,!old");
    }
}
