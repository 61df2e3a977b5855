//! A node with the links of its pods, which hears of a cluster and judges packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use aya::programs::{TestRun, TestRunOptions};
use margay_api::endpoint::{Endpoint, EndpointId, PodRef};
use margay_ebpf_common::endpoint::FRAMES;
use margay_netlink::{
    Socket,
    link::IfIndex,
    route::{self, Kind, NextHop, Protocol as Origin, Route},
};
use margay_policy::{
    Objects, Pod, PodName, Protocol,
    compile::Touched,
    evaluate::{Flow, evaluate, evaluate_audited},
};
use proptest::{prelude::TestCaseError, prop_assert_eq};

use super::{Sent, arbitrary::Event, link::Link, packet};
use crate::{
    config::Bgp,
    decide::{Decider, Decision, State},
    program::{
        ebpf::{
            Attachments,
            driver::{Driver, Loaded},
            hook::Hook,
            links::{Attached, Programs},
            sizes::Sizes,
        },
        nft,
    },
    traffic::Traffic,
    watch::{ApiEvent, Change, NamespaceFacts, Node as NodeObject, NodeFacts, PodFacts},
};

const OWN: &str = "own";
/// Where pods' addresses are from. Some of the cluster are in none of these.
const BLOCKS: [(&str, [&str; 2]); 2] =
    [(OWN, ["10.0.0.0/29", "2001:db8::/125"]), ("other", ["10.0.0.8/31", "2001:db8::8/127"])];
/// Ports that flows may come from: no two of one test are of one flow.
const PORTS: std::ops::Range<u16> = 1024..60_000;

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_REDIRECT: u32 = 7;
const TC_ACT_SHOT: u32 = 2;
/// Offset in `__sk_buff` (`linux/bpf.h`), and its size.
const IFINDEX: usize = 40;
const CONTEXT: usize = 192;

/// What the programs do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Stack,
    Short,
    Dropped,
}

/// Packets that were seen to be judged, by what became of them.
type Seen = [(&'static str, u64); 7];

pub(super) struct Node {
    /// As the random events leave them.
    objects: Objects,
    local: BTreeSet<PodName>,
    state: State,
    decider: Decider,
    table: nft::Driver,
    maps: Driver,
    programs: Programs,
    /// Of all pods that may ever be here.
    links: BTreeMap<PodName, Link>,
    uplink: Link,
    socket: Socket,
    routes: BTreeMap<IpAddr, IfIndex>,
    port: u16,
    pub(super) seen: Seen,
}

impl Node {
    /// In a network namespace of the test's own, with its bpf file system.
    pub(super) fn new(bpf_fs: &Path) -> Self {
        for (setting, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
        }
        let mut socket = Socket::open().unwrap();
        let uplink = Link::new(&mut socket, "uplink");
        for family in ["0.0.0.0", "::"] {
            let everywhere = route::everything(family.parse().unwrap());
            socket.execute(&route::replace(&route_by(everywhere, uplink.index))).unwrap();
        }
        let names = ["x", "y"]
            .into_iter()
            .flat_map(|namespace| ["a", "b", "c", "d"].map(|name| PodName::new(namespace, name)));
        let links = names.map(|name| {
            let link = Link::new(&mut socket, &EndpointId::of(&name.to_string(), "eth0").host_ifname());
            (name, link)
        });
        let links = links.collect();
        let Loaded { driver, programs, .. } = Driver::load(bpf_fs, &Sizes::default(), &[]).unwrap();
        Self {
            objects: Objects::default(),
            local: BTreeSet::new(),
            state: State::new(OWN.into()),
            decider: Decider::default(),
            table: nft::Driver::new(),
            maps: driver,
            programs,
            links,
            uplink,
            socket,
            routes: BTreeMap::new(),
            port: PORTS.start,
            seen: [
                ("short to a pod of the node", 0),
                ("short to another node", 0),
                ("short from another node", 0),
                ("allowed, and told of", 0),
                ("dropped by the programs", 0),
                ("denied on its way out", 0),
                ("denied on its way in", 0),
            ],
        }
    }

    /// Another agent begins, in another cluster, over what the one before has left.
    pub(super) fn restart(&mut self) {
        self.objects = Objects::default();
        self.local = BTreeSet::new();
        // So that there is something to judge from the first packet on, whatever happens to them then.
        for (host, name) in (0_u8..).zip(self.links.keys()) {
            let is_local = &*name.namespace == "x";
            // Those of another node are from its block.
            let host = if is_local { host } else { host + 4 };
            let labels = [("k", host % 2), ("l", host / 2 % 2)];
            let pod = Pod {
                name: name.clone(),
                labels: Arc::new(labels.map(|(key, value)| (key.to_owned(), value.to_string())).into()),
                addresses: vec![
                    [10, 0, 0, host].into(),
                    [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)].into(),
                ],
                announced: Vec::new(),
                ports: Vec::new(),
                host_network: false,
                finished: false,
                terminating: false,
                created: 0,
            };
            self.objects.pods.insert(name.clone(), Arc::new(pod));
            if is_local {
                self.local.insert(name.clone());
            }
        }
        self.state = State::new(OWN.into());
        self.decider = Decider::default();
        self.table = nft::Driver::new();
        self.maps.restart();
        let pods = self
            .links
            .values()
            .map(|link| (link.name.clone(), Attached { index: link.index.number(), goes_round: true }));
        let uplinks = [(self.uplink.index.number(), FRAMES)].into();
        self.maps.attached(Attachments { pods: pods.collect(), uplinks, is_complete: true });
    }

    /// Hears of what happens, and makes the kernel hold what follows, in the order of the agent's core.
    pub(super) fn hear(&mut self, batch: Vec<Event>) {
        let mut touched = Touched::default();
        for event in batch {
            event.apply(&mut self.objects, &mut self.local, &mut touched);
        }
        let endpoints = self.tell();
        self.route(&endpoints);
        let (bgp, traffic) = (Bgp::default(), Traffic::default());
        let Decision { wanted, changes } = self.decider.decide(&mut self.state, &bgp, &traffic).unwrap();
        assert!(wanted.waiting.is_empty(), "{:?}", wanted.waiting);
        self.maps.note(&wanted, self.decider.compiler(), &changes);
        self.maps.pause();
        self.table.apply(&wanted, self.decider.compiler(), &changes).unwrap();
        self.maps.write();
        assert!(self.maps.is_open(), "{:?}", self.maps.closed());
    }

    /// Tells the agent's state what the API server and the plugin would. An address is one pod's: two that claim it are no matter
    /// of dataplanes.
    fn tell(&mut self) -> Vec<Endpoint> {
        let mut taken = BTreeSet::new();
        let mut pods = BTreeMap::new();
        let mut endpoints = Vec::new();
        for (name, pod) in &self.objects.pods {
            let mut pod = Pod::clone(pod);
            pod.announced.clear();
            if pod.in_pod_network() {
                pod.addresses.retain(|address| taken.insert(*address));
                if self.local.contains(name) && !pod.addresses.is_empty() {
                    endpoints.push(endpoint(name, &pod.addresses));
                }
            }
            let facts = PodFacts {
                uid: String::new(),
                static_uid: None,
                announced: None,
                wish: None,
                pod: Arc::new(pod),
            };
            pods.insert(name.clone(), facts);
        }
        let namespaces = self.objects.namespaces.iter().map(|(name, namespace)| {
            let namespace = namespace.clone();
            (name.clone(), NamespaceFacts { namespace, pools: None, logs_drops: false })
        });
        let peers = self
            .objects
            .nodes
            .iter()
            .map(|(name, peer)| (name.clone(), NodeFacts { peer: peer.clone(), ..NodeFacts::default() }));
        let nodes = BLOCKS.map(|(name, blocks)| {
            let pod_cidrs = blocks.map(|block| block.parse().unwrap()).into();
            let node = NodeObject { pod_cidrs, ..NodeObject::default() };
            (name.to_owned(), NodeFacts { node, ..NodeFacts::default() })
        });
        for event in [
            ApiEvent::Nodes(Change::Replaced(peers.chain(nodes).collect())),
            ApiEvent::Namespaces(Change::Replaced(namespaces.collect())),
            ApiEvent::Pods(Change::Replaced(BTreeMap::new())),
            ApiEvent::OwnPods(Change::Replaced(pods)),
            ApiEvent::Policies(Change::Replaced(self.objects.policies.clone())),
            ApiEvent::ClusterPolicies(Change::Replaced(self.objects.cluster_policies.clone())),
        ] {
            self.state.apply(event);
        }
        let records = endpoints.iter().map(|endpoint| (endpoint.id(), endpoint.clone()));
        self.state.set_endpoints(records.collect());
        endpoints
    }

    /// The routes that the plugin makes.
    fn route(&mut self, endpoints: &[Endpoint]) {
        let mut wanted = BTreeMap::new();
        for endpoint in endpoints {
            let link = self.links.values().find(|link| link.name == endpoint.host_ifname).unwrap();
            wanted.extend(endpoint.addresses.iter().map(|address| (*address, link.index)));
        }
        for (address, index) in &self.routes {
            if !wanted.contains_key(address) {
                self.socket.execute(&route::delete(&route_by((*address).into(), *index))).unwrap();
            }
        }
        for (address, index) in &wanted {
            if self.routes.get(address) != Some(index) {
                self.socket.execute(&route::replace(&route_by((*address).into(), *index))).unwrap();
            }
        }
        self.routes = wanted;
    }

    /// Has the three judges look at a packet.
    pub(super) fn judge(&mut self, sent: &Sent) -> Result<(), TestCaseError> {
        let Some(flow) = self.flow(sent) else { return Ok(()) };
        let owners = self.state.objects().owners();
        let here = |address| {
            let pod = owners.get(&address).map(|pod| &pod.name)?;
            self.routes.contains_key(&address).then(|| pod.clone())
        };
        let (source, destination) = (here(flow.source), here(flow.destination));
        if flow.source == flow.destination || (source.is_none() && destination.is_none()) {
            return Ok(());
        }
        let port = self.port;
        self.port = if port + 1 == PORTS.end { PORTS.start } else { port + 1 };
        let packet = packet::first_of(&flow, port);
        let said = [evaluate(self.state.objects(), &flow), evaluate_audited(self.state.objects(), &flow)];
        // Whether the ends that are here allow it; and if policies in audit were in force, too.
        let [out, way_in] = [source.is_some(), destination.is_some()];
        let allows =
            |index: usize| [!out || said[index].egress.allows(), !way_in || said[index].ingress.allows()];
        let is_allowed = allows(0) == [true; 2];
        let is_plain = is_allowed && allows(1) == [true; 2];
        let is_between_pods = [(flow.source, out), (flow.destination, way_in)]
            .into_iter()
            .all(|(address, is_here)| is_here || self.is_in_block(address));
        // A pod's packets to itself do not leave it; if they did, nobody could tell whence they come.
        let is_own = source == destination;

        let action = self.run(source.as_ref(), &packet);
        let expected = match flow.protocol {
            _ if !is_between_pods || is_own => Action::Stack,
            // An end that is asked before another that denies it may want it told of. A datagram or an INIT may be an answer, and what leaves may be for the node.
            Protocol::Tcp if !is_allowed => {
                let is_audited = allows(0)[0] && !allows(1)[0];
                if is_audited || !way_in { Action::Stack } else { Action::Dropped }
            }
            Protocol::Tcp | Protocol::Udp if is_plain => Action::Short,
            _ => Action::Stack,
        };
        prop_assert_eq!(action, expected, "the programs: {:?}: {:?}", flow, said);
        let is_short = action == Action::Short;
        if !is_own {
            let passes = self.passes(source.as_ref(), destination.as_ref(), &packet);
            prop_assert_eq!(passes, is_allowed, "the table: {:?}: {:?}", flow, said);
        }
        let kinds = [
            is_short && out && way_in,
            is_short && !way_in,
            is_short && !out,
            is_allowed && !is_plain,
            action == Action::Dropped,
            !allows(0)[0],
            !allows(0)[1],
        ];
        for ((_, packets), is_one) in self.seen.iter_mut().zip(kinds) {
            *packets += u64::from(is_one);
        }
        Ok(())
    }

    /// The flow that a packet begins, with ends that are there now; `None` when they are of two families.
    fn flow(&self, sent: &Sent) -> Option<Flow> {
        let Sent { probe, source, destination } = sent;
        let local = |index: &Option<proptest::sample::Index>, or: IpAddr| {
            let of_family: Vec<IpAddr> =
                self.routes.keys().filter(|it| it.is_ipv4() == probe.source.is_ipv4()).copied().collect();
            match index {
                Some(index) if !of_family.is_empty() => *index.get(&of_family),
                _ => or,
            }
        };
        let (source, destination) = (local(source, probe.source), local(destination, probe.destination));
        let flow = Flow { source, destination, protocol: probe.protocol, port: probe.port };
        (source.is_ipv4() == destination.is_ipv4()).then_some(flow)
    }

    fn is_in_block(&self, address: IpAddr) -> bool {
        self.state.pod_blocks().iter().any(|block| block.contains(address))
    }

    /// What the program at the link of its source does with a packet.
    fn run(&mut self, source: Option<&PodName>, packet: &[u8]) -> Action {
        let (hook, link) = match source {
            Some(pod) => (Hook::FromPod, &self.links[pod]),
            None => (Hook::FromUplink, &self.uplink),
        };
        let mut context = [0; CONTEXT];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&link.index.number().to_ne_bytes());
        let octets = packet::framed(packet);
        let mut out = vec![0; octets.len() + 256];
        let options = TestRunOptions {
            data_in: Some(&octets),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        match self.programs.of(hook).test_run(options).unwrap().return_value {
            TC_ACT_UNSPEC => Action::Stack,
            TC_ACT_REDIRECT => Action::Short,
            TC_ACT_SHOT => Action::Dropped,
            other => panic!("action {other}"),
        }
    }

    /// Whether a packet that comes by the link of its source leaves by that of its destination.
    fn passes(&mut self, source: Option<&PodName>, destination: Option<&PodName>, packet: &[u8]) -> bool {
        let of = |pod: Option<&PodName>| pod.map_or(self.uplink.index, |pod| self.links[pod].index);
        let (from, to) = (of(source), of(destination));
        let mut links: Vec<&mut Link> = self.links.values_mut().chain([&mut self.uplink]).collect();
        links.iter_mut().find(|link| link.index == from).unwrap().send(packet);
        let mut arrived = Vec::new();
        for link in links {
            // Beside it the node asks for routers and tells of groups.
            let count = link.received().iter().filter(|it| packet::is_on_its_way(it, packet)).count();
            arrived.extend(std::iter::repeat_n(link.index, count));
        }
        assert!(arrived.is_empty() || arrived == [to], "it was to go to {to:?}, and went to {arrived:?}");
        !arrived.is_empty()
    }
}

fn endpoint(pod: &PodName, addresses: &[IpAddr]) -> Endpoint {
    let id = EndpointId::of(&pod.to_string(), "eth0");
    Endpoint {
        container_id: pod.to_string(),
        ifname: "eth0".into(),
        network: "margay".into(),
        netns: String::new(),
        host_ifname: id.host_ifname(),
        mac: "02:00:00:00:00:01".into(),
        host_mac: "02:00:00:00:00:02".into(),
        addresses: addresses.to_vec(),
        mtu: 1500,
        pod: Some(PodRef { namespace: pod.namespace.to_string(), name: pod.name.to_string(), uid: None }),
    }
}

fn route_by(destination: ipnetwork::IpNetwork, link: IfIndex) -> Route {
    Route::new(destination, Kind::Unicast(vec![NextHop::dev(link)]), Origin::MARGAY)
}
