//! Selectors of labels or fields, as list requests write them.

use super::resource::Resource;
use super::status::ApiError;
use serde_json::Value;

/// Which objects of a resource a request is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    pub(crate) namespace: Option<String>,
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelTerm {
    key: String,
    test: LabelTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTest {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

#[derive(Debug, Clone)]
struct FieldTerm {
    path: Vec<String>,
    value: String,
    equal: bool,
}

impl Selector {
    pub(crate) fn parse(
        resource: &Resource,
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            namespace: namespace.map(ToOwned::to_owned),
            labels: label_terms(labels)?,
            fields: field_terms(resource, fields)?,
        })
    }

    pub(crate) fn everything_in(namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..Self::default() }
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace.as_deref().is_none_or(|ns| metadata["namespace"].as_str().unwrap_or_default() == ns)
            && self.labels.iter().all(|term| term.matches(&metadata["labels"]))
            && self.fields.iter().all(|term| term.matches(object))
    }

    /// Whether every object of the namespace, or of the cluster, is selected.
    pub(crate) fn takes_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl LabelTerm {
    fn matches(&self, labels: &Value) -> bool {
        let value = labels[self.key.as_str()].as_str();
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            LabelTest::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            LabelTest::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            LabelTest::Exists => value.is_some(),
            LabelTest::Absent => value.is_none(),
            LabelTest::Above(limit) => number().is_some_and(|n| n > *limit),
            LabelTest::Below(limit) => number().is_some_and(|n| n < *limit),
        }
    }
}

impl FieldTerm {
    fn matches(&self, object: &Value) -> bool {
        let mut at = object;
        for part in &self.path {
            at = &at[part.as_str()];
        }
        let same = match at {
            Value::Null => self.value.is_empty() || self.value == "false",
            Value::String(s) => *s == self.value,
            Value::Bool(b) => self.value == if *b { "true" } else { "false" },
            Value::Number(n) => self.value.parse().is_ok_and(|v: serde_json::Number| v == *n),
            Value::Array(_) | Value::Object(_) => false,
        };
        same == self.equal
    }
}

/// Splits at commas that are not inside parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.into_iter().map(str::trim).filter(|t| !t.is_empty()).collect()
}

fn label_terms(text: &str) -> Result<Vec<LabelTerm>, ApiError> {
    split_terms(text).into_iter().map(label_term).collect()
}

fn label_term(term: &str) -> Result<LabelTerm, ApiError> {
    let bad =
        || ApiError::bad_request(format!("unable to parse requirement: {term:?} is not a label selector"));
    let built = |key: &str, test| {
        let key = key.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(legal) {
            return Err(bad());
        }
        Ok(LabelTerm { key: key.to_owned(), test })
    };
    if let Some(key) = term.strip_prefix('!') {
        return built(key, LabelTest::Absent);
    }
    if let Some(head) = term.strip_suffix(')') {
        let (head, list) = head.split_once('(').ok_or_else(bad)?;
        let values = list.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, operator) = head.trim().split_once(char::is_whitespace).ok_or_else(bad)?;
        return match operator.trim() {
            "in" => built(key, LabelTest::In(values)),
            "notin" => built(key, LabelTest::NotIn(values)),
            _ => Err(bad()),
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return built(key, LabelTest::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return built(key, LabelTest::In(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once('>') {
        return built(key, LabelTest::Above(value.trim().parse().ok().ok_or_else(bad)?));
    }
    if let Some((key, value)) = term.split_once('<') {
        return built(key, LabelTest::Below(value.trim().parse().ok().ok_or_else(bad)?));
    }
    built(term, LabelTest::Exists)
}

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "type",
    "source.component",
];

fn field_terms(resource: &Resource, text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    let known: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => POD_FIELDS,
        (_, "events") => EVENT_FIELDS,
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        _ => &[],
    };
    let mut terms = Vec::new();
    for term in split_terms(text) {
        let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
            (path, value, false)
        } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (path, value, true)
        } else {
            return Err(ApiError::bad_request(format!("invalid selector: {term:?}; can't understand it")));
        };
        let (path, value) = (path.trim(), value.trim());
        let selectable = matches!(path, "metadata.name" | "metadata.namespace")
            || known.contains(&path)
            || resource.custom.as_ref().is_some_and(|c| c.selectable.iter().any(|p| p == path));
        if !selectable {
            return Err(ApiError::bad_request(format!("field label not supported: {path}")));
        }
        terms.push(FieldTerm {
            path: path.split('.').map(ToOwned::to_owned).collect(),
            value: value.to_owned(),
            equal,
        });
    }
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::resource::Resources;
    use serde_json::json;

    fn check(labels: &str, fields: &str, expected: bool) {
        let pods = Resources::built_in().find("", "v1", "pods").unwrap();
        let pod = json!({
            "metadata": {"name": "a", "namespace": "x", "labels": {"app": "web", "n": "5"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        });
        let selector = Selector::parse(&pods, Some("x"), labels, fields).unwrap();
        assert_eq!(selector.matches(&pod), expected, "{labels} {fields}");
    }

    #[test]
    fn selectors_match_as_kubectl_writes_them() {
        check("", "", true);
        check("app=web", "", true);
        check("app==web,n", "", true);
        check("app!=web", "", false);
        check("other!=web", "", true);
        check("app in (db, web),!gone", "", true);
        check("app notin (db,web)", "", false);
        check("gone notin (a)", "", true);
        check("gone in (a)", "", false);
        check("!app", "", false);
        check("n>4,n<6", "", true);
        check("", "metadata.name=a,spec.nodeName=n1", true);
        check("", "spec.nodeName!=n1", false);
        check("", "status.phase==Pending", false);
        check("", "spec.hostNetwork=false", true);
        check("", "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed", true);
        check("", "spec.nodeName!=n2,status.phase!=Running", false);
        check("", "spec.nodeName=", false);
        check("", "status.nominatedNodeName=", true);
    }

    #[test]
    fn what_cannot_be_selected_is_refused() {
        let pods = Resources::built_in().find("", "v1", "pods").unwrap();
        for (labels, fields) in [("a b", ""), ("a in b", ""), ("", "spec.other=1"), ("", "metadata.name")] {
            assert!(Selector::parse(&pods, None, labels, fields).is_err(), "{labels} {fields}");
        }
        let error = Selector::parse(&pods, None, "", "spec.other!=1").unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, "field label not supported: spec.other"));
    }
}
