//! Namespaces: their labels, and what their annotations ask for.

use k8s_openapi::api::core::v1::Namespace as Object;
use kube::core::ObjectMeta;
use margay_api::annotation;
use margay_policy::Namespace;

use super::{
    Read,
    guarded::{Field, Kind, METADATA},
};

/// What the agent needs to know of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamespaceFacts {
    /// For policy.
    pub(crate) namespace: Namespace,
    /// Its annotation [`annotation::POOLS`].
    pub(crate) pools: Option<String>,
    /// Its annotation [`annotation::LOG_DROPS`] is on.
    pub(crate) logs_drops: bool,
}

impl Kind for Object {
    const FIELDS: &'static [Field] = &[METADATA];
    const METADATA_ONLY: bool = true;
}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &Object) -> Read<NamespaceFacts> {
    let annotations = object.metadata.annotations.as_ref();
    let name = key(&object.metadata);
    let switch = annotations.and_then(|all| all.get(annotation::LOG_DROPS));
    let (logs_drops, problems) = match switch.map(|value| annotation::log_drops(value)).transpose() {
        Ok(switch) => (switch.unwrap_or_default(), Vec::new()),
        Err(error) => (false, vec![format!("Namespace {name}: {error}; it is passed over")]),
    };
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let pools = annotations.and_then(|all| all.get(annotation::POOLS).cloned());
    let facts = NamespaceFacts { namespace: Namespace { name, labels }, pools, logs_drops };
    Read { value: Some(facts), problems }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn drops_are_logged_where_the_annotation_says_so_and_a_wrong_one_is_named() {
        let check = |annotations: &str, expected: bool, problem: &str| {
            let text = format!("{{metadata: {{name: x, annotations: {{{annotations}}}}}}}");
            let read = read(&serde_saphyr::from_str(&text).unwrap());
            assert_eq!(read.value.unwrap().logs_drops, expected, "{annotations}");
            let problems = read.problems.join("; ");
            assert!(problems.starts_with(problem) && problem.is_empty() == problems.is_empty(), "{problems}");
        };
        check("", false, "");
        check("margay.dev/log-drops: 'true'", true, "");
        check("margay.dev/log-drops: 'false'", false, "");
        check("margay.dev/log-drops: 'on'", false, "Namespace x: annotation margay.dev/log-drops is `on`");
    }
}
