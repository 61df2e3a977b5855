//! What goes on in a cluster of that size: pods come and go, nodes report that they live, policies are edited.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use margay_lab::apiserver::ApiServer;
use tokio::time::interval;

use crate::{
    kernel::Kernel,
    now,
    object::{self, NAMESPACES, NODES, OWN, Phase, Pod, namespace_name},
    reflector::{Change, Reflector},
};

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(10);
/// Each node reports as often (kubelet's `nodeStatusReportFrequency`).
const REPORT: Duration = Duration::from_mins(5);
const POLICY_EDIT: Duration = Duration::from_mins(1);
/// A node's network goes, or comes back, as often.
const NODE_CHANGE: Duration = Duration::from_secs(10);
/// How often each kind of change that concerns the node is made to see how long it takes.
const PROBE: Duration = Duration::from_secs(1);
/// From the creation of a pod until it is bound, runs, ends and is gone.
const BOUND: Duration = Duration::from_millis(50);
const RUNNING: Duration = Duration::from_secs(2);
const ENDING: Duration = Duration::from_secs(12);
const GONE: Duration = Duration::from_secs(14);
/// The first address of pods that come, in the network of their node: after those of the pods that stay.
const FIRST: u32 = 40;
const ADDRESSES: u32 = 200;

/// How much happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) pods_per_second: u32,
    pub(crate) lasts: Duration,
}

/// What there was to hear for who watches everything.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Happened {
    pub(crate) pods: u32,
    pub(crate) pod_events: u32,
    pub(crate) node_reports: u32,
    pub(crate) policy_edits: u32,
}

/// A step in the life of a pod that is due.
#[derive(Debug, Clone, Copy)]
struct Step {
    serial: u32,
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Bind,
    Run,
    End,
    Go,
}

pub(crate) struct Life<'a> {
    pub(crate) api: &'a ApiServer,
    pub(crate) kernel: &'a Kernel,
    pub(crate) reflectors: &'a [Reflector],
    /// Pods of the node with a policy: namespace and app.
    pub(crate) judged: Vec<(u32, u32)>,
    /// Of pods and ports that came before, in all lives.
    pub(crate) serial: u32,
}

impl Life<'_> {
    /// Lives, and probes: each second a pod that a policy of a pod here names gets an address, and an edit of such a policy is
    /// made. The kernel's listener has how long they took.
    pub(crate) async fn live(&mut self, rate: Rate) -> Happened {
        let begin = now();
        let mut happened = Happened::default();
        let mut due: BTreeMap<(Instant, u32), Step> = BTreeMap::new();
        let mut tick = interval(TICK);
        let mut reports = 0;
        let mut probes = 0;
        let mut node_changes = 0;
        loop {
            tick.tick().await;
            let at = now();
            let elapsed = at - begin;
            if elapsed >= rate.lasts {
                break;
            }
            while happened.pods < due_by(elapsed, Duration::from_secs(1) / rate.pods_per_second) {
                happened.pods += 1;
                self.serial += 1;
                let serial = self.serial;
                self.put(serial, Phase::Created);
                happened.pod_events += 1;
                for (after, next) in
                    [(BOUND, Next::Bind), (RUNNING, Next::Run), (ENDING, Next::End), (GONE, Next::Go)]
                {
                    due.insert((at + after, serial), Step { serial, next });
                }
            }
            while let Some(first) = due.first_entry().filter(|first| first.key().0 <= at) {
                let Step { serial, next } = first.remove();
                self.step(serial, next);
                happened.pod_events += 1;
            }
            while happened.node_reports < due_by(elapsed, REPORT / NODES) {
                happened.node_reports += 1;
                reports += 1;
                self.put_object(object::node((reports * 7) % NODES, reports));
            }
            while happened.policy_edits < due_by(elapsed + POLICY_EDIT / 2, POLICY_EDIT) {
                happened.policy_edits += 1;
                self.serial += 1;
                self.put_object(object::policy(self.serial % NAMESPACES, 3, 9000));
            }
            while node_changes < due_by(elapsed, NODE_CHANGE) {
                node_changes += 1;
                let node = NODES - 1 - node_changes / 2;
                let change =
                    if node_changes % 2 == 1 { Change::Withdraw(node) } else { Change::Announce(node) };
                for reflector in self.reflectors {
                    reflector.tell(change);
                }
            }
            while probes < due_by(elapsed, PROBE) {
                probes += 1;
                self.probe(probes);
            }
        }
        // What is left goes at once: the next life begins with as many pods.
        for Step { serial, next } in due.into_values() {
            if next == Next::Go {
                self.step(serial, next);
            }
        }
        happened
    }

    fn probe(&mut self, number: u32) {
        self.serial += 1;
        let (namespace, app) = self.judged[number as usize % self.judged.len()];
        // Numbers that nothing else in the table has: an address of no node, and a port that an element has after TCP.
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 250, 0, 0)) + self.serial);
        let port = u16::try_from(20_000 + self.serial % 40_000).unwrap();
        let [high, low] = port.to_be_bytes();
        self.kernel.await_mark(address.octets().to_vec());
        let name = format!("probe-{}", self.serial);
        self.put_object(object::pod(namespace, app + 1, &name, 3, Phase::Running(address)));
        self.kernel.await_mark(vec![6, 0, 0, 0, high, low, 0, 0]);
        self.put_object(object::policy(namespace, app, port));
    }

    fn step(&self, serial: u32, next: Next) {
        let address = churned_address(serial);
        match next {
            Next::Bind => self.put(serial, Phase::Bound),
            Next::Run => self.put(serial, Phase::Running(address)),
            Next::End => self.put(serial, Phase::Ending(address)),
            Next::Go => {
                let (pod, name) = churned(serial);
                self.api.remove_raw("v1", "Pod", &namespace_name(pod.namespace()), &name);
            }
        }
    }

    fn put(&self, serial: u32, phase: Phase) {
        let (pod, name) = churned(serial);
        self.put_object(object::pod(pod.namespace(), pod.app(), &name, churned_node(serial), phase));
    }

    fn put_object(&self, object: serde_json::Value) {
        drop(self.api.put_raw(object).unwrap());
    }
}

/// How many have come by then that come as often.
fn due_by(elapsed: Duration, every: Duration) -> u32 {
    u32::try_from(elapsed.as_nanos() / every.as_nanos()).unwrap()
}

/// A pod that comes is like one of those that stay.
fn churned(serial: u32) -> (Pod, String) {
    let pod = Pod { number: serial * 7_919 % (NODES * object::PODS) };
    (pod, format!("{}-{serial:08}", pod.name()))
}

/// On any node but the one that is measured: the kubelet there would have to make it.
fn churned_node(serial: u32) -> u32 {
    let node = serial * 31 % NODES;
    if node == OWN { node + 1 } else { node }
}

fn churned_address(serial: u32) -> Ipv4Addr {
    let network = object::pod_network(churned_node(serial));
    Ipv4Addr::from(u32::from(network) + FIRST + serial / NODES % ADDRESSES)
}

/// The pods of the node, at the start of the cluster.
pub(crate) fn local() -> impl Iterator<Item = Pod> {
    Pod::all().filter(|pod| pod.node() == OWN)
}

/// All objects but the pods of the node.
pub(crate) fn populate(api: &ApiServer) {
    let put = |object| drop(api.put_raw(object).unwrap());
    for definition in margay_api::resource::definitions() {
        put(serde_json::to_value(definition).unwrap());
    }
    (0..NODES).for_each(|number| put(object::node(number, 0)));
    for number in 0..NAMESPACES {
        put(object::namespace(number));
        (0..object::POLICIES).for_each(|app| put(object::policy(number, app, 8000)));
    }
    for pod in Pod::all().filter(|pod| pod.node() != OWN) {
        put(object::pod(pod.namespace(), pod.app(), &pod.name(), pod.node(), Phase::Running(pod.address())));
    }
}
