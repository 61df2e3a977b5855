//! Packets to events: which pods, which policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use margay_api::{
    endpoint::HOST_IFNAME_PREFIX,
    monitor::{Direction, Dropped, MAX_POLICIES, Party, Pod, Policy, Reason, Verdict},
};
use margay_netlink::nflog::{Packet, Transport};
use margay_policy::{
    PolicyId,
    compile::{Compiler, Way},
};

use crate::{
    decide::State,
    program::nft::{Cause, Origin},
};

/// Who is to blame for what comes to a cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) way: Way,
    pub(crate) policies: Vec<PolicyId>,
}

impl Charge {
    /// As it is in force; `None` when what it is about is gone.
    pub(crate) fn of(compiler: &Compiler, origin: Origin, cause: Cause) -> Option<Self> {
        let (way, policies) = match origin {
            Origin::Isolation(set, way) => {
                let direction = compiler.set(set)?.way(way)?;
                let policies = match cause {
                    Cause::Drop => &direction.isolating,
                    Cause::Audit => &direction.audited,
                };
                (way, policies.iter().cloned().map(PolicyId::Network).collect())
            }
            Origin::Cluster(id) => {
                let (name, way) = compiler.cause(id)?;
                (way, vec![PolicyId::Cluster(name.to_owned())])
            }
            Origin::Midstream(way) | Origin::Unknown(way) | Origin::Tunnel(way) => (way, Vec::new()),
            Origin::Spoof => (Way::Egress, Vec::new()),
        };
        Some(Self { way, policies })
    }
}

/// A packet that the kernel told of.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// In RFC 3339.
    pub(crate) time: String,
    pub(crate) origin: Origin,
    pub(crate) cause: Cause,
    pub(crate) packet: Packet,
    /// The links that it came by and would have left by.
    pub(crate) in_link: Option<String>,
    pub(crate) out_link: Option<String>,
}

/// Gives packets their names.
pub(crate) fn named(state: &State, compiler: &Compiler, seen: Vec<Seen>) -> Vec<Dropped> {
    let ends = seen.iter().flat_map(|seen| [seen.packet.source, seen.packet.destination]);
    let namer = Namer::new(state, compiler, ends);
    seen.into_iter().map(|seen| event(state, compiler, &namer, seen)).collect()
}

/// Knows whose some addresses are.
pub(super) struct Namer<'a> {
    compiler: &'a Compiler,
    nodes: BTreeMap<IpAddr, &'a str>,
}

impl<'a> Namer<'a> {
    /// One pass for all of these addresses, as there may be thousands of nodes.
    pub(super) fn new(
        state: &'a State,
        compiler: &'a Compiler,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Self {
        let strangers: BTreeSet<IpAddr> =
            addresses.filter(|address| compiler.pod_at(*address).is_none()).collect();
        let all = state.objects().nodes.iter();
        let all = all.flat_map(|(name, node)| {
            let own = node.addresses.iter().chain(&node.tunnels);
            own.map(move |address| (*address, name.as_str()))
        });
        let nodes = all.filter(|(address, _)| strangers.contains(address)).collect();
        Self { compiler, nodes }
    }

    /// Who has one of them.
    pub(super) fn party(&self, address: IpAddr) -> Party {
        let pod = self.compiler.pod_at(address);
        let pod = pod.map(|pod| Pod { namespace: pod.namespace.to_string(), name: pod.name.to_string() });
        let node = if pod.is_none() { self.nodes.get(&address).map(|name| (*name).to_owned()) } else { None };
        Party { address, pod, node }
    }
}

fn event(state: &State, compiler: &Compiler, namer: &Namer<'_>, seen: Seen) -> Dropped {
    let Seen { time, origin, cause, packet, in_link, out_link } = seen;
    let of_pod = |link: &Option<String>| link.clone().filter(|link| link.starts_with(HOST_IFNAME_PREFIX));
    let charge = Charge::of(compiler, origin, cause);
    let way = match (&charge, origin) {
        (Some(charge), _) => charge.way,
        (None, Origin::Isolation(_, way) | Origin::Tunnel(way)) => way,
        // That of a policy which is gone by now.
        (None, _) if of_pod(&out_link).is_some() => Way::Ingress,
        (None, _) => Way::Egress,
    };
    let interface = of_pod(if way == Way::Egress { &in_link } else { &out_link });
    let (mut source, mut destination) = (namer.party(packet.source), namer.party(packet.destination));
    if matches!(origin, Origin::Spoof | Origin::Unknown(_)) {
        // Not the address says whose it is, but the link.
        let own = if way == Way::Egress { &mut source } else { &mut destination };
        own.pod = interface.as_ref().and_then(|name| pod_behind(state, name));
        own.node = None;
    }
    let mut policies = charge.map(|charge| charge.policies).unwrap_or_default();
    let more_policies = policies.len().saturating_sub(MAX_POLICIES);
    policies.truncate(MAX_POLICIES);
    let (source_port, destination_port) = match packet.transport {
        Transport::Ports { source, destination } => (Some(source), Some(destination)),
        Transport::Icmp { .. } | Transport::Unknown => (None, None),
    };
    let (icmp_type, icmp_code) = match packet.transport {
        Transport::Icmp { kind, code } => (Some(kind), Some(code)),
        Transport::Ports { .. } | Transport::Unknown => (None, None),
    };
    Dropped {
        time,
        node: state.node_name().to_owned(),
        verdict: match cause {
            Cause::Drop => Verdict::Drop,
            Cause::Audit => Verdict::Audit,
        },
        direction: direction(way),
        reason: match origin {
            Origin::Isolation(..) => Reason::Isolation,
            Origin::Cluster(_) => Reason::Cluster,
            Origin::Midstream(_) => Reason::Midstream,
            Origin::Unknown(_) => Reason::Unknown,
            Origin::Spoof => Reason::Spoof,
            Origin::Tunnel(_) => Reason::Tunnel,
        },
        source,
        destination,
        protocol: protocol(packet.protocol),
        source_port,
        destination_port,
        icmp_type,
        icmp_code,
        policies: policies.into_iter().map(policy).collect(),
        more_policies,
        interface,
    }
}

/// The pod that a link's record names, whether the API knows it or not.
fn pod_behind(state: &State, link: &str) -> Option<Pod> {
    let id = link.strip_prefix(HOST_IFNAME_PREFIX)?.parse().ok()?;
    let pod = state.endpoint(&id)?.pod.as_ref()?;
    Some(Pod { namespace: pod.namespace.clone(), name: pod.name.clone() })
}

pub(super) fn policy(policy: PolicyId) -> Policy {
    match policy {
        PolicyId::Network(name) => {
            Policy { kind: "NetworkPolicy".into(), namespace: Some(name.namespace), name: name.name }
        }
        PolicyId::Cluster(name) => Policy { kind: "ClusterNetworkPolicy".into(), namespace: None, name },
    }
}

pub(super) fn direction(way: Way) -> Direction {
    match way {
        Way::Ingress => Direction::Ingress,
        Way::Egress => Direction::Egress,
    }
}

/// Protocol numbers (RFC 5237).
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

pub(super) fn protocol(number: u8) -> String {
    let name = match number {
        ICMP => "ICMP",
        6 => "TCP",
        17 => "UDP",
        ICMPV6 => "ICMPv6",
        132 => "SCTP",
        other => return other.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

    use margay_api::{
        endpoint::{Endpoint, EndpointId, PodRef},
        monitor::{Direction, Dropped, MAX_POLICIES, Reason, Verdict},
    };
    use margay_netlink::nflog::{Packet, Transport};
    use margay_policy::{
        Node, PodName,
        compile::{CauseId, Compiler, PolicySetId, Touched, Way},
        convert, convert_cluster, convert_pod,
    };

    use super::{Seen, named};
    use crate::{
        decide::State,
        program::nft::{Cause, Origin},
        watch::{ApiEvent, Change, NodeFacts, PodFacts},
    };

    const POD: &str = "192.0.2.7";
    const OUTSIDE: &str = "203.0.113.1";
    const NODE: &str = "198.51.100.2";
    const TUNNEL: &str = "10.244.2.0";

    /// The pod x/p, which more policies isolate than an event names, and which one of the cluster forbids to send.
    fn world() -> (State, Compiler) {
        let mut state = State::new("n1".into());
        let text = format!(
            "{{metadata: {{namespace: x, name: p}}, spec: {{containers: []}}, status: {{podIP: {POD}}}}}"
        );
        let (pod, _) = convert_pod(&serde_saphyr::from_str(&text).unwrap());
        let facts =
            PodFacts { uid: "u".into(), static_uid: None, announced: None, wish: None, pod: Arc::new(pod) };
        state.apply(ApiEvent::Pods(Change::Applied(PodName::new("x", "p"), facts)));
        let [addresses, tunnels] = [NODE, TUNNEL].map(|text| vec![text.parse().unwrap()]);
        let peer = Node { addresses, tunnels, ..Node::default() };
        let facts = NodeFacts { peer, ..NodeFacts::default() };
        state.apply(ApiEvent::Nodes(Change::Applied("n2".into(), facts)));
        for number in 0..MAX_POLICIES + 3 {
            let text =
                format!("{{metadata: {{namespace: x, name: a{number:02}}}, spec: {{podSelector: {{}}}}}}");
            let policy = convert(&serde_saphyr::from_str(&text).unwrap()).0.unwrap();
            state.apply(ApiEvent::Policies(Change::Applied(policy.name.clone(), policy)));
        }
        let text = "{metadata: {name: c}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}}";
        let policy = convert_cluster(&serde_saphyr::from_str(text).unwrap()).0.unwrap();
        state.apply(ApiEvent::ClusterPolicies(Change::Applied("c".into(), policy)));
        let mut compiler = Compiler::default();
        compiler.update(state.objects(), |_| true, &Touched::everything(state.objects()));
        (state, compiler)
    }

    fn link() -> String {
        EndpointId::of("p", "eth0").host_ifname()
    }

    fn check(origin: Origin, [source, destination]: [&str; 2], expected: impl Fn(&Dropped)) {
        let (mut state, compiler) = world();
        let id = EndpointId::of("p", "eth0");
        let endpoint = Endpoint {
            container_id: "p".into(),
            ifname: "eth0".into(),
            network: "margay".into(),
            netns: String::new(),
            host_ifname: link(),
            mac: String::new(),
            host_mac: String::new(),
            addresses: vec![POD.parse().unwrap()],
            mtu: 1500,
            pod: Some(PodRef { namespace: "x".into(), name: "p".into(), uid: None }),
        };
        state.set_endpoints(BTreeMap::from([(id, endpoint)]));
        let [source, destination] = [source, destination].map(|text| text.parse::<IpAddr>().unwrap());
        let transport = Transport::Ports { source: 1, destination: 2 };
        let packet = Packet { source, destination, protocol: 47, transport };
        let (in_link, out_link) = (Some(link()), Some("eth0".to_owned()));
        let seen = Seen { time: "now".into(), origin, cause: Cause::Drop, packet, in_link, out_link };
        let events = named(&state, &compiler, vec![seen]);
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!(
            (event.node.as_str(), event.protocol.as_str(), event.verdict),
            ("n1", "47", Verdict::Drop)
        );
        expected(event);
    }

    #[test]
    fn ends_have_the_names_of_pods_and_nodes_and_strangers_their_addresses() {
        check(Origin::Isolation(PolicySetId(1), Way::Ingress), [NODE, POD], |event| {
            assert_eq!(event.source.node.as_deref(), Some("n2"));
            assert_eq!(event.destination.pod.as_ref().unwrap().to_string(), "x/p");
            assert_eq!((event.policies.len(), event.more_policies), (MAX_POLICIES, 3));
            assert_eq!((event.direction, event.interface.as_ref()), (Direction::Ingress, None));
        });
        check(Origin::Isolation(PolicySetId(1), Way::Ingress), [TUNNEL, POD], |event| {
            assert_eq!(event.source.node.as_deref(), Some("n2"), "through a tunnel");
        });
        check(Origin::Cluster(CauseId(1)), [POD, OUTSIDE], |event| {
            assert_eq!((&event.destination.pod, &event.destination.node), (&None, &None));
            assert_eq!(event.policies[0].to_string(), "ClusterNetworkPolicy c");
            assert_eq!((event.direction, event.interface.as_ref()), (Direction::Egress, Some(&link())));
        });
    }

    #[test]
    fn who_sends_as_another_is_known_by_the_link() {
        check(Origin::Spoof, [NODE, OUTSIDE], |event| {
            assert_eq!((event.reason, event.direction), (Reason::Spoof, Direction::Egress));
            assert_eq!(event.source.pod.as_ref().unwrap().to_string(), "x/p");
            assert_eq!((&event.source.node, event.policies.len()), (&None, 0));
        });
    }

    #[test]
    fn a_packet_of_a_policy_that_is_gone_still_has_its_ends_and_direction() {
        for origin in [Origin::Cluster(CauseId(7)), Origin::Isolation(PolicySetId(7), Way::Egress)] {
            check(origin, [POD, OUTSIDE], |event| {
                assert_eq!((event.direction, event.policies.len()), (Direction::Egress, 0));
                assert_eq!(event.source.pod.as_ref().unwrap().to_string(), "x/p");
            });
        }
    }
}
