//! Namespaces: their labels, and the pools of their pods.

use k8s_openapi::api::core::v1::Namespace as Object;
use kube::api::ObjectMeta;
use margay_api::annotation;
use margay_policy::Namespace;

use super::Read;

/// What the agent needs to know of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamespaceFacts {
    /// For policy.
    pub(crate) namespace: Namespace,
    /// Its annotation [`annotation::POOLS`].
    pub(crate) pools: Option<String>,
}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &Object) -> Read<NamespaceFacts> {
    let annotations = object.metadata.annotations.as_ref();
    Read::clean(NamespaceFacts {
        namespace: Namespace {
            name: key(&object.metadata),
            labels: object.metadata.labels.clone().unwrap_or_default(),
        },
        pools: annotations.and_then(|all| all.get(annotation::POOLS).cloned()),
    })
}
