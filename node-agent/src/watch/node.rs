//! Nodes: where they are and which pods' addresses are theirs.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node as Object;
use kube::core::ObjectMeta;
use margay_api::{
    annotation::{self, BGP_ASN, BGP_ROUTER_ID, NODE_IPS, TUNNELS_RECEIVED, TUNNELS_SENT},
    label::{EXCLUDE_FROM_LOAD_BALANCERS, ROUTE_REFLECTOR},
};
use margay_bgp::{Asn, BgpIdentifier};
use margay_policy::convert_node;

use super::{
    Read,
    guarded::{Field, Kind, METADATA},
};
use crate::{program::network_condition, tunnels::Tunnels};

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
    /// Where others reach it: what its agent has chosen, else its addresses of type `InternalIP`, in the order of the object.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its addresses of type `InternalIP` in whose place its agent has chosen another.
    pub(crate) passed_over: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub(crate) pod_cidrs: Vec<IpNetwork>,
    /// Whether its condition `Ready` is true.
    pub(crate) ready: bool,
    /// What its annotations and labels say of BGP.
    pub(crate) bgp: BgpFacts,
    /// What it says of its tunnels, if anything.
    pub(crate) tunnels: Option<Tunnels>,
    /// Of the own node only: of the others nobody asks for it but policy, which has the labels.
    pub(crate) identity: Option<Box<Identity>>,
}

/// What annotations and labels of a node say of BGP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BgpFacts {
    /// [`BGP_ASN`].
    pub(crate) asn: Option<Asn>,
    /// [`BGP_ROUTER_ID`].
    pub(crate) router_id: Option<BgpIdentifier>,
    /// [`ROUTE_REFLECTOR`]: the cluster that the node reflects routes for.
    pub(crate) reflects_for: Option<Ipv4Addr>,
    /// [`EXCLUDE_FROM_LOAD_BALANCERS`], with whatever value.
    pub(crate) is_excluded: bool,
    /// What is wrong with them.
    pub(crate) problems: Vec<String>,
}

/// What is known of the own node alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.labels`.
    pub(crate) labels: BTreeMap<String, String>,
    /// [`NODE_IPS`], as it is.
    pub(crate) node_ips: Option<String>,
    /// [`TUNNELS_RECEIVED`] and [`TUNNELS_SENT`], as they are.
    pub(crate) tunnels: [Option<String>; 2],
    /// Of its conditions those that are the agent's, by type: status, reason and message.
    pub(crate) conditions: BTreeMap<&'static str, [String; 3]>,
}

/// The images that a node has are most of its object.
impl Kind for Object {
    const FIELDS: &'static [Field] = &[
        METADATA,
        Field::with("spec", &[Field::whole("podCIDR"), Field::whole("podCIDRs")]),
        Field::with("status", &[Field::whole("addresses"), Field::whole("conditions")]),
    ];
}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &Object, own: &str) -> Read<NodeFacts> {
    let name = key(&object.metadata);
    // Addresses that are none are among its problems.
    let (mut peer, mut problems) = convert_node(object);
    let status = object.status.as_ref();
    let conditions = || status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = conditions().any(|it| it.type_ == "Ready" && it.status == "True");
    let listed = status.and_then(|status| status.addresses.as_ref());
    let internal = listed.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    let internal: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
    let annotations = object.metadata.annotations.as_ref();
    let node_ips = annotations.and_then(|all| all.get(NODE_IPS));
    let chosen = match node_ips.map(|text| annotation::node_ips(text)).transpose() {
        Ok(chosen) => chosen.unwrap_or_default(),
        Err(error) => {
            problems.push(format!("Node {name}: {error}; it is passed over"));
            Vec::new()
        }
    };
    let addresses = annotation::reached_at(&chosen, &internal);
    let passed_over = internal.into_iter().filter(|address| !addresses.contains(address)).collect();
    // For policy it has them all: which one it sends from is the kernel's choice.
    for address in chosen {
        if !peer.addresses.contains(&address) {
            peer.addresses.push(address);
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
    // Where blocks are claimed these are of no meaning, and who knows the blocks has others in their place.
    peer.tunnels = pod_cidrs.iter().map(IpNetwork::network).collect();
    let bgp = bgp(&name, &object.metadata);
    problems.extend(bgp.problems.iter().cloned());
    let tunnels = [TUNNELS_RECEIVED, TUNNELS_SENT].map(|key| annotations.and_then(|all| all.get(key)));
    let identity = || Identity {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        node_ips: node_ips.cloned(),
        tunnels: tunnels.map(Option::<&String>::cloned),
        conditions: conditions()
            .filter_map(|it| {
                let kind = network_condition::KINDS.into_iter().find(|kind| *kind == it.type_)?;
                let said = [Some(it.status.clone()), it.reason.clone(), it.message.clone()];
                Some((kind, said.map(Option::unwrap_or_default)))
            })
            .collect(),
    };
    let identity = (name == own).then(|| Box::new(identity()));
    let tunnels = Tunnels::read(tunnels.map(|text| text.map(String::as_str)));
    let node = Node { addresses, passed_over, pod_cidrs, ready, bgp, tunnels, identity };
    Read { value: Some(NodeFacts { node, peer }), problems }
}

/// What is not of its form counts as not there.
fn bgp(name: &str, meta: &ObjectMeta) -> BgpFacts {
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key));
    let label = |key: &str| meta.labels.as_ref().and_then(|all| all.get(key));
    let mut facts =
        BgpFacts { is_excluded: label(EXCLUDE_FROM_LOAD_BALANCERS).is_some(), ..BgpFacts::default() };
    let mut wrong = |kind: &str, key: &str, text: &str, expected: &str| {
        let problem =
            format!("Node {name}: {kind} {key} is `{text}`: expected {expected}; it is passed over");
        facts.problems.push(problem);
    };
    if let Some(text) = annotation(BGP_ASN) {
        facts.asn = text.parse().ok();
        if facts.asn.is_none() {
            wrong("annotation", BGP_ASN, text, "an AS number from 1 to 4294967295");
        }
    }
    if let Some(text) = annotation(BGP_ROUTER_ID) {
        facts.router_id = text.parse().ok().and_then(BgpIdentifier::new);
        if facts.router_id.is_none() {
            wrong("annotation", BGP_ROUTER_ID, text, "the form of an IPv4 address other than 0.0.0.0");
        }
    }
    if let Some(text) = label(ROUTE_REFLECTOR) {
        let number = || text.parse::<u32>().ok().map(Ipv4Addr::from);
        facts.reflects_for =
            text.parse().ok().or_else(number).filter(|cluster: &Ipv4Addr| !cluster.is_unspecified());
        if facts.reflects_for.is_none() {
            wrong("label", ROUTE_REFLECTOR, text, "a cluster such as 192.0.2.1, or a number from 1");
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{NodeFacts, read};
    use crate::tunnels::Tunnels;

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
        assert_eq!(node.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(node.pod_cidrs, ["10.0.0.0/24".parse().unwrap()]);
        assert_eq!(peer.tunnels, ["10.0.0.0".parse::<IpAddr>().unwrap()]);
        assert_eq!(read.problems.len(), 2, "{:?}", read.problems);
    }

    #[test]
    fn a_node_is_where_its_agent_says_and_policy_knows_it_by_all_its_addresses() {
        let read = |annotation: &str| {
            let text = format!(
                "{{metadata: {{name: n1, annotations: {{margay.dev/node-ips: '{annotation}'}}}},\
                 status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}, {{type: InternalIP, address: 2001:db8::1}}]}}}}"
            );
            read(&serde_saphyr::from_str(&text).unwrap(), "n1")
        };
        let all =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let found = read("198.51.100.1");
        let NodeFacts { node, peer } = found.value.unwrap();
        assert_eq!(node.addresses, all(&["198.51.100.1", "2001:db8::1"]));
        assert_eq!(node.passed_over, all(&["192.0.2.1"]));
        assert_eq!(peer.addresses, all(&["192.0.2.1", "2001:db8::1", "198.51.100.1"]));
        assert_eq!(node.identity.unwrap().node_ips.as_deref(), Some("198.51.100.1"));
        let found = read("eth1");
        assert_eq!(found.value.unwrap().node.addresses, all(&["192.0.2.1", "2001:db8::1"]));
        assert!(found.problems[0].contains("margay.dev/node-ips is `eth1`"), "{:?}", found.problems);
    }

    #[test]
    fn what_a_node_says_of_its_tunnels_is_read_as_written_and_kinds_that_nobody_knows_are_passed_over() {
        let read = |annotations: &str| {
            let text = format!("{{metadata: {{name: n1, annotations: {{{annotations}}}}}}}");
            read(&serde_saphyr::from_str(&text).unwrap(), "n2").value.unwrap().node.tunnels
        };
        let said = |received: &str, sent: &str| {
            read(&format!("margay.dev/tunnels-received: '{received}', margay.dev/tunnels-sent: '{sent}'"))
        };
        assert_eq!(read(""), None);
        assert_eq!(read("margay.dev/tunnels-received: VXLAN"), None);
        assert_eq!(said("", ""), Some(Tunnels::default()));
        for (received, sent) in [("VXLAN,IPIP", "IPIP"), ("VXLAN", ""), ("", "VXLAN")] {
            assert_eq!(said(received, sent).unwrap().written(), [received, sent]);
        }
        assert_eq!(said("Geneve,IPIP", "").unwrap().written(), ["IPIP", ""]);
    }

    #[test]
    fn annotations_and_labels_about_bgp_are_read_and_what_is_malformed_is_named() {
        let read = |annotations: &str, labels: &str| {
            let text =
                format!("{{metadata: {{name: n1, annotations: {{{annotations}}}, labels: {{{labels}}}}}}}");
            let read = read(&serde_saphyr::from_str(&text).unwrap(), "n2");
            (read.value.unwrap().node.bgp, read.problems)
        };
        let (facts, problems) = read(
            "margay.dev/bgp-asn: '64501', margay.dev/bgp-router-id: 192.0.2.77",
            "margay.dev/route-reflector: '7', node.kubernetes.io/exclude-from-external-load-balancers: ''",
        );
        assert_eq!(facts.asn.unwrap().number(), 64501);
        assert_eq!(facts.router_id.unwrap().octets(), [192, 0, 2, 77]);
        assert_eq!(facts.reflects_for, Some("0.0.0.7".parse().unwrap()));
        assert!(facts.is_excluded && problems.is_empty(), "{problems:?}");
        let (facts, problems) = read(
            "margay.dev/bgp-asn: '0', margay.dev/bgp-router-id: 0.0.0.0",
            "margay.dev/route-reflector: 'true'",
        );
        assert_eq!((facts.asn, facts.router_id, facts.reflects_for), (None, None, None));
        let named = ["margay.dev/bgp-asn is `0`", "bgp-router-id is `0.0.0.0`", "route-reflector is `true`"];
        assert!(named.iter().all(|word| problems.iter().any(|it| it.contains(word))), "{problems:?}");
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
