//! A cluster for one test, and what the programs count in it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use margay_lab::{Daemon, Dataplane, IpFamilies, Lab, LabConfig, Party, PodKey, PodSpec, Port, Protocol};

pub(crate) const TCP: Port = Port::tcp(8080);
pub(crate) const UDP: Port = Port { protocol: Protocol::Udp, number: 8081 };
/// How long anything may take before a test fails, in a machine of software too (`make test-kernels`).
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// What the agent is started with: no more than the manifest gives it (`manifests/base/daemonset.yaml`).
const AGENT: &str = "#!/bin/sh
exec setpriv --bounding-set=-all,+net_admin,+bpf,+perfmon -- PROGRAM \"$@\"
";

/// Programs of a node, of which the agent has no more privilege than in a cluster.
fn programs() -> tempfile::TempDir {
    let target =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["margay", "margay-bgp"] {
        std::os::unix::fs::symlink(target.join(name), folder.path().join(name)).unwrap();
    }
    let agent = folder.path().join("margay-node");
    std::fs::write(&agent, AGENT.replace("PROGRAM", &target.join("margay-node").display().to_string()))
        .unwrap();
    std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Two nodes, of which both have the eBPF dataplane; and what is to be kept as long as they are.
pub(crate) async fn start() -> (Lab, tempfile::TempDir) {
    start_with(LabConfig::default()).await
}

/// Likewise, with another network between them.
pub(crate) async fn start_with(config: LabConfig) -> (Lab, tempfile::TempDir) {
    let programs = programs();
    let config = LabConfig { nodes: 2, dataplane: Dataplane::Ebpf, ip_families: IpFamilies::Dual, ..config };
    let config = LabConfig { binaries: Some(programs.path().to_owned()), ..config };
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    (lab, programs)
}

pub(crate) fn party(name: &str) -> Party {
    Party::pod("default", name)
}

/// Runs pods, each labelled with its own name, and waits until flows between them may take the short way.
pub(crate) async fn run(lab: &Lab, pods: &[(&str, &str)]) {
    let pods: Vec<_> = pods
        .iter()
        .map(|(name, node)| {
            (PodKey::new("default", *name), PodSpec::new(&[("app", name)], &[TCP, UDP]).on(node))
        })
        .collect();
    lab.create_pods(&pods).await.unwrap();
    let keys: Vec<_> = pods.iter().map(|(key, _)| key.clone()).collect();
    lab.wait_pods(&keys, PATIENCE).await.unwrap();
    // The programs know all of them, and flows may begin.
    for (number, node) in lab.nodes().iter().enumerate() {
        let here = keys.iter().filter(|key| lab.pod_netns(key).unwrap().0.name() == node.name()).count();
        until(lab, &format!("the programs know the pods of {}", node.name()), async || {
            let known = node.output(&margayctl(), &["ebpf", "endpoints", "-o", "json"]).await;
            let known = known.ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
            known.is_some_and(|known| known.as_array().unwrap().len() >= here)
                && metrics(lab, number, "margay_short_way_open").await.values().next() == Some(&1)
        })
        .await;
    }
}

pub(crate) fn margayctl() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/margayctl").to_owned()
}

/// Waits until it is so.
pub(crate) async fn until(lab: &Lab, what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while !look().await {
        assert!(tokio::time::Instant::now() < deadline, "waited for: {what}{}", lab.log_tail(30));
        pause.tick().await;
    }
}

pub(crate) async fn is_open(lab: &Lab, from: &str, to: &str, port: Port) -> bool {
    lab.reach(&party(from), &party(to), port).await.unwrap().is_open()
}

pub(crate) async fn apply(lab: &Lab, manifest: &str) {
    lab.kubectl(&["apply", "-f", "-"], manifest).await.unwrap();
}

/// A policy that lets only `from` in to `to`, on all ports.
pub(crate) fn only(from: &str, to: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: only-{to}, namespace: default}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {to}}}}}\n\
         \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}]}}]\n"
    )
}

/// A policy that would let nobody in to `to`, if it were not only audited.
pub(crate) fn audited(to: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: audit-{to}, namespace: default, annotations: {{margay.dev/enforcement: audit}}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {to}}}}}}}\n"
    )
}

/// The metrics of a node's agent with this name: labels to number.
pub(crate) async fn metrics(lab: &Lab, node: usize, name: &str) -> BTreeMap<String, u64> {
    let text = lab.node(node).run(|| get("/metrics")).await.unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .filter_map(|line| {
            let (labels, number) = line.rsplit_once(' ')?;
            Some((labels.to_owned(), number.parse().ok()?))
        })
        .collect()
}

/// Packets that took one way on a node, or all of them that did.
pub(crate) async fn took(lab: &Lab, node: usize, way: &str) -> u64 {
    let all = metrics(lab, node, "margay_short_way_packets_total").await;
    all.get(&format!("{{way=\"{way}\"}}")).copied().unwrap_or_default()
}

fn get(path: &str) -> String {
    // Nobody is there while an agent begins.
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", 9099)) else { return String::new() };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Kills a node's agent, and waits until the next one has all in the kernel with this dataplane.
pub(crate) async fn restart_agent(lab: &Lab, number: usize, dataplane: &str) {
    restart_agent_with(lab, number, dataplane, |_| {}).await;
}

/// Likewise, with other settings.
pub(crate) async fn restart_agent_with(
    lab: &Lab,
    number: usize,
    dataplane: &str,
    change: impl FnOnce(&mut serde_json::Value),
) {
    let node = lab.node(number);
    node.configure(|settings| {
        settings["dataplane"] = dataplane.into();
        change(settings);
    })
    .unwrap();
    let before = node.pid(Daemon::Agent);
    node.signal(Daemon::Agent, nix::sys::signal::Signal::SIGKILL).unwrap();
    until(lab, "another agent runs", async || node.pid(Daemon::Agent).is_some_and(|pid| Some(pid) != before))
        .await;
    let labels = format!("{{dataplane=\"{dataplane}\"}}");
    until(lab, &format!("the dataplane is {dataplane}"), async || {
        metrics(lab, number, "margay_dataplane").await.get(&labels) == Some(&1)
    })
    .await;
    until(lab, "it is ready", async || {
        node.run(|| get("/readyz")).await.unwrap().starts_with("HTTP/1.0 200")
    })
    .await;
}
