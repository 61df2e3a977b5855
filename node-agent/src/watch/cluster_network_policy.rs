//! Policies of the cluster, checked.

use kube::api::ObjectMeta;
use margay_policy::{ClusterPolicy, convert_cluster, v1alpha2::ClusterNetworkPolicy};

use super::{Read, guarded::Kind};

impl Kind for ClusterNetworkPolicy {}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &ClusterNetworkPolicy) -> Read<ClusterPolicy> {
    let (value, problems) = convert_cluster(object);
    Read { value, problems: problems.iter().map(ToString::to_string).collect() }
}
