//! Rules of what is wanted when.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use margay_api::{
    endpoint::{Endpoint, EndpointId, PodRef},
    resource::Encapsulation,
};
use margay_policy::{Pod, PodName, Policy, PolicyRef, compile::Way, convert};
use proptest::{collection::vec, prelude::*};

use super::{Decider, State, Wanted};
use crate::{
    config::Bgp,
    traffic::Traffic,
    watch::{Announced, ApiEvent, Change, Node, NodeFacts, PodFacts},
};

fn endpoint(pod: Option<(&str, Option<&str>)>) -> Endpoint {
    let container_id = format!("{pod:?}").replace(|c: char| !c.is_ascii_alphanumeric(), "");
    Endpoint {
        host_ifname: EndpointId::of(&container_id, "eth0").host_ifname(),
        container_id,
        ifname: "eth0".into(),
        network: "margay".into(),
        netns: String::new(),
        mac: "02:00:00:00:00:01".into(),
        host_mac: "02:00:00:00:00:02".into(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
        mtu: 1500,
        pod: pod.map(|(name, uid)| PodRef {
            namespace: "x".into(),
            name: name.into(),
            uid: uid.map(str::to_owned),
        }),
    }
}

fn facts(name: &str, uid: &str) -> (PodName, PodFacts) {
    let name = PodName::new("x", name);
    let pod = Pod {
        name: name.clone(),
        labels: Arc::default(),
        addresses: vec![],
        ports: vec![],
        host_network: false,
        finished: false,
        terminating: false,
        created: 0,
        announced: vec![],
    };
    (
        name,
        PodFacts {
            uid: uid.into(),
            static_uid: Some(format!("static-{uid}")),
            announced: None,
            wish: None,
            pod: Arc::new(pod),
        },
    )
}

fn node(address: &str, cidr: &str) -> NodeFacts {
    let addresses = vec![address.parse().unwrap()];
    let peer = margay_policy::Node { addresses: addresses.clone(), ..margay_policy::Node::default() };
    let node = Node { addresses, pod_cidrs: vec![cidr.parse().unwrap()], ..Node::default() };
    NodeFacts { node, peer }
}

/// `pods` are of this node.
fn complete(pods: &[(PodName, PodFacts)], endpoints: &[Endpoint]) -> State {
    let mut state = State::new("n1".into());
    let nodes = [("n1", node("192.0.2.1", "10.0.0.0/24")), ("n2", node("192.0.2.2", "10.0.1.0/24"))];
    let nodes = nodes.map(|(name, node)| (name.to_owned(), node));
    state.apply(ApiEvent::Nodes(Change::Replaced(nodes.into())));
    state.apply(ApiEvent::Namespaces(Change::Replaced(BTreeMap::new())));
    state.apply(ApiEvent::Policies(Change::Replaced(BTreeMap::new())));
    state.apply(ApiEvent::ClusterPolicies(Change::Replaced(BTreeMap::new())));
    state.apply(ApiEvent::Pods(Change::Replaced(BTreeMap::new())));
    state.apply(ApiEvent::OwnPods(Change::Replaced(pods.iter().cloned().collect())));
    state.set_endpoints(endpoints.iter().map(|endpoint| (endpoint.id(), endpoint.clone())).collect());
    state
}

fn wanted(state: &mut State) -> Option<Wanted> {
    Decider::default().decide(state, &Bgp::default(), &Traffic::default()).map(|decision| decision.wanted)
}

#[test]
fn nothing_is_wanted_before_everything_is_listed() {
    let mut state = State::new("n1".into());
    assert!(wanted(&mut state).is_none());
    let rest = "networkpolicies, clusternetworkpolicies, endpoint records";
    state.apply(ApiEvent::Pods(Change::Replaced(BTreeMap::new())));
    assert_eq!(state.missing().unwrap(), format!("nodes, namespaces, pods, {rest}"));
    state.apply(ApiEvent::OwnPods(Change::Replaced(BTreeMap::new())));
    assert_eq!(state.missing().unwrap(), format!("nodes, namespaces, {rest}"));
    assert!(wanted(&mut state).is_none());
    assert!(wanted(&mut complete(&[], &[])).is_some());
}

#[test]
fn what_policy_needs_of_nodes_follows_them_and_what_is_the_same_changes_nothing() {
    let mut state = complete(&[], &[]);
    assert_eq!(state.objects().nodes["n2"].addresses, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    let mut labelled = node("192.0.2.2", "10.0.1.0/24");
    assert!(!state.apply(ApiEvent::Nodes(Change::Applied("n2".into(), labelled.clone()))));
    labelled.peer.labels.insert("rack".into(), "r1".into());
    assert!(state.apply(ApiEvent::Nodes(Change::Applied("n2".into(), labelled))));
    assert_eq!(state.objects().nodes["n2"].labels["rack"], "r1");
    assert!(state.apply(ApiEvent::Nodes(Change::Deleted("n2".into()))));
    assert!(!state.objects().nodes.contains_key("n2"));
}

#[test]
fn tunnels_are_kept_to_the_other_nodes_as_long_as_there_may_be_one() {
    let (mut state, mut decider) = (complete(&[], &[]), Decider::default());
    let mut decide = |state: &mut State, encapsulation, port| {
        let mut traffic = Traffic::default();
        (traffic.overlay.encapsulation, traffic.overlay.port) = (encapsulation, port);
        let wanted = decider.decide(state, &Bgp::default(), &traffic).unwrap().wanted;
        wanted
            .tunnel_ends
            .map(|ends| (ends.ports.clone(), ends.peers.iter().map(IpAddr::to_string).collect::<Vec<_>>()))
    };
    assert_eq!(decide(&mut state, Encapsulation::None, 4789), None);
    let mut with_third = |encapsulation, port, address| {
        state.apply(ApiEvent::Nodes(Change::Applied("n3".into(), node(address, "10.0.2.0/24"))));
        decide(&mut state, encapsulation, port)
    };
    let ends = |ports: &[u16], third: &str| {
        Some((ports.iter().copied().collect(), vec!["192.0.2.2".to_owned(), third.to_owned()]))
    };
    assert_eq!(with_third(Encapsulation::Vxlan, 4789, "192.0.2.3"), ends(&[4789], "192.0.2.3"));
    // The devices stay for a while, and so does a port: of other nodes, too.
    assert_eq!(with_third(Encapsulation::None, 4790, "2001:db8::3"), ends(&[4789, 4790], "2001:db8::3"));
}

#[test]
fn an_endpoint_is_admitted_only_when_its_very_pod_is_known() {
    for (pods, pod, admitted) in [
        (&[] as &[_], Some(("a", None)), false),
        (&[facts("a", "u1")], Some(("a", None)), true),
        (&[facts("a", "u1")], Some(("a", Some("u1"))), true),
        (&[facts("a", "u1")], Some(("a", Some("u0"))), false),
        (&[facts("a", "u1")], Some(("a", Some("static-u1"))), true),
        (&[], None, true),
    ] {
        let wanted = wanted(&mut complete(pods, &[endpoint(pod)])).unwrap();
        assert_eq!(wanted.endpoints.len(), usize::from(admitted), "{pod:?}");
        assert_eq!(wanted.waiting.len(), usize::from(!admitted), "{pod:?}");
    }
}

#[test]
fn an_interface_whose_pod_has_finished_keeps_its_policy_and_is_closed_once_the_pod_is_gone() {
    let (name, mut facts) = facts("a", "u1");
    let pod = Arc::make_mut(&mut facts.pod);
    (pod.finished, pod.labels) = (true, Arc::new([("label".to_owned(), "0".to_owned())].into()));
    let endpoint = endpoint(Some(("a", Some("u1"))));
    let mut state = complete(&[(name.clone(), facts)], std::slice::from_ref(&endpoint));
    let (policy, isolates) = policy(0, 0, &["Ingress"]);
    state.apply(ApiEvent::Policies(Change::Applied(policy, isolates)));
    assert_eq!(wanted(&mut state).unwrap().endpoints[&endpoint.id()].ways, [Way::Ingress]);
    assert!(state.objects().owners().is_empty(), "it owns no address");
    assert!(state.orphans().is_empty());
    state.apply(ApiEvent::OwnPods(Change::Deleted(name)));
    let wanted = wanted(&mut state).unwrap();
    assert!(wanted.endpoints.is_empty() && wanted.waiting.contains_key(&endpoint.id()));
    assert_eq!(state.orphans(), [endpoint.id()].into());
}

#[test]
fn of_two_pods_of_a_name_on_two_nodes_the_one_that_is_left_counts_in_whatever_order_the_watches_tell() {
    let of = |uid: &str, created| {
        let (name, mut facts) = facts("a", uid);
        Arc::make_mut(&mut facts.pod).created = created;
        Change::Applied(name, facts)
    };
    let gone = || Change::Deleted(PodName::new("x", "a"));
    let uid = |state: &State| {
        let pod = PodRef { namespace: "x".into(), name: "a".into(), uid: None };
        state.pod(&pod).map(|facts| facts.uid.clone())
    };
    let check = |first: fn(_) -> ApiEvent, second: fn(_) -> ApiEvent| {
        for seconds in [0, 5] {
            let mut state = complete(&[], &[]);
            state.apply(first(of("old", 0)));
            state.apply(second(of("new", seconds)));
            // Within a second nobody can tell which is the younger.
            assert!(seconds == 0 || uid(&state) == Ok("new".into()), "{:?}", uid(&state));
            assert!(state.apply(first(gone())));
            assert_eq!(uid(&state), Ok("new".into()));
            assert!(state.objects().pods.contains_key(&PodName::new("x", "a")));
            assert!(state.apply(second(gone())));
            assert!(uid(&state).is_err() && state.objects().pods.is_empty());
        }
    };
    check(ApiEvent::OwnPods, ApiEvent::Pods);
    check(ApiEvent::Pods, ApiEvent::OwnPods);
}

#[test]
fn a_local_pod_has_the_address_of_its_record_as_long_as_there_is_one() {
    let mut state = complete(&[facts("a", "u1")], &[]);
    let name = PodName::new("x", "a");
    assert!(state.objects().pods[&name].addresses.is_empty());
    let endpoint = endpoint(Some(("a", Some("u1"))));
    state.set_endpoint(&endpoint.id(), Some(endpoint.clone()));
    assert_eq!(state.objects().pods[&name].addresses, endpoint.addresses);
    state.set_endpoint(&endpoint.id(), None);
    assert!(state.objects().pods[&name].addresses.is_empty());
}

#[test]
fn an_announced_address_is_believed_where_it_is_in_a_block_of_the_pods_node_until_the_status_has_one() {
    for (node, announced, believed) in [
        ("n2", "10.0.1.7", true),
        ("n2", "10.0.0.7", false),
        ("n2", "198.51.100.7", false),
        ("n3", "10.0.1.7", false),
        // The records tell of our own.
        ("n1", "10.0.0.7", false),
    ] {
        let (name, mut facts) = facts("a", "u1");
        let address: IpAddr = announced.parse().unwrap();
        facts.announced = Some(Box::new(Announced { node: node.into(), addresses: vec![address] }));
        let mut state = complete(&[], &[]);
        let pods = if node == "n1" { ApiEvent::OwnPods } else { ApiEvent::Pods };
        state.apply(pods(Change::Applied(name, facts)));
        assert_eq!(state.objects().owners().contains_key(&address), believed, "{announced} of {node}");
        // The block is another node's from now on, or a node's at all.
        let moved = self::node("192.0.2.3", "10.0.1.0/24");
        state.apply(ApiEvent::Nodes(Change::Replaced([("n3".to_owned(), moved)].into())));
        let is_now = node == "n3";
        assert_eq!(state.objects().owners().contains_key(&address), is_now, "{announced} of {node}");
    }
}

#[test]
fn where_blocks_are_claimed_an_announced_address_is_believed_in_a_block_of_the_pods_node() {
    let (name, mut facts) = facts("a", "u1");
    let addresses = ["10.1.0.70", "10.1.0.7", "10.0.1.7"].map(|text| text.parse().unwrap());
    facts.announced = Some(Box::new(Announced { node: "n2".into(), addresses: addresses.to_vec() }));
    let mut state = complete(&[], &[]);
    state.apply(ApiEvent::Pods(Change::Applied(name.clone(), facts)));
    let holders = [("10.1.0.0/26", "n3"), ("10.1.0.64/26", "n2"), ("10.1.0.128/26", "n3")];
    let holders = holders.map(|(block, node)| (block.parse().unwrap(), node.to_owned()));
    state.set_claimed(vec![], Arc::new(holders.into()), Arc::default());
    assert_eq!(state.objects().pods[&name].announced, addresses[..1]);
}

#[test]
fn where_blocks_are_claimed_a_node_sends_through_tunnels_from_the_first_addresses_of_those_that_it_has() {
    let mut state = complete(&[], &[]);
    let claim = |state: &mut State, holders: &[(&str, &str)]| {
        let holders = holders.iter().map(|(block, node)| (block.parse().unwrap(), (*node).to_owned()));
        state.set_claimed(vec![], Arc::new(holders.collect()), Arc::default());
        state.take_touched().policy.nodes
    };
    let of = |state: &State, node: &str| -> Vec<String> {
        state.objects().nodes[node].tunnels.iter().map(ToString::to_string).collect()
    };
    state.take_touched();
    let touched = claim(&mut state, &[("10.1.0.0/26", "n1"), ("10.1.0.64/26", "n2"), ("fd00:1::/122", "n2")]);
    assert_eq!(touched, ["n1", "n2"].map(str::to_owned).into());
    assert_eq!(of(&state, "n2"), ["10.1.0.64", "fd00:1::"]);
    // A node that is told of again has them still, and that is no news; podCIDRs mean nothing.
    let again = || {
        let mut again = node("192.0.2.2", "10.0.1.0/24");
        again.peer.tunnels = vec!["10.0.1.0".parse().unwrap()];
        again
    };
    assert!(!state.apply(ApiEvent::Nodes(Change::Applied("n2".into(), again()))));
    assert_eq!(of(&state, "n2"), ["10.1.0.64", "fd00:1::"]);
    let touched = claim(&mut state, &[("10.1.0.0/26", "n1"), ("10.1.0.64/26", "n3")]);
    assert_eq!(touched, ["n2".to_owned()].into());
    assert_eq!(of(&state, "n2"), [""; 0]);
}

#[test]
fn the_topology_has_the_nodes_with_their_labels_and_the_own_blocks() {
    let mut state = complete(&[], &[]);
    let bgp = wanted(&mut state).unwrap().bgp.unwrap();
    assert_eq!(bgp.own.address(true), Some("192.0.2.1".parse().unwrap()));
    assert_eq!(bgp.others["n2"].address(true), Some("192.0.2.2".parse().unwrap()));
    assert_eq!(bgp.blocks, ["10.0.0.0/24".parse().unwrap()]);
    let mut decider = Decider::default();
    decider.decide(&mut state, &Bgp::default(), &Traffic::default()).unwrap();
    // A label alone may choose a node for a session.
    let mut labelled = node("192.0.2.2", "10.0.1.0/24");
    labelled.peer.labels.insert("rack".into(), "r1".into());
    state.apply(ApiEvent::Nodes(Change::Applied("n2".into(), labelled)));
    let bgp = decider.decide(&mut state, &Bgp::default(), &Traffic::default()).unwrap().wanted.bgp.unwrap();
    assert_eq!(bgp.others["n2"].labels["rack"], "r1");
    state.apply(ApiEvent::Nodes(Change::Deleted("n2".into())));
    assert!(wanted(&mut state).unwrap().bgp.unwrap().others.is_empty());
    state.apply(ApiEvent::Nodes(Change::Deleted("n1".into())));
    assert!(wanted(&mut state).unwrap().bgp.is_none());
}

/// Something that happens to a node with few pods, so that much of it is about the same ones.
#[derive(Debug, Clone)]
enum Event {
    /// A pod of this node, or of another, with a UID and a label, or none any more.
    Pod(Where, u8, Option<(u8, u8)>),
    /// The record of an interface.
    Record(u8, Of),
    /// There is none any more.
    Forgotten(u8),
    /// The records read anew.
    Records(Vec<(u8, Of)>),
    /// A policy for the pods with a label, isolating in these ways, or none any more.
    Policy(u8, Option<(u8, Vec<&'static str>)>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    Here,
    Elsewhere,
}

/// The pod of a record, by number and perhaps UID, or none.
type Of = Option<(u8, Option<u8>)>;

fn event() -> impl Strategy<Value = Event> {
    let of_pod = || proptest::option::of((0_u8..3, proptest::option::of(0_u8..2)));
    let ways = prop_oneof![Just(vec!["Ingress"]), Just(vec!["Egress"]), Just(vec!["Ingress", "Egress"])];
    prop_oneof![
        (
            prop_oneof![3 => Just(Where::Here), 1 => Just(Where::Elsewhere)],
            0_u8..3,
            proptest::option::of((0_u8..2, 0_u8..2))
        )
            .prop_map(|(place, pod, facts)| Event::Pod(place, pod, facts)),
        (0_u8..4, of_pod()).prop_map(|(number, pod)| Event::Record(number, pod)),
        (0_u8..4).prop_map(Event::Forgotten),
        vec((0_u8..4, of_pod()), 0..4).prop_map(Event::Records),
        (0_u8..3, proptest::option::of((0_u8..2, ways)))
            .prop_map(|(name, policy)| Event::Policy(name, policy)),
    ]
}

fn record(number: u8, pod: Of) -> (EndpointId, Endpoint) {
    let pod = pod.map(|(pod, uid)| PodRef {
        namespace: "x".into(),
        name: format!("p{pod}"),
        uid: uid.map(|uid| format!("u{uid}")),
    });
    let addresses = vec![IpAddr::from([10, 0, 0, number + 1])];
    let endpoint = Endpoint { container_id: format!("c{number}"), addresses, pod, ..endpoint(None) };
    (EndpointId::of(&endpoint.container_id, "eth0"), endpoint)
}

fn policy(name: u8, label: u8, ways: &[&str]) -> (PolicyRef, Policy) {
    let selector = serde_json::json!({"matchLabels": {"label": label.to_string()}});
    let object = serde_json::json!({
        "metadata": {"namespace": "x", "name": format!("n{name}")},
        "spec": {"podSelector": selector, "policyTypes": ways},
    });
    let policy = convert(&serde_json::from_value(object).unwrap()).0.unwrap();
    (policy.name.clone(), policy)
}

fn happen(state: &mut State, event: Event) {
    match event {
        Event::Pod(place, number, is) => {
            let pods = if place == Where::Here { ApiEvent::OwnPods } else { ApiEvent::Pods };
            let (name, mut facts) = facts(&format!("p{number}"), "");
            let Some((uid, label)) = is else {
                state.apply(pods(Change::Deleted(name)));
                return;
            };
            facts.uid = format!("u{uid}");
            Arc::make_mut(&mut facts.pod).labels = Arc::new([("label".to_owned(), label.to_string())].into());
            state.apply(pods(Change::Applied(name, facts)));
        }
        Event::Record(number, pod) => {
            let (id, endpoint) = record(number, pod);
            state.set_endpoint(&id, Some(endpoint));
        }
        Event::Forgotten(number) => state.set_endpoint(&record(number, None).0, None),
        Event::Records(records) => {
            state.set_endpoints(records.into_iter().map(|(number, pod)| record(number, pod)).collect());
        }
        Event::Policy(name, is) => {
            let (label, ways) = is.clone().unwrap_or_default();
            let (name, policy) = policy(name, label, &ways);
            let change = if is.is_some() { Change::Applied(name, policy) } else { Change::Deleted(name) };
            state.apply(ApiEvent::Policies(change));
        }
    }
}

/// What a decision comes to, whatever numbers it gave to policy sets.
fn essence(wanted: &Wanted) -> impl PartialEq + std::fmt::Debug + use<> {
    let admitted = wanted.endpoints.iter().map(|(id, admitted)| {
        let isolated: Vec<Way> = admitted.ways.clone();
        (id.clone(), (Arc::clone(&admitted.endpoint), isolated, admitted.set.is_some()))
    });
    (admitted.collect::<BTreeMap<_, _>>(), wanted.waiting.clone())
}

proptest! {
    #[test]
    fn deciding_after_each_change_comes_to_the_same_as_deciding_once(batches in vec(vec(event(), 1..4), 1..8)) {
        let (mut state, mut decider) = (complete(&[], &[]), Decider::default());
        let mut history = Vec::new();
        for batch in batches {
            for event in batch {
                happen(&mut state, event.clone());
                history.push(event);
            }
            let kept = decider.decide(&mut state, &Bgp::default(), &Traffic::default()).unwrap().wanted;
            let mut anew = complete(&[], &[]);
            for event in history.clone() {
                happen(&mut anew, event);
            }
            prop_assert_eq!(essence(&kept), essence(&wanted(&mut anew).unwrap()));
        }
    }
}

#[test]
fn a_pod_that_changes_is_called_by_the_same_text_as_before_wherever_it_is_known() {
    let known = facts("a", "u");
    let name = known.0.clone();
    let mut state = complete(&[known], &[]);
    let (again, mut changed) = facts("a", "u");
    assert!(!Arc::ptr_eq(&again.name, &name.name));
    Arc::make_mut(&mut changed.pod).terminating = true;
    state.apply(ApiEvent::OwnPods(Change::Applied(again, changed)));
    let (key, pod) = state.objects().pods.get_key_value(&name).unwrap();
    assert!(pod.terminating);
    assert!(Arc::ptr_eq(&key.name, &name.name) && Arc::ptr_eq(&pod.name.name, &name.name));
}
