//! `IPBlock`: the part of a pool that one node hands out.
#![expect(clippy::duplicated_attributes, reason = "columns are of the same types")]
#![expect(unreachable_pub, reason = "the derive of the schema repeats the type inside of a function")]

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A block of addresses that one node hands out. Its name says its range, so that only one can be made of it.
#[derive(Debug, Clone, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "margay.dev",
    version = "v1alpha1",
    kind = "IPBlock",
    plural = "ipblocks",
    singular = "ipblock",
    category = "margay",
    status = "IPBlockStatus",
    doc = "IPBlock is a block of addresses that one node hands out. Agents create and delete it; its owner is the node.",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct IPBlockSpec {
    /// The range.
    #[schemars(length(min = 4, max = 49))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the range of a block does not change"))]
    pub cidr: String,
    /// The pool that it was claimed from.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the pool of a block does not change"))]
    pub pool: String,
    /// The node that has it.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a block does not go from node to node"))]
    pub node: String,
}

/// What is wrong with a block, if anything is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPBlockStatus {
    /// `Conflict`: another node still has pods with addresses of this block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl IPBlock {
    /// The name of the object for a range: `10-244-1-0-26`, `fd00-0010-0244-0000-0000-0000-0000-0040-122`. IPv6
    /// addresses are written out, because `::` makes no name (RFC 1123).
    pub fn name_of(network: IpNetwork) -> String {
        let address = match network.network() {
            IpAddr::V4(address) => address.octets().map(|octet| octet.to_string()).join("-"),
            IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:04x}")).join("-"),
        };
        format!("{address}-{}", network.prefix())
    }
}

#[cfg(test)]
mod tests {
    use super::IPBlock;

    #[test]
    fn a_range_has_one_name_that_an_object_can_have() {
        for (network, name) in [
            ("10.244.1.0/26", "10-244-1-0-26"),
            ("10.244.1.63/26", "10-244-1-0-26"),
            ("fd00:10::40/122", "fd00-0010-0000-0000-0000-0000-0000-0040-122"),
        ] {
            assert_eq!(IPBlock::name_of(network.parse().unwrap()), name);
        }
    }
}
