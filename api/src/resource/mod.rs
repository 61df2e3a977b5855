//! The custom resources of group `margay.dev`.
//!
//! The types are the source: `margay-node crds` prints their definitions, which `manifests/base/crds.yaml` holds.

mod bgp_configuration;
mod bgp_node_status;
mod bgp_peer;
mod ip_block;
mod ip_pool;
mod network_config;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::CustomResourceExt;

pub use bgp_configuration::{
    Announcement, BGPConfiguration, BGPConfigurationSpec, BGPConfigurationStatus, Bfd, GracefulRestart, Mesh,
    ServiceAddresses,
};
pub use bgp_node_status::{BGPNodeStatus, BGPNodeStatusSpec, BGPSession, BGPSessions};
pub use bgp_peer::{
    AddPath, AddPathDirection, AddressFamily, AtLimit, BGPPeer, BGPPeerSpec, BGPPeerStatus, Filter,
    FilterAction, FilterDefault, FilterMatch, FilterRule, FilterSet, MaxPrefixes, PasswordSource,
    PrefixRange, RouteSource, SecretKey,
};
pub use ip_block::{IPBlock, IPBlockSpec, IPBlockStatus};
pub use ip_pool::{AssignmentMode, Encapsulation, IPPool, IPPoolSpec, IPPoolStatus};
pub use network_config::{
    NetworkConfig, NetworkConfigEbpf, NetworkConfigIpam, NetworkConfigNodeAddress, NetworkConfigOverlay,
    NetworkConfigSelfTest, NetworkConfigSpec, NetworkConfigStatus, NodeAddressMethod,
};

/// The definitions of all kinds, in the order of their names.
pub fn definitions() -> [CustomResourceDefinition; 6] {
    [
        BGPConfiguration::crd(),
        BGPNodeStatus::crd(),
        BGPPeer::crd(),
        IPBlock::crd(),
        IPPool::crd(),
        NetworkConfig::crd(),
    ]
}

/// Sets a condition as the API conventions ask: the time of its last change stays while the status does.
pub fn set_condition(conditions: &mut Vec<Condition>, mut condition: Condition) {
    match conditions.iter_mut().find(|present| present.type_ == condition.type_) {
        Some(present) => {
            if present.status == condition.status {
                condition.last_transition_time = present.last_transition_time.clone();
            }
            *present = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::definitions;

    #[test]
    fn the_definitions_in_the_manifests_are_those_of_the_types() {
        let checked_in: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(include_str!("../../../manifests/base/crds.yaml")).unwrap();
        let types = definitions().map(|definition| serde_json::to_value(definition).unwrap());
        assert!(checked_in == types, "manifests/base/crds.yaml is not of these types: run `make manifests`");
    }

    #[test]
    fn what_a_schema_cannot_say_is_said_by_a_rule() {
        let text = serde_json::to_string(&definitions()).unwrap();
        for rule in ["self == oldSelf", "self.blockSize", "x-kubernetes-validations"] {
            assert!(text.contains(rule), "{rule}");
        }
    }
}
