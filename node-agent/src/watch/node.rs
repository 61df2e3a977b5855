//! Nodes: where they are and which pods' addresses are theirs.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node as Object;
use kube::api::ObjectMeta;

use super::Read;

/// What the agent needs to know of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its addresses of type `InternalIP`, in the order of the object.
    pub(crate) addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub(crate) pod_cidrs: Vec<IpNetwork>,
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

pub(super) fn read(object: &Object) -> Read<Node> {
    let name = key(&object.metadata);
    let mut problems = Vec::new();
    let mut addresses = Vec::new();
    let status = object.status.as_ref().and_then(|status| status.addresses.as_ref());
    for address in status.into_iter().flatten().filter(|address| address.type_ == "InternalIP") {
        match address.address.parse() {
            Ok(address) => addresses.push(address),
            Err(_not_an_address) => problems.push(format!(
                "Node {name}: status.addresses: `{}` is not an address; it is passed over",
                address.address
            )),
        }
    }
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
    Read { value: Some(Node { addresses, pod_cidrs }), problems }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn addresses_and_pod_cidrs_are_read_and_what_is_malformed_is_named() {
        let text = "{metadata: {name: n1}, spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, oops]},\
                    status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: x}]}}";
        let read = read(&serde_saphyr::from_str(text).unwrap());
        let node = read.value.unwrap();
        assert_eq!(node.address(true), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(node.address(false), None);
        assert_eq!(node.pod_cidrs, ["10.0.0.0/24".parse().unwrap()]);
        assert_eq!(read.problems.len(), 2, "{:?}", read.problems);
    }
}
