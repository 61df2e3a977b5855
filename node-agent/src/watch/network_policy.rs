//! Network policies, checked.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ObjectMeta;
use margay_policy::{Policy, PolicyRef, convert};

use super::{Read, guarded::Kind};

impl Kind for NetworkPolicy {}

pub(super) fn key(meta: &ObjectMeta) -> PolicyRef {
    PolicyRef {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

pub(super) fn read(object: &NetworkPolicy) -> Read<Policy> {
    let (value, problems) = convert(object);
    Read { value, problems: problems.iter().map(ToString::to_string).collect() }
}
