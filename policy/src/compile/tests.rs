//! The compiler against the reference evaluator, on random clusters.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::{Compiled, Verdict, compile};
use crate::{
    Block, Enforcement, Interner, NamedPort, Namespace, NamespaceChoice, Objects, Peer, Peers, Pod, PodName,
    Policy, PolicyRef, Port, PortRange, Ports, Protocol, Requirement, Rule, Selector,
    evaluate::{Flow, evaluate},
};

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn selector() -> impl Strategy<Value = Selector> {
    let key = || prop::sample::select(vec!["k", "l"]).prop_map(str::to_owned);
    let values =
        || prop::collection::btree_set(prop::sample::select(vec!["0", "1"]).prop_map(str::to_owned), 1..3);
    let requirement = prop_oneof![
        (key(), values()).prop_map(|(k, v)| Requirement::In(k, v)),
        (key(), values()).prop_map(|(k, v)| Requirement::NotIn(k, v)),
        key().prop_map(Requirement::Exists),
        key().prop_map(Requirement::DoesNotExist),
    ];
    prop::collection::vec(requirement, 0..2).prop_map(Selector::new)
}

fn labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    let pair = |key: &'static str| {
        prop::option::of(prop::sample::select(vec!["0", "1"]))
            .prop_map(move |v| v.map(|v| (key.to_owned(), v.to_owned())))
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
        prop_oneof![Just(NamespaceChoice::Own(namespace)), selector().prop_map(NamespaceChoice::Selected),];
    prop_oneof![
        (choice, selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        (network(), prop::collection::vec(network(), 0..3)).prop_map(|(cidr, except)| {
            let inside = |part: &IpNetwork| {
                part.is_ipv4() == cidr.is_ipv4() && part.prefix() >= cidr.prefix() && cidr.contains(part.ip())
            };
            Peer::Block(Block { cidr, except: except.into_iter().filter(inside).collect() })
        }),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    prop_oneof![
        2 => (protocol(), 78_u16..84, 0_u16..3).prop_map(|(protocol, first, more)| Port::Numbered(
            protocol,
            PortRange { first, last: first + more }
        )),
        1 => Just(Port::Numbered(Protocol::Tcp, PortRange::ALL)),
        4 => (protocol(), prop::sample::select(vec!["web", "dns"]))
            .prop_map(|(protocol, name)| Port::Named(protocol, name.into())),
    ]
}

fn rules(namespace: String) -> impl Strategy<Value = Option<Vec<Rule>>> {
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        3 => prop::collection::vec(peer(namespace), 1..3).prop_map(Peers::Of),
    ];
    let ports = prop_oneof![Just(Ports::Any), prop::collection::vec(port(), 0..3).prop_map(Ports::Of)];
    let rule = (peers, ports).prop_map(|(peers, ports)| Rule { peers, ports });
    prop::option::of(prop::collection::vec(rule, 0..3))
}

fn policy() -> impl Strategy<Value = Policy> {
    (prop::sample::select(vec!["x", "y"]), "[a-d]").prop_flat_map(|(namespace, name)| {
        let own = namespace.to_owned();
        (selector(), rules(own.clone()), rules(own)).prop_map(move |(pod_selector, ingress, egress)| Policy {
            name: PolicyRef { namespace: namespace.to_owned(), name: name.clone() },
            pod_selector,
            ingress,
            egress,
            enforcement: Enforcement::Enforce,
        })
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    let named = (prop::sample::select(vec!["web", "dns"]), protocol(), 78_u16..84)
        .prop_map(|(name, protocol, number)| NamedPort { name: name.into(), protocol, number });
    (
        prop::sample::select(vec!["x", "y"]),
        "[a-f]",
        labels(),
        [0..3, 0..2].map(|count: std::ops::Range<usize>| prop::collection::vec(address(), count)),
        prop::collection::vec(named, 0..3),
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1), any::<bool>(), 0_i64..3),
    )
        .prop_map(
            |(
                namespace,
                name,
                labels,
                [addresses, announced],
                ports,
                (host_network, finished, terminating, created),
            )| {
                Pod {
                    name: PodName::new(namespace, name),
                    labels,
                    addresses,
                    announced,
                    ports,
                    host_network,
                    finished,
                    terminating,
                    created,
                }
            },
        )
}

fn objects() -> impl Strategy<Value = Objects> {
    let namespaces = (labels(), labels()).prop_map(|(x, y)| {
        [("x", x), ("y", y)]
            .map(|(name, labels)| (name.to_owned(), Namespace { name: name.to_owned(), labels }))
            .into()
    });
    (namespaces, prop::collection::vec(pod(), 0..7), prop::collection::vec(policy(), 0..6)).prop_map(
        |(namespaces, pods, policies)| Objects {
            namespaces,
            pods: pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect(),
            policies: policies.into_iter().map(|policy| (policy.name.clone(), policy)).collect(),
            ..Objects::default()
        },
    )
}

/// As a dataplane decides: by look-ups in the compiled state alone.
fn decide(compiled: &Compiled, objects: &Objects, flow: &Flow) -> bool {
    if flow.source == flow.destination {
        return true;
    }
    let owners = objects.owners();
    let set = |address| {
        let name = &owners.get(&address)?.name;
        compiled.sets.get(compiled.endpoints.get(name)?)
    };
    let passes = |direction: Option<&super::Direction>, far| {
        direction.is_none_or(|d| d.verdict(compiled.class(far), flow.protocol, flow.port) == Verdict::Allow)
    };
    passes(set(flow.source).and_then(|set| set.egress.as_ref()), flow.destination)
        && passes(set(flow.destination).and_then(|set| set.ingress.as_ref()), flow.source)
}

fn all(objects: &Objects) -> BTreeSet<PodName> {
    objects.pods.keys().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_compiled_state_decides_as_the_reference_evaluator(
        objects in objects(),
        flows in prop::collection::vec((address(), address(), protocol(), 77_u16..86), 200),
    ) {
        let compiled = compile(&objects, &all(&objects), &mut Interner::default());
        for (source, destination, protocol, port) in flows {
            let flow = Flow { source, destination, protocol, port };
            let expected = evaluate(&objects, &flow);
            prop_assert_eq!(decide(&compiled, &objects, &flow), expected.allowed(), "{:?}\n{:?}", flow, expected);
        }
    }

    #[test]
    fn compiling_again_changes_no_number(first in objects(), second in objects()) {
        let mut interner = Interner::default();
        let before = compile(&first, &all(&first), &mut interner);
        prop_assert_eq!(&compile(&first, &all(&first), &mut interner), &before);
        // A detour over another state gives other numbers, but the same decisions as from scratch.
        compile(&second, &all(&second), &mut interner);
        let after = compile(&first, &all(&first), &mut interner);
        prop_assert_eq!(after.endpoints.len(), before.endpoints.len());
        prop_assert_eq!(after.sets.len(), before.sets.len());
    }
}

#[test]
fn a_policy_that_names_many_pods_costs_one_class() {
    let mut objects = Objects::default();
    for host in 1..=200_u8 {
        let pod = Pod {
            name: PodName::new("x", format!("p{host}")),
            labels: [("k".to_owned(), "0".to_owned())].into(),
            addresses: vec![IpAddr::from([10, 0, 0, host])],
            ports: vec![],
            host_network: false,
            finished: false,
            terminating: false,
            created: 0,
            announced: vec![],
        };
        objects.pods.insert(pod.name.clone(), pod);
    }
    let peer = Peer::Pods { namespaces: NamespaceChoice::Own("x".into()), pods: Selector::default() };
    let policy = Policy {
        name: PolicyRef { namespace: "x".into(), name: "p".into() },
        pod_selector: Selector::default(),
        ingress: Some(vec![Rule { peers: Peers::Of(vec![peer]), ports: Ports::Any }]),
        egress: None,
        enforcement: Enforcement::Enforce,
    };
    objects.policies.insert(policy.name.clone(), policy);
    let compiled = compile(&objects, &all(&objects), &mut Interner::default());
    assert_eq!(compiled.sets.len(), 1);
    assert_eq!(compiled.addresses.values().collect::<BTreeSet<_>>().len(), 1);
    let set = compiled.sets.values().next().unwrap();
    assert_eq!(set.ingress.as_ref().unwrap().classes.len(), 1);
    assert_eq!(set.egress, None);
}
