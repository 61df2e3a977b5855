//! A cluster for one test, and what the tests look at.

use std::time::Duration;

use margay_api::{endpoint::Records, paths};
use margay_ipam::Store;
use margay_lab::{Daemon, Lab, LabConfig, Node, Party, PodKey, PodSpec, Port, clock, program};
use margay_netlink::{Socket, link};
use serde_json::Value;

pub(crate) const PORT: Port = Port::tcp(8080);
/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) async fn start(config: LabConfig) -> Lab {
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    lab
}

pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

pub(crate) fn party(name: &str) -> Party {
    Party::from(key(name))
}

/// Makes pods, each labelled with its own name, and does not wait for them.
pub(crate) async fn create(lab: &Lab, pods: &[(&str, &str)]) -> Vec<PodKey> {
    let of = |(name, node): &(&str, &str)| (key(name), PodSpec::new(&[("app", name)], &[PORT]).on(node));
    let pods: Vec<_> = pods.iter().map(of).collect();
    lab.create_pods(&pods).await.unwrap();
    pods.into_iter().map(|(key, _)| key).collect()
}

pub(crate) async fn run(lab: &Lab, pods: &[(&str, &str)]) -> Vec<PodKey> {
    let keys = create(lab, pods).await;
    lab.wait_pods(&keys, PATIENCE).await.unwrap();
    keys
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

/// Waits until something is so; the logs otherwise.
pub(crate) async fn until(lab: &Lab, what: &str, look: impl AsyncFn() -> bool) {
    let found = clock::until(PATIENCE, what, || async { look().await.then_some(()) }).await;
    if let Err(error) = found {
        panic!("{error:#}{}", lab.log_tail(40));
    }
}

pub(crate) async fn until_open(lab: &Lab, from: &str, to: &str, open: bool) {
    until(lab, &format!("{from} -> {to} open: {open}"), async || is_open(lab, from, to).await == open).await;
}

/// Waits until an agent has said something.
pub(crate) async fn until_said(lab: &Lab, node: &Node, words: &[&str]) {
    until(lab, &format!("{} says {words:?}", node.name()), async || said(node, words)).await;
}

/// Whether a line of an agent's log has all of these.
pub(crate) fn said(node: &Node, words: &[&str]) -> bool {
    node.log(Daemon::Agent, 2000).iter().any(|line| words.iter().all(|word| line.contains(word)))
}

/// Waits until the node can have pods.
pub(crate) async fn until_ready(lab: &Lab, node: &Node) {
    until(lab, &format!("{} is ready", node.name()), async || readiness(node).await.is_ok()).await;
}

/// What `/readyz` says, as an error when it is not ready.
pub(crate) async fn readiness(node: &Node) -> Result<(), String> {
    node.page("/readyz").await.unwrap().map(drop)
}

/// What pods have left on a node: addresses held, endpoint records, links.
pub(crate) async fn left(node: &Node) -> (usize, usize, usize) {
    let store = Store::new(&node.path(format!("{}/{}", paths::STATE_DIR, paths::IPAM)));
    let links = node.run(|| link::list(&mut Socket::open().unwrap()).unwrap()).await.unwrap();
    (
        store.allocations().unwrap().len(),
        records(node).list().unwrap().endpoints.len(),
        links.iter().filter(|link| link.name.starts_with("mgy")).count(),
    )
}

pub(crate) fn records(node: &Node) -> Records {
    Records::below(&node.path(paths::RUN_DIR))
}

/// Deletes pods, and waits until nodes have nothing left of any.
pub(crate) async fn leave_nothing(lab: &Lab, pods: &[PodKey]) {
    lab.delete_pods(pods).await.unwrap();
    for node in lab.nodes() {
        let what = format!("nothing is left on {}", node.name());
        until(lab, &what, async || left(node).await == (0, 0, 0)).await;
    }
}

/// The messages of the Events about a pod.
pub(crate) async fn events(lab: &Lab, pod: &str) -> Vec<String> {
    let events = lab.kubectl(&["get", "events", "-o", "json"], "").await.unwrap();
    let events: Value = serde_json::from_str(&events).unwrap();
    let of_pod = |event: &&Value| event["involvedObject"]["name"] == pod;
    let messages = events["items"].as_array().unwrap().iter().filter(of_pod);
    messages.filter_map(|event| event["message"].as_str().map(ToOwned::to_owned)).collect()
}

/// What `margayctl` prints on a node, whatever its exit status.
pub(crate) async fn margayctl(node: &Node, args: &str) -> String {
    let program = program("margayctl").unwrap();
    node.output("sh", &["-c", &format!("{} {args} 2>&1 || true", program.display())]).await.unwrap()
}
