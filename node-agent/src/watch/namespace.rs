//! Namespaces: their labels.

use k8s_openapi::api::core::v1::Namespace as Object;
use kube::api::ObjectMeta;
use margay_policy::Namespace;

use super::Read;

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &Object) -> Read<Namespace> {
    Read::clean(Namespace {
        name: key(&object.metadata),
        labels: object.metadata.labels.clone().unwrap_or_default(),
    })
}
