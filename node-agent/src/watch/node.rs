//! Nodes: where they are and which pods' addresses are theirs.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node as Object;
use kube::api::ObjectMeta;
use margay_policy::convert_node;

use super::Read;

/// What the API says of a node, for those who need it: policy has a form of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// For the node's configuration, its pods and BGP.
    pub(crate) node: Node,
    /// For policy.
    pub(crate) peer: margay_policy::Node,
}

/// What the agent needs to know of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its addresses of type `InternalIP`, in the order of the object.
    pub(crate) addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub(crate) pod_cidrs: Vec<IpNetwork>,
    /// Whether its condition `Ready` is true.
    pub(crate) ready: bool,
    /// Of the own node only: of the others nobody asks for it but policy, which has the labels.
    pub(crate) identity: Option<Identity>,
}

/// What pools and blocks need to know of the own node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.labels`.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Node {
    /// Its first address of a family.
    pub(crate) fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == is_ipv4)
    }
}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &Object, own: &str) -> Read<NodeFacts> {
    let name = key(&object.metadata);
    // Addresses that are none are among its problems.
    let (peer, mut problems) = convert_node(object);
    let status = object.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True");
    let listed = status.and_then(|status| status.addresses.as_ref());
    let internal = listed.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    let addresses = internal.filter_map(|address| address.address.parse().ok()).collect();
    let spec = object.spec.as_ref();
    // Objects of old servers have the singular only.
    let cidrs = spec.map(|spec| match (&spec.pod_cidrs, &spec.pod_cidr) {
        (Some(cidrs), _) if !cidrs.is_empty() => cidrs.clone(),
        (_, cidr) => cidr.iter().cloned().collect(),
    });
    let mut pod_cidrs = Vec::new();
    for text in cidrs.into_iter().flatten() {
        match text.parse::<IpNetwork>() {
            Ok(network) => pod_cidrs.push(network),
            Err(error) => {
                problems.push(format!("Node {name}: spec.podCIDRs: `{text}`: {error}; it is passed over"));
            }
        }
    }
    let identity = (name == own).then(|| Identity {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
    });
    let node = Node { addresses, pod_cidrs, ready, identity };
    Read { value: Some(NodeFacts { node, peer }), problems }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{NodeFacts, read};

    #[test]
    fn addresses_and_pod_cidrs_are_read_and_what_is_malformed_is_named() {
        let text = "{metadata: {name: n1, uid: u, labels: {rack: r1}}, spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, oops]},\
                    status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 198.51.100.1}, {type: InternalIP, address: x}],\
                    conditions: [{type: Ready, status: 'True'}]}}";
        let object = serde_saphyr::from_str(text).unwrap();
        assert_eq!(read(&object, "n2").value.unwrap().node.identity, None);
        let read = read(&object, "n1");
        let NodeFacts { node, peer } = read.value.unwrap();
        assert!(node.ready);
        assert_eq!(peer.labels["rack"], "r1");
        assert_eq!(peer.addresses, ["192.0.2.1", "198.51.100.1"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(node.identity.as_ref().unwrap().labels["rack"], "r1");
        assert_eq!(node.address(true), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(node.address(false), None);
        assert_eq!(node.pod_cidrs, ["10.0.0.0/24".parse().unwrap()]);
        assert_eq!(read.problems.len(), 2, "{:?}", read.problems);
    }

    #[test]
    fn a_heartbeat_changes_nothing() {
        let at = |time: &str| {
            let text = format!(
                "{{metadata: {{name: n1, labels: {{rack: r1}}}}, status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}],\
                 conditions: [{{type: Ready, status: 'True', lastHeartbeatTime: '{time}'}}], images: [{{names: ['{time}']}}]}}}}"
            );
            read(&serde_saphyr::from_str(&text).unwrap(), "n1").value
        };
        assert_eq!(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:05:00Z"));
    }
}
