//! The compiler against the reference evaluator, and against itself from scratch, through random histories.

mod arbitrary;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use proptest::prelude::*;

use self::arbitrary::{Event, Probe};
use super::{Changes, ClassId, Compiler, Direction, Entries, PolicySetId, Touched, Verdict, Way};
use crate::{
    AddressRange, Enforcement, NamespaceChoice, Objects, Peer, Peers, Pod, PodName, Policy, PolicyId,
    PolicyRef, Ports, Protocol, Rule, Selector,
    evaluate::{Flow, evaluate, evaluate_audited},
};

/// A node that hears of changes one batch after the other.
#[derive(Default)]
struct Node {
    objects: Objects,
    local: BTreeSet<PodName>,
    compiler: Compiler,
    mirror: Mirror,
}

/// What a dataplane has that is told of changes alone.
#[derive(Debug, Default, PartialEq)]
struct Mirror {
    addresses: BTreeMap<IpAddr, ClassId>,
    ranges: BTreeMap<AddressRange, ClassId>,
    pods: BTreeMap<PodName, PolicySetId>,
    sets: BTreeMap<PolicySetId, BTreeMap<Way, Direction>>,
}

impl Node {
    fn hear(&mut self, batch: Vec<Event>) -> Changes {
        let mut touched = Touched::default();
        for event in batch {
            event.apply(&mut self.objects, &mut self.local, &mut touched);
        }
        let changes = self.compiler.update(&self.objects, |name| self.local.contains(name), &touched);
        self.mirror.take(&self.compiler, &changes);
        changes
    }

    fn anew(&self) -> Compiler {
        let mut compiler = Compiler::default();
        compiler.update(&self.objects, |name| self.local.contains(name), &Touched::everything(&self.objects));
        compiler
    }

    /// As a dataplane decides: by look-ups in the compiled state alone.
    fn decide(&self, flow: &Flow) -> [Verdict; 2] {
        if flow.source == flow.destination {
            return [Verdict::Allow; 2];
        }
        let port = Some((flow.protocol, flow.port));
        let side = |way, near, far| {
            let pod = self.compiler.pod_at(near);
            pod.map_or(Verdict::Allow, |pod| self.compiler.verdict(pod, way, far, port))
        };
        [side(Way::Egress, flow.source, flow.destination), side(Way::Ingress, flow.destination, flow.source)]
    }
}

impl Mirror {
    fn take(&mut self, compiler: &Compiler, changes: &Changes) {
        for address in &changes.addresses {
            set(&mut self.addresses, *address, compiler.class_of(*address));
        }
        for range in &changes.ranges {
            set(&mut self.ranges, *range, compiler.class_of_range(range));
        }
        for pod in &changes.pods {
            set(&mut self.pods, pod.clone(), compiler.set_of(pod));
        }
        for (id, change) in &changes.sets {
            let Some(now) = compiler.set(*id) else {
                self.sets.remove(id);
                continue;
            };
            let held = self.sets.entry(*id).or_default();
            for way in Way::ALL {
                let Some(now) = now.way(way) else {
                    assert!(held.remove(&way).is_none() || change.way(way).any);
                    continue;
                };
                if change.way(way).any {
                    let classes = held.remove(&way).map(|held| held.classes).unwrap_or_default();
                    held.insert(way, Direction { classes, ..now.clone() });
                }
                for class in &change.way(way).classes {
                    set(&mut held.get_mut(&way).unwrap().classes, *class, now.classes.get(class).cloned());
                }
            }
        }
    }

    fn of(compiler: &Compiler, local: &BTreeSet<PodName>) -> Self {
        let sets = compiler.sets().map(|(id, set)| {
            let ways = Way::ALL.into_iter().filter_map(|way| Some((way, set.way(way)?.clone())));
            (id, ways.collect())
        });
        Self {
            addresses: compiler.addresses().collect(),
            ranges: compiler.ranges().collect(),
            pods: local.iter().filter_map(|name| Some((name.clone(), compiler.set_of(name)?))).collect(),
            sets: sets.collect(),
        }
    }

    /// The same with numbers that do not depend on history: a class is its addresses, a policy set its pods.
    fn canonical(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let mut members: BTreeMap<ClassId, (Vec<IpAddr>, Vec<AddressRange>)> = BTreeMap::new();
        for (address, class) in &self.addresses {
            members.entry(*class).or_default().0.push(*address);
        }
        for (range, class) in &self.ranges {
            members.entry(*class).or_default().1.push(*range);
        }
        let mut sets: BTreeMap<PolicySetId, Vec<PodName>> = BTreeMap::new();
        for (pod, set) in &self.pods {
            sets.entry(*set).or_default().push(pod.clone());
        }
        let classes_of = |direction: &Direction| {
            let mut classes: Vec<_> = direction
                .classes
                .iter()
                .map(|(class, entries)| (members.get(class).cloned(), passing(entries)))
                .collect();
            classes.sort();
            classes
        };
        let said = self.sets.iter().map(|(id, ways)| {
            let ways: Vec<_> = ways
                .iter()
                .map(|(way, direction)| {
                    let Direction { any, isolating, audited, .. } = direction;
                    (*way, classes_of(direction), passing(any), isolating.clone(), audited.clone())
                })
                .collect();
            (sets.get(id).cloned(), ways)
        });
        let mut said: Vec<_> = said.collect();
        said.sort();
        (
            self.addresses.keys().copied().collect::<Vec<_>>(),
            self.ranges.keys().copied().collect::<Vec<_>>(),
            said,
        )
    }
}

/// Ports of a protocol, from and to; `None` for the rest; and the kind of a verdict.
type Passing = (Option<(Protocol, u16, u16)>, u8);

/// Entries without the numbers of causes, which depend on history.
fn passing(entries: &Entries) -> Vec<Passing> {
    let kind = |verdict| match verdict {
        Verdict::Allow => 0,
        Verdict::Audit(_) => 1,
        Verdict::Deny(_) => 2,
    };
    let ports = entries.ports.iter();
    let ports =
        ports.map(|entry| (Some((entry.protocol, entry.ports.first, entry.ports.last)), kind(entry.verdict)));
    ports.chain([(None, kind(entries.rest))]).collect()
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn check_flows(node: &Node, probes: &[Probe]) -> Result<(), TestCaseError> {
    for Probe { source, destination, protocol, port } in probes {
        let flow = Flow { source: *source, destination: *destination, protocol: *protocol, port: *port };
        let here = |address| node.compiler.pod_at(address).is_none_or(|pod| node.local.contains(pod));
        let [egress, ingress] = node.decide(&flow);
        let (now, audited) = (evaluate(&node.objects, &flow), evaluate_audited(&node.objects, &flow));
        // Of pods of other nodes, other nodes decide.
        let sides = [
            (here(flow.source), egress, now.egress, audited.egress),
            (here(flow.destination), ingress, now.ingress, audited.ingress),
        ];
        for (_, verdict, now, audited) in sides.into_iter().filter(|(is_here, ..)| *is_here) {
            prop_assert_eq!(verdict.passes(), now.allows(), "{:?}: {:?}", flow, now);
            let is_found = matches!(verdict, Verdict::Audit(_));
            prop_assert_eq!(is_found, now.allows() && !audited.allows(), "{:?}: {:?}", flow, audited);
        }
    }
    Ok(())
}

/// Whatever passed and does not any more is among what is said to be tightened.
fn check_tightened(
    before: &[(Probe, [Verdict; 2])],
    pods: &BTreeMap<IpAddr, PodName>,
    node: &Node,
    changes: &Changes,
) -> Result<(), TestCaseError> {
    for (probe, past) in before {
        let flow = Flow {
            source: probe.source,
            destination: probe.destination,
            protocol: probe.protocol,
            port: probe.port,
        };
        for ((near, far), (past, now)) in [(flow.source, flow.destination), (flow.destination, flow.source)]
            .into_iter()
            .zip(past.iter().zip(node.decide(&flow)))
        {
            let Some(pod) = pods.get(&near) else { continue };
            let stays = node.compiler.pod_at(near) == Some(pod) && node.local.contains(pod);
            if stays && past.passes() && !now.passes() {
                let found =
                    changes.tightened.pods.contains(pod) || changes.tightened.addresses.contains(&far);
                prop_assert!(found, "{:?} of {}: {:?}", flow, pod, changes.tightened);
            }
        }
    }
    Ok(())
}

fn config(cases: u32) -> ProptestConfig {
    // `make fuzz` asks for more.
    let more =
        std::env::var("MARGAY_FUZZ_FACTOR").ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(1);
    ProptestConfig { cases: cases * more, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn any_history_ends_where_compiling_from_scratch_does_and_decides_as_the_reference_evaluator(
        batches in arbitrary::batches(),
        probes in prop::collection::vec(arbitrary::probe(), 60),
    ) {
        let mut node = Node::default();
        for batch in batches {
            let before: Vec<_> = probes
                .iter()
                .map(|probe| {
                    let Probe { source, destination, protocol, port } = *probe;
                    (*probe, node.decide(&Flow { source, destination, protocol, port }))
                })
                .collect();
            let owners = |node: &Node| -> BTreeMap<IpAddr, PodName> {
                let owners = node.objects.owners().into_iter();
                owners.filter(|(_, pod)| node.local.contains(&pod.name)).map(|(ip, pod)| (ip, pod.name.clone())).collect()
            };
            let pods = owners(&node);
            let changes = node.hear(batch);
            for (address, pod) in node.objects.owners() {
                prop_assert_eq!(node.compiler.pod_at(address), Some(&pod.name));
            }
            prop_assert_eq!(&node.mirror, &Mirror::of(&node.compiler, &node.local));
            let scratch = Mirror::of(&node.anew(), &node.local);
            prop_assert!(node.mirror.canonical() == scratch.canonical(), "{:#?}\n{:#?}", node.mirror, scratch);
            check_flows(&node, &probes)?;
            check_tightened(&before, &pods, &node, &changes)?;
            // A listing after a lost watch brings nothing new.
            let touched = Touched::everything(&node.objects);
            let again = node.compiler.update(&node.objects, |name| node.local.contains(name), &touched);
            prop_assert!(again.is_empty() && again.tightened.is_empty(), "{:?}", again);
        }
    }
}

fn pod(namespace: &str, name: String, label: (&str, &str), address: [u8; 4]) -> Pod {
    Pod {
        name: PodName::new(namespace, name),
        labels: Arc::new([(label.0.to_owned(), label.1.to_owned())].into()),
        addresses: vec![IpAddr::from(address)],
        announced: vec![],
        ports: vec![],
        host_network: false,
        finished: false,
        terminating: false,
        created: 0,
    }
}

fn policy(name: &str, peers: Vec<Peer>) -> Policy {
    Policy {
        name: PolicyRef { namespace: "x".into(), name: name.into() },
        pod_selector: Selector::default(),
        ingress: Some(vec![Rule { peers: Peers::Of(peers), ports: Ports::Any }]),
        egress: None,
        enforcement: Enforcement::Enforce,
    }
}

/// A node with one pod, `x/p0`, that knows 200 pods of namespace x.
fn crowd() -> Node {
    let mut node = Node::default();
    let pods = (0..200_u8).map(|host| {
        let pod =
            pod("x", format!("p{host}"), ("half", if host % 2 == 0 { "0" } else { "1" }), [10, 0, 1, host]);
        Event::Pod(pod.name.clone(), Some(pod))
    });
    node.hear(pods.chain([Event::Local(PodName::new("x", "p0"), true)]).collect());
    node
}

fn pods_of(namespace: &str) -> Peer {
    Peer::Pods { namespaces: NamespaceChoice::Own(namespace.into()), pods: Selector::default() }
}

fn put(policy: Policy) -> Event {
    Event::Policy(policy.name.clone(), Some(Box::new(policy)))
}

#[test]
fn a_policy_that_names_many_pods_costs_one_class() {
    let mut node = crowd();
    node.hear(vec![put(policy("a", vec![pods_of("x")]))]);
    let classes: BTreeSet<ClassId> = node.compiler.addresses().map(|(_, class)| class).collect();
    assert_eq!((classes.len(), node.compiler.addresses().count()), (1, 200));
    let (_, set) = node.compiler.sets().next().unwrap();
    assert_eq!(set.ingress.as_ref().unwrap().classes.len(), 1);
    assert_eq!(set.egress, None);
}

#[test]
fn a_second_policy_about_the_same_pods_moves_no_address_and_keeps_the_policy_set() {
    let mut node = crowd();
    node.hear(vec![put(policy("a", vec![pods_of("x")]))]);
    let everywhere =
        Peer::Pods { namespaces: NamespaceChoice::Selected(Selector::default()), pods: Selector::default() };
    let changes = node.hear(vec![put(policy("b", vec![everywhere]))]);
    assert!(changes.addresses.is_empty() && changes.pods.is_empty(), "{changes:?}");
    assert_eq!(changes.sets.len(), 1);
    let name = PolicyId::Network(PolicyRef { namespace: "x".into(), name: "b".into() });
    let changes = node.hear(vec![Event::Policy(name_of(&name), None)]);
    assert!(changes.addresses.is_empty() && changes.pods.is_empty(), "{changes:?}");
}

fn name_of(id: &PolicyId) -> PolicyRef {
    match id {
        PolicyId::Network(name) => name.clone(),
        PolicyId::Cluster(_) => unreachable!("asked for NetworkPolicies only"),
    }
}

#[test]
fn a_relabelled_pod_moves_its_own_address_alone() {
    let mut node = crowd();
    let half = |value: &str| Peer::Pods {
        namespaces: NamespaceChoice::Own("x".into()),
        pods: Selector::new([crate::Requirement::In("half".into(), [value.to_owned()].into())]),
    };
    node.hear(vec![put(policy("a", vec![half("0")])), put(policy("b", vec![half("1")]))]);
    let moved = pod("x", "p7".into(), ("half", "0"), [10, 0, 1, 7]);
    let changes = node.hear(vec![Event::Pod(moved.name.clone(), Some(moved))]);
    assert_eq!(changes.addresses, [IpAddr::from([10, 0, 1, 7])].into());
    assert!(changes.sets.is_empty() && changes.pods.is_empty() && changes.ranges.is_empty(), "{changes:?}");
}

#[test]
fn what_opens_tightens_nothing_and_what_closes_does() {
    let mut node = crowd();
    let own = PodName::new("x", "p0");
    let changes = node.hear(vec![put(policy("a", vec![]))]);
    assert_eq!(changes.tightened.pods, [own.clone()].into());
    let changes = node.hear(vec![put(policy("a", vec![pods_of("x")]))]);
    assert!(changes.tightened.is_empty(), "{changes:?}");
    let stranger = pod("y", "q".into(), ("half", "0"), [10, 0, 1, 9]);
    let changes = node.hear(vec![
        Event::Pod(PodName::new("x", "p9"), None),
        Event::Pod(stranger.name.clone(), Some(stranger)),
    ]);
    assert_eq!(changes.tightened.addresses, [IpAddr::from([10, 0, 1, 9])].into());
}
