//! Random objects, few and alike, so that they meet, and what happens to them.
//!
//! The node agent's tests of its dataplanes have this file too, and so it calls this crate by its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use margay_policy::{
    Action, Block, ClusterPolicy, ClusterRule, Enforcement, NamedPort, Namespace, NamespaceChoice, Node,
    Objects, Peer, Peers, Pod, PodName, Policy, PolicyId, PolicyRef, Port, PortRange, Ports, Protocol,
    Requirement, Rule, Selector, Subject, Tier, compile::Touched,
};
use proptest::{
    bool::weighted,
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

/// Something that the API server or the plugin says; `None` when an object is gone.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Namespace(String, Option<Namespace>),
    Pod(PodName, Option<Pod>),
    Policy(PolicyRef, Option<Box<Policy>>),
    ClusterPolicy(String, Option<Box<ClusterPolicy>>),
    Node(String, Option<Node>),
    /// Whether a pod has an interface here.
    Local(PodName, bool),
    /// A watch was lost: these are all pods and policies there are.
    Listing(Vec<Pod>, Vec<Policy>),
}

impl Event {
    pub(crate) fn apply(self, objects: &mut Objects, local: &mut BTreeSet<PodName>, touched: &mut Touched) {
        match self {
            Self::Namespace(name, namespace) => {
                put(&mut objects.namespaces, &name, namespace);
                touched.namespaces.insert(name);
            }
            Self::Pod(name, pod) => {
                put(&mut objects.pods, &name, pod.map(Arc::new));
                touched.pods.insert(name);
            }
            Self::Policy(name, policy) => {
                put(&mut objects.policies, &name, policy.map(|policy| *policy));
                touched.policies.insert(PolicyId::Network(name));
            }
            Self::ClusterPolicy(name, policy) => {
                put(&mut objects.cluster_policies, &name, policy.map(|policy| *policy));
                touched.policies.insert(PolicyId::Cluster(name));
            }
            Self::Node(name, node) => {
                put(&mut objects.nodes, &name, node);
                touched.nodes.insert(name);
            }
            Self::Local(name, is_local) => {
                if is_local {
                    local.insert(name.clone());
                } else {
                    local.remove(&name);
                }
                touched.pods.insert(name);
            }
            Self::Listing(pods, policies) => {
                touched.pods.extend(objects.pods.keys().cloned());
                touched.policies.extend(objects.policies.keys().cloned().map(PolicyId::Network));
                objects.pods = pods.into_iter().map(|pod| (pod.name.clone(), Arc::new(pod))).collect();
                objects.policies = policies.into_iter().map(|policy| (policy.name.clone(), policy)).collect();
                touched.pods.extend(objects.pods.keys().cloned());
                touched.policies.extend(objects.policies.keys().cloned().map(PolicyId::Network));
            }
        }
    }
}

fn put<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value)),
        None => drop(map.remove(key)),
    }
}

/// A packet that begins something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

pub(crate) fn probe() -> impl Strategy<Value = Probe> {
    (address(), address(), protocol(), 77_u16..86).prop_map(|(source, destination, protocol, port)| Probe {
        source,
        destination,
        protocol,
        port,
    })
}

/// A cluster, then what happens to it, in batches.
pub(crate) fn batches() -> impl Strategy<Value = Vec<Vec<Event>>> {
    (vec(event(), 5..25), vec(vec(event(), 1..4), 1..12)).prop_map(|(first, mut then)| {
        then.insert(0, first);
        then
    })
}

fn event() -> impl Strategy<Value = Event> {
    let gone = || weighted(0.2);
    prop_oneof![
        2 => (namespace_name(), labels(), gone()).prop_map(|(name, labels, gone)| {
            Event::Namespace(name.clone(), (!gone).then_some(Namespace { name, labels }))
        }),
        6 => (pod(), gone()).prop_map(|(pod, gone)| Event::Pod(pod.name.clone(), (!gone).then_some(pod))),
        4 => (policy(), gone()).prop_map(|(policy, gone)| {
            Event::Policy(policy.name.clone(), (!gone).then(|| Box::new(policy)))
        }),
        4 => (cluster_policy(), gone()).prop_map(|(policy, gone)| {
            Event::ClusterPolicy(policy.name.clone(), (!gone).then(|| Box::new(policy)))
        }),
        1 => ("[mn]", labels(), vec(address(), 0..2), vec(address(), 0..3), gone()).prop_map(
            |(name, labels, addresses, tunnels, gone)| {
                Event::Node(name, (!gone).then_some(Node { labels, addresses, tunnels }))
            },
        ),
        3 => (pod_name(), weighted(0.8)).prop_map(|(name, is_local)| Event::Local(name, is_local)),
        1 => (vec(pod(), 0..6), vec(policy(), 0..4)).prop_map(|(pods, policies)| Event::Listing(pods, policies)),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::ALL.to_vec())
}

fn selector() -> impl Strategy<Value = Selector> {
    let key = || select(vec!["k", "l"]).prop_map(str::to_owned);
    let values = || btree_set(select(vec!["0", "1"]).prop_map(str::to_owned), 1..3);
    let requirement = prop_oneof![
        3 => (key(), values()).prop_map(|(k, v)| Requirement::In(k, v)),
        1 => (key(), values()).prop_map(|(k, v)| Requirement::NotIn(k, v)),
        1 => key().prop_map(Requirement::Exists),
        1 => key().prop_map(Requirement::DoesNotExist),
    ];
    vec(requirement, 0..2).prop_map(Selector::new)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let pair = |key: &'static str| {
        option::of(select(vec!["0", "1"])).prop_map(move |v| v.map(|v| (key.to_owned(), v.to_owned())))
    };
    (pair("k"), pair("l")).prop_map(|(k, l)| k.into_iter().chain(l).collect())
}

/// Addresses of both families, few enough that blocks, pods and strangers meet.
fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0_u8..12).prop_map(|(v4, host)| {
        if v4 {
            IpAddr::from([10, 0, 0, host])
        } else {
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()])
        }
    })
}

fn network() -> impl Strategy<Value = IpNetwork> {
    (address(), 0_u8..5).prop_map(|(address, free)| {
        let prefix = if address.is_ipv4() { 32 - free } else { 128 - free };
        let network = IpNetwork::new(address, prefix).unwrap();
        IpNetwork::new(network.network(), prefix).unwrap()
    })
}

fn peer(namespace: String) -> impl Strategy<Value = Peer> {
    let choice =
        prop_oneof![Just(NamespaceChoice::Own(namespace)), selector().prop_map(NamespaceChoice::Selected)];
    prop_oneof![
        6 => (choice, selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        5 => (network(), vec(network(), 0..3)).prop_map(|(cidr, except)| {
            let inside = |part: &IpNetwork| {
                part.is_ipv4() == cidr.is_ipv4() && part.prefix() >= cidr.prefix() && cidr.contains(part.ip())
            };
            Peer::Block(Block { cidr, except: except.into_iter().filter(inside).collect() })
        }),
        1 => selector().prop_map(Peer::Nodes),
    ]
}

fn peers(namespace: String) -> impl Strategy<Value = Peers> {
    prop_oneof![1 => Just(Peers::Any), 3 => vec(peer(namespace), 1..3).prop_map(Peers::Of)]
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = prop_oneof![
        2 => (protocol(), 78_u16..84, 0_u16..3).prop_map(|(protocol, first, more)| {
            Port::Numbered(protocol, PortRange { first, last: first + more })
        }),
        1 => Just(Port::Numbered(Protocol::Tcp, PortRange::ALL)),
        4 => (protocol(), select(vec!["web", "dns"])).prop_map(|(protocol, name)| Port::Named(protocol, name.into())),
    ];
    prop_oneof![Just(Ports::Any), vec(port, 0..3).prop_map(Ports::Of)]
}

fn enforcement() -> impl Strategy<Value = Enforcement> {
    prop_oneof![4 => Just(Enforcement::Enforce), 1 => Just(Enforcement::Audit)]
}

fn rules(namespace: String) -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (peers(namespace), ports()).prop_map(|(peers, ports)| Rule { peers, ports });
    option::of(vec(rule, 0..3))
}

fn namespace_name() -> impl Strategy<Value = String> {
    select(vec!["x", "y"]).prop_map(str::to_owned)
}

fn policy() -> impl Strategy<Value = Policy> {
    (namespace_name(), "[a-c]").prop_flat_map(|(namespace, name)| {
        let name = PolicyRef { namespace: namespace.clone(), name };
        (selector(), rules(namespace.clone()), rules(namespace), enforcement()).prop_map(
            move |(pod_selector, ingress, egress, enforcement)| Policy {
                name: name.clone(),
                pod_selector,
                ingress,
                egress,
                enforcement,
            },
        )
    })
}

fn cluster_policy() -> impl Strategy<Value = ClusterPolicy> {
    let rules =
        || {
            let action = select(vec![Action::Accept, Action::Deny, Action::Pass]);
            // Of a namespace that no pod is in: these policies have none.
            let rule = (action, peers(String::new()), ports())
                .prop_map(|(action, peers, ports)| ClusterRule { name: String::new(), action, peers, ports });
            vec(rule, 0..3)
        };
    (
        "[a-c]",
        select(vec![Tier::Admin, Tier::Baseline]),
        0_u16..3,
        (selector(), selector()).prop_map(|(namespaces, pods)| Subject { namespaces, pods }),
        rules(),
        rules(),
        enforcement(),
    )
        .prop_map(|(name, tier, priority, subject, ingress, egress, enforcement)| ClusterPolicy {
            name,
            tier,
            priority,
            subject,
            ingress,
            egress,
            enforcement,
        })
}

fn pod_name() -> impl Strategy<Value = PodName> {
    (namespace_name(), "[a-d]").prop_map(|(namespace, name)| PodName::new(namespace, name))
}

fn pod() -> impl Strategy<Value = Pod> {
    let named = (select(vec!["web", "dns"]), protocol(), 78_u16..84)
        .prop_map(|(name, protocol, number)| NamedPort { name: name.into(), protocol, number });
    let addresses = [0..3, 0..2].map(|count: std::ops::Range<usize>| vec(address(), count));
    let flags = (weighted(0.1), weighted(0.1), any::<bool>(), 0_i64..3);
    (pod_name(), labels(), addresses, vec(named, 0..3), flags).prop_map(
        |(name, labels, [addresses, announced], ports, (host_network, finished, terminating, created))| Pod {
            name,
            labels: Arc::new(labels),
            addresses,
            announced,
            ports,
            host_network,
            finished,
            terminating,
            created,
        },
    )
}
