//! A cluster for one test, and what the tests look at.

use std::time::Duration;

use margay_api::{endpoint::Records, paths};
use margay_ipam::Store;
use margay_lab::{Daemon, Lab, LabConfig, Node, Party, PodKey, PodSpec, Port, clock};
use margay_netlink::{Socket, link};

pub(crate) const PORT: Port = Port::tcp(8080);
/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) async fn start(nodes: u8) -> Lab {
    let lab = Lab::start(LabConfig { nodes, ..LabConfig::default() }).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    lab
}

pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

pub(crate) fn party(name: &str) -> Party {
    Party::pod("default", name)
}

/// A pod labelled with its own name.
pub(crate) fn pod(name: &str, node: &str) -> (PodKey, PodSpec) {
    (key(name), PodSpec::new(&[("app", name)], &[PORT]).on(node))
}

pub(crate) async fn run_pods(lab: &Lab, pods: &[(&str, &str)]) {
    let pods: Vec<_> = pods.iter().map(|(name, node)| pod(name, node)).collect();
    lab.create_pods(&pods).await.unwrap();
    let keys: Vec<_> = pods.into_iter().map(|(key, _)| key).collect();
    lab.wait_pods(&keys, PATIENCE).await.unwrap();
}

/// Isolates the pods that are called `name` from everyone.
pub(crate) async fn deny(lab: &Lab, name: &str) {
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: deny-{name}, namespace: default}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {name}}}}}}}\n"
    );
    lab.kubectl(&["apply", "-f", "-"], &policy).await.unwrap();
}

pub(crate) async fn is_open(lab: &Lab, from: &str, to: &str) -> bool {
    lab.reach(&party(from), &party(to), PORT).await.unwrap().is_open()
}

pub(crate) async fn until_open(lab: &Lab, from: &str, to: &str, open: bool) {
    let what = format!("{from} -> {to} open: {open}");
    let look = || async { (is_open(lab, from, to).await == open).then_some(()) };
    if let Err(error) = clock::until(PATIENCE, &what, look).await {
        panic!("{error:#}{}", lab.log_tail(20));
    }
}

/// Waits until a process runs, with another ID than before.
pub(crate) async fn until_restarted(node: &Node, daemon: Daemon, before: Option<u32>) {
    let look = || async { node.pid(daemon).filter(|pid| Some(*pid) != before) };
    clock::until(PATIENCE, "the process is started again", look).await.unwrap();
}

/// What pods have left on a node: addresses held, endpoint records, links.
pub(crate) async fn left(node: &Node) -> (usize, usize, usize) {
    let store = Store::new(&node.path(format!("{}/{}", paths::STATE_DIR, paths::IPAM)));
    let records = Records::below(&node.path(paths::RUN_DIR));
    let links = node.run(|| link::list(&mut Socket::open().unwrap()).unwrap()).await.unwrap();
    (
        store.allocations().unwrap().len(),
        records.list().unwrap().endpoints.len(),
        links.iter().filter(|link| link.name.starts_with("mgy")).count(),
    )
}
