//! A cluster for one test, and what the tests look at.

use std::time::Duration;

use margay_bgp::control::NeighborStatus;
use margay_lab::{Lab, LabConfig, PodKey, PodSpec, Port, clock, program};
use serde_json::Value;

pub(crate) const PORT: Port = Port::tcp(8080);
/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Where the router is.
pub(crate) const ROUTER: &str = "172.18.0.1";

pub(crate) async fn start(nodes: u8) -> Lab {
    let lab = Lab::start(LabConfig { nodes, ..LabConfig::default() }).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    lab
}

pub(crate) async fn apply(lab: &Lab, yaml: &str) {
    lab.kubectl(&["apply", "-f", "-"], yaml).await.unwrap();
}

pub(crate) async fn kubectl(lab: &Lab, arguments: &str) {
    lab.kubectl(&arguments.split(' ').collect::<Vec<_>>(), "").await.unwrap();
}

pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

/// Runs a pod on a node.
pub(crate) async fn run(lab: &Lab, name: &str, node: &str) {
    lab.create_pods(&[(key(name), PodSpec::new(&[], &[PORT]).on(node))]).await.unwrap();
    lab.wait_pods(&[key(name)], PATIENCE).await.unwrap();
}

/// BIRD's configuration, with a session for each of these: a name, the node's number, AS and password.
pub(crate) fn router(sessions: &[(&str, u8, u32, Option<&str>)]) -> String {
    let session = |(name, node, asn, password): &(&str, u8, u32, Option<&str>)| {
        let password = password.map(|it| format!("password \"{it}\"; ")).unwrap_or_default();
        let address = node + 1;
        format!(
            "protocol bgp {name} {{ local {ROUTER} as 64600; neighbor 172.18.0.{address} as {asn}; {password}\n  \
             connect delay time 1; connect retry time 1; error wait time 1, 1; hold time 9;\n  \
             ipv4 {{ import all; export none; }}; }}\n"
        )
    };
    let head = "log stderr all;\nrouter id 172.18.0.1;\nprotocol device { scan time 1; }\n".to_owned();
    head + &sessions.iter().map(session).collect::<String>()
}

/// What a node's speaker says of its sessions.
pub(crate) async fn neighbors(lab: &Lab, node: usize) -> Option<Vec<NeighborStatus>> {
    Some(lab.node(node).bgp_status().await.ok()?.neighbors)
}

/// A session of a node, if it has it.
pub(crate) async fn session(lab: &Lab, node: usize, peer: &str) -> Option<NeighborStatus> {
    neighbors(lab, node).await?.into_iter().find(|neighbor| neighbor.address.to_string() == peer)
}

/// Waits until something is so; what it was and the logs otherwise.
pub(crate) async fn until(lab: &Lab, what: &str, look: impl AsyncFn() -> bool) {
    let found = clock::until(PATIENCE, what, || async { look().await.then_some(()) }).await;
    if let Err(error) = found {
        let mut sessions = Vec::new();
        for index in 0..lab.nodes().len() {
            sessions.push(neighbors(lab, index).await);
        }
        panic!("{error:#}; sessions by node: {sessions:#?}{}", lab.log_tail(25));
    }
}

/// Waits until a node has this session, in this state.
pub(crate) async fn until_state(lab: &Lab, node: usize, peer: &str, state: &str) {
    let what = format!("session of node {} to {peer} {state}", node + 1);
    until(lab, &what, async || session(lab, node, peer).await.is_some_and(|it| it.state == state)).await;
}

/// Waits until the router's answer has these words, and not those.
pub(crate) async fn until_router(lab: &Lab, command: &str, with: &[&str], without: &[&str]) {
    let what = format!("router: {command}: {with:?} without {without:?}");
    until(lab, &what, async || {
        let answer = match lab.ask_router(command).await {
            Ok(answer) => answer,
            // It fails for a route that is not there.
            Err(_) if lab.ask_router("show status").await.is_ok() => String::new(),
            Err(_) => return false,
        };
        with.iter().all(|word| answer.contains(word)) && !without.iter().any(|word| answer.contains(word))
    })
    .await;
}

/// What a node's agent has told of its sessions.
pub(crate) async fn node_status(lab: &Lab, node: &str) -> Option<Value> {
    let text = lab.kubectl(&["get", "bgpnodestatus", node, "-o", "json"], "").await.ok()?;
    serde_json::from_str(&text).ok()
}

/// Waits until a node's status names a problem with these words; without words, until it has none.
pub(crate) async fn until_problem(lab: &Lab, node: &str, words: &[&str]) {
    until(lab, &format!("{node} tells of {words:?}"), async || {
        let Some(status) = node_status(lab, node).await else { return false };
        let problems = status["status"]["problems"].as_array().cloned().unwrap_or_default();
        let fits = |problem: &Value| words.iter().all(|word| problem.to_string().contains(word));
        if words.is_empty() { problems.is_empty() } else { problems.iter().any(fits) }
    })
    .await;
}

/// What `margayctl` prints outside of the cluster, and its exit status.
pub(crate) async fn margayctl(lab: &Lab, args: &[&str]) -> (String, Option<i32>) {
    let program = program("margayctl").unwrap();
    let command = tokio::process::Command::new(program)
        .args(args)
        .env("KUBECONFIG", lab.kubeconfig())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, command).await.unwrap().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}
