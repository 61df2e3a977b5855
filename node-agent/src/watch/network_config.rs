//! What all nodes have in common, checked.

use kube::api::ObjectMeta;
use margay_api::resource::{NetworkConfig, NetworkConfigSpec};

use super::{Read, Told, guarded::Kind};
use crate::config::Sources;

/// The name of the one that counts.
pub(crate) const NAME: &str = "default";

/// What the agent needs to know of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkFacts {
    pub(crate) spec: NetworkConfigSpec,
    /// Why it cannot be taken with what else the agent was told; empty when it can.
    pub(crate) problems: Vec<String>,
    /// What its status says, and of what.
    pub(crate) told: Told,
}

impl Kind for NetworkConfig {}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &NetworkConfig, sources: &Sources) -> Read<NetworkFacts> {
    let name = key(&object.metadata);
    if name != NAME {
        let problem = format!("NetworkConfig {name}: only the one named {NAME} counts; it is passed over");
        return Read { value: None, problems: vec![problem] };
    }
    let refused = sources.settings(Some(&object.spec)).err();
    let describe =
        |error: anyhow::Error| format!("NetworkConfig {name}: {error:#}; the settings before it stay");
    let problems: Vec<String> = refused.map(describe).into_iter().collect();
    let conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let value = NetworkFacts {
        spec: object.spec.clone(),
        problems: problems.clone(),
        told: Told { generation: object.metadata.generation, conditions },
    };
    Read { value: Some(value), problems }
}
