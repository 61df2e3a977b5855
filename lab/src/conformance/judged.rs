//! The cases that are checked in, judged by the reference evaluator with no cluster.

use super::case::{Case, IpFamily, Labels, Name, PodDef, Step, Verdict};
use super::cluster::Cluster;
use super::pattern::Endpoint;
use super::substitute::Addresses;
use super::table::{Member, Row, has_nodes, narrowed, node_ports, own_rows, rows, verdict};
use super::twin::Twins;
use super::world::families;
use crate::PodKey;
use crate::station::Protocol;
use margay_policy::evaluate::{Flow, Side, evaluate};
use margay_policy::{NamedPort, Namespace, Node, Objects, Pod, PodName, PolicyRef, convert, convert_cluster};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

/// A cluster that is nothing but objects.
#[derive(Default)]
struct Model {
    objects: Objects,
    cluster: Cluster,
    addresses: Addresses,
    finished: BTreeSet<PodKey>,
    /// Pods that were ever made.
    made: u8,
}

impl Model {
    fn new(case: &Case) -> Self {
        let mut model = Self::default();
        let cluster = Cluster::build(&case.cluster).unwrap();
        for (number, name) in (1..).zip(cluster.node_names()) {
            let labels = cluster.nodes.get(name).cloned().unwrap_or_default();
            let addresses = both([172, 18, 0, number], 0x1000 + u16::from(number));
            model.addresses.nodes.insert(name.to_owned(), addresses.clone());
            model.objects.nodes.insert(name.to_owned(), Node { labels, addresses, ..Node::default() });
        }
        for (name, external) in &cluster.externals {
            let addresses = external.ipv4.map(IpAddr::V4).into_iter().chain(external.ipv6.map(IpAddr::V6));
            model.addresses.externals.insert(name.clone(), addresses.collect());
        }
        for (name, labels) in &cluster.namespaces {
            model.label_namespace(name, labels);
        }
        let pods: Vec<PodDef> = cluster.pods.values().cloned().collect();
        model.cluster = Cluster { pods: [].into(), ..cluster };
        for pod in pods {
            model.add(pod);
        }
        model
    }

    fn change(&mut self, step: &Step) {
        for name in &step.delete {
            let parts: Vec<&str> = name.split('/').collect();
            match *parts.as_slice() {
                ["NetworkPolicy", namespace, name] => {
                    let name = PolicyRef { namespace: namespace.into(), name: name.into() };
                    self.objects.policies.remove(&name).unwrap();
                }
                ["ClusterNetworkPolicy", name] => drop(self.objects.cluster_policies.remove(name).unwrap()),
                _ => panic!("delete {name}"),
            }
        }
        for Name(key) in &step.remove {
            let gone =
                |pod: &PodKey| pod.namespace == key.namespace && (key.name == "*" || pod.name == key.name);
            self.cluster.pods.retain(|pod, _| !gone(pod));
            self.objects.pods.retain(|pod, _| !gone(&PodKey::new(&*pod.namespace, &*pod.name)));
        }
        for Name(key) in &step.finish {
            self.finished.insert(key.clone());
            self.pod(key).finished = true;
        }
        for Name(key) in &step.terminate {
            self.pod(key).terminating = true;
        }
        for (name, labels) in &step.namespaces {
            self.label_namespace(name, labels);
        }
        for pod in &step.pods {
            self.add(pod.clone());
        }
        for (name, labels) in &step.relabel {
            match name.split_once(':').unwrap() {
                ("pod", pod) => self.pod(&pod.parse().unwrap()).labels = Arc::new(labels.clone()),
                ("namespace", name) => self.label_namespace(name, labels),
                ("node", name) => self.objects.nodes.get_mut(name).unwrap().labels = labels.clone(),
                _ => panic!("relabel {name}"),
            }
        }
        for object in &step.apply {
            self.apply(self.addresses.substitute(object).unwrap());
        }
    }

    fn apply(&mut self, object: Value) {
        match object["kind"].as_str().unwrap() {
            "NetworkPolicy" => {
                let policy = convert(&serde_json::from_value(object).unwrap()).0.unwrap();
                self.objects.policies.insert(policy.name.clone(), policy);
            }
            "ClusterNetworkPolicy" => {
                let policy = convert_cluster(&serde_json::from_value(object).unwrap()).0.unwrap();
                self.objects.cluster_policies.insert(policy.name.clone(), policy);
            }
            kind => panic!("apply {kind}"),
        }
    }

    fn label_namespace(&mut self, name: &str, labels: &Labels) {
        let namespace = Namespace { name: name.to_owned(), labels: labels.clone() };
        self.objects.namespaces.insert(name.to_owned(), namespace);
    }

    fn pod(&mut self, key: &PodKey) -> &mut Pod {
        Arc::make_mut(self.objects.pods.get_mut(&PodName::new(&key.namespace, &key.name)).unwrap())
    }

    fn add(&mut self, pod: PodDef) {
        self.made += 1;
        let key = pod.name.0.clone();
        let addresses = match &pod.reuse_ip_of {
            Some(Name(old)) => self.addresses.pods[old].clone(),
            None if pod.host => self.addresses.nodes[&pod.node].clone(),
            None => both([10, 244, 0, self.made], u16::from(self.made)),
        };
        let named = pod.ports.iter().chain(&pod.sidecar_ports).filter_map(|port| {
            let protocol = protocol(port.port.protocol);
            Some(NamedPort { name: port.name.clone()?, protocol, number: port.port.number })
        });
        let object = Pod {
            name: PodName::new(&key.namespace, &key.name),
            labels: Arc::new(pod.labels.clone()),
            addresses: addresses.clone(),
            announced: Vec::new(),
            ports: named.collect(),
            host_network: pod.host,
            finished: false,
            terminating: false,
            created: i64::from(self.made),
        };
        self.finished.remove(&key);
        self.addresses.pods.insert(key.clone(), addresses);
        self.objects.pods.insert(object.name.clone(), Arc::new(object));
        self.cluster.pods.insert(key, pod);
    }

    fn members(&self, case: &Case, step: &Step) -> Vec<Member> {
        let probe = narrowed(&case.probe, step.probe.as_ref());
        let member = |endpoint, is_pod, ports: Vec<_>, addresses: &[IpAddr]| {
            let has = |is_ipv4| addresses.iter().any(|address| address.is_ipv4() == is_ipv4);
            let families = [(IpFamily::Ipv4, true), (IpFamily::Ipv6, false)].into_iter();
            let families = families.filter(|(_, is_ipv4)| has(*is_ipv4)).map(|(family, _)| family);
            Member { endpoint, is_pod, ports, families: families.collect(), backends: BTreeSet::new() }
        };
        let living = self.cluster.pods.iter().filter(|(key, _)| !self.finished.contains(*key));
        let pods = living.map(|(key, pod)| {
            let ports = pod.ports.iter().chain(&pod.sidecar_ports).map(|named| named.port).collect();
            member(Endpoint::Pod(key.clone()), !pod.host, ports, &self.addresses.pods[key])
        });
        let externals = self.cluster.externals.iter().map(|(name, external)| {
            let ports = external.ports.iter().map(|named| named.port).collect();
            member(Endpoint::External(name.clone()), false, ports, &self.addresses.externals[name])
        });
        let nodes = self.addresses.nodes.iter().filter(|_| has_nodes(&probe)).map(|(name, addresses)| {
            member(Endpoint::Node(name.clone()), false, node_ports(&probe), addresses)
        });
        pods.chain(externals).chain(nodes).collect()
    }

    fn allows(&self, row: &Row) -> bool {
        let flow = Flow {
            source: self.address(&row.from, row.family),
            destination: self.address(&row.to, row.family),
            protocol: protocol(row.port.protocol),
            port: row.port.number,
        };
        let decision = evaluate(&self.objects, &flow);
        match (self.place(&row.from), self.place(&row.to)) {
            // A node reaches its pods whatever policies say, and they reach it whatever NetworkPolicies say.
            ((from, true), (to, false)) if from == to => true,
            ((from, false), (to, true)) if from == to => !matches!(decision.egress, Side::Denied { .. }),
            _ => decision.allowed(),
        }
    }

    fn address(&self, endpoint: &Endpoint, family: IpFamily) -> IpAddr {
        let all = match endpoint {
            Endpoint::Pod(key) => &self.addresses.pods[key],
            Endpoint::External(name) => &self.addresses.externals[name],
            Endpoint::Node(name) => &self.addresses.nodes[name],
            Endpoint::Service(key) => &self.addresses.services[key],
        };
        *all.iter().find(|address| address.is_ipv4() == (family == IpFamily::Ipv4)).unwrap()
    }

    /// The node of an endpoint, and whether it is the node itself.
    fn place<'a>(&'a self, endpoint: &'a Endpoint) -> (&'a str, bool) {
        match endpoint {
            Endpoint::Pod(key) => (&self.cluster.pods[key].node, self.cluster.pods[key].host),
            Endpoint::External(name) => (name, false),
            Endpoint::Node(name) => (name, true),
            Endpoint::Service(key) => (&key.name, false),
        }
    }
}

fn both(four: [u8; 4], six: u16) -> Vec<IpAddr> {
    vec![Ipv4Addr::from(four).into(), Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, six).into()]
}

fn protocol(protocol: Protocol) -> margay_policy::Protocol {
    match protocol {
        Protocol::Tcp => margay_policy::Protocol::Tcp,
        Protocol::Udp => margay_policy::Protocol::Udp,
        Protocol::Sctp => margay_policy::Protocol::Sctp,
    }
}

/// Judges every table of a case; says how many rows there were, and which are not as they must be.
fn judge(case: &Case) -> (usize, Vec<String>) {
    let mut model = Model::new(case);
    let mut judged = 0;
    let mut wrong = Vec::new();
    for step in &case.steps {
        model.change(step);
        let Some(expect) = &step.expect else { continue };
        let probe = narrowed(&case.probe, step.probe.as_ref());
        let members = model.members(case, step);
        let table =
            rows(&members, &probe, &families(case)).into_iter().map(|row| (verdict(expect, &row), row));
        let own = expect.own.into_iter().flat_map(|own| {
            own_rows(&members, &probe, &families(case)).into_iter().map(move |row| (own, row))
        });
        for (verdict, row) in table.chain(own) {
            let expected = match verdict {
                Verdict::Allow => true,
                Verdict::Deny => false,
                Verdict::Any => continue,
            };
            judged += 1;
            if model.allows(&row) != expected {
                let (step, to, port) = (step.name.as_deref().unwrap_or("-"), &row.to, row.port);
                wrong.push(format!("{}, {step}: {} to {to} on {port}: not {verdict:?}", case.name, row.from));
            }
        }
    }
    (judged, wrong)
}

#[test]
fn every_truth_table_is_what_the_reference_evaluator_says() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    let folders = ["netpol", "clusternetworkpolicy", "corners"].map(|name| cases.join(name).join("cases"));
    let twins = Twins::new().unwrap();
    let cases = super::read(&folders).unwrap();
    let cases = cases.into_iter().flat_map(|case| [twins.of(&case), Some(case)]).flatten();
    let mut judged = 0;
    let mut wrong = Vec::new();
    for case in cases.filter(|case| !case.needs.iter().any(|need| need == "service")) {
        let (rows, mut differing) = judge(&case);
        assert!(rows > 0, "{}: no row is judged", case.name);
        judged += rows;
        wrong.append(&mut differing);
    }
    assert!(wrong.is_empty(), "{} of {judged} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged > 10_000, "{judged}");
}
