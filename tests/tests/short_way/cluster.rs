//! A cluster for one test, and what the programs count in it.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, time::Duration};

use aya::programs::{SchedClassifier, tc::TcAttachType};
use margay_lab::{
    Daemon, Dataplane, IpFamilies, Lab, LabConfig, Party, PodKey, PodSpec, Port, Protocol, program,
};
use margay_netlink::{
    Socket,
    filter::{self, Direction},
    link,
};

pub(crate) const TCP: Port = Port::tcp(8080);
pub(crate) const UDP: Port = Port { protocol: Protocol::Udp, number: 8081 };
/// How long anything may take before a test fails, in a machine of software too (`make test-kernels`).
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// What the agent is started with.
const AGENT: &str = "#!/bin/sh
exec setpriv --bounding-set=-all,CAPABILITIES -- PROGRAM \"$@\"
";

/// No more than the manifest gives the agent (`manifests/base/daemonset.yaml`).
pub(crate) const AS_SHIPPED: &str = "+net_admin,+bpf,+perfmon";
/// What nftables takes: no program can be loaded.
pub(crate) const WITHOUT_BPF: &str = "+net_admin";

/// Programs of a node, of which the agent has no more privilege than this.
fn programs(capabilities: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["margay", "margay-bgp"] {
        std::os::unix::fs::symlink(program(name).unwrap(), folder.path().join(name)).unwrap();
    }
    give(&folder, capabilities);
    folder
}

/// Has agents that begin from now on have this privilege and no more.
pub(crate) fn give(programs: &tempfile::TempDir, capabilities: &str) {
    let program = program("margay-node").unwrap().display().to_string();
    let next = programs.path().join("next");
    std::fs::write(&next, AGENT.replace("CAPABILITIES", capabilities).replace("PROGRAM", &program)).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A shell may be reading the one before.
    std::fs::rename(&next, programs.path().join("margay-node")).unwrap();
}

/// Two nodes, of which both have the eBPF dataplane; and what is to be kept as long as they are.
pub(crate) async fn start() -> (Lab, tempfile::TempDir) {
    start_with(LabConfig::default()).await
}

/// Likewise, with another network between them.
pub(crate) async fn start_with(config: LabConfig) -> (Lab, tempfile::TempDir) {
    let config = LabConfig { dataplane: Dataplane::Ebpf, ..config };
    start_as(config, AS_SHIPPED).await
}

/// Likewise, with the dataplane of the configuration, and agents of this privilege.
pub(crate) async fn start_as(config: LabConfig, capabilities: &str) -> (Lab, tempfile::TempDir) {
    let programs = programs(capabilities);
    let config = LabConfig { nodes: 2, ip_families: IpFamilies::Dual, ..config };
    let config = LabConfig { binaries: Some(programs.path().to_owned()), ..config };
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    (lab, programs)
}

pub(crate) fn party(name: &str) -> Party {
    Party::pod("default", name)
}

/// Runs pods, each labelled with its own name.
pub(crate) async fn create(lab: &Lab, pods: &[(&str, &str)]) -> Vec<PodKey> {
    let pods: Vec<_> = pods
        .iter()
        .map(|(name, node)| {
            (PodKey::new("default", *name), PodSpec::new(&[("app", name)], &[TCP, UDP]).on(node))
        })
        .collect();
    lab.create_pods(&pods).await.unwrap();
    let keys: Vec<_> = pods.iter().map(|(key, _)| key.clone()).collect();
    lab.wait_pods(&keys, PATIENCE).await.unwrap();
    keys
}

/// Runs pods, each labelled with its own name, and waits until flows between them may take the short way.
pub(crate) async fn run(lab: &Lab, pods: &[(&str, &str)]) {
    let keys = create(lab, pods).await;
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
    program("margayctl").unwrap().display().to_string()
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

/// Waits until an Event of the first node has that reason and that word.
pub(crate) async fn until_told(lab: &Lab, reason: &str, word: &str) {
    until(lab, &format!("{reason}: {word}"), async || {
        let events = lab.kubectl(&["get", "events"], "").await.unwrap();
        events.lines().any(|line| [reason, word, "node/n1"].iter().all(|word| line.contains(word)))
    })
    .await;
}

/// Waits until the condition of the first node about its short way has that status and that reason, and its message that word.
pub(crate) async fn until_condition(lab: &Lab, status: &str, reason: &str, word: &str) {
    until(lab, &format!("PodShortWayClosed is {status}, {reason}, with {word}"), async || {
        let node = lab.kubectl(&["get", "node", "n1", "-o", "json"], "").await.unwrap();
        let node: serde_json::Value = serde_json::from_str(&node).unwrap();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().filter(|it| it["type"] == "PodShortWayClosed").any(|it| {
            it["status"] == status
                && it["reason"] == reason
                && it["message"].as_str().is_some_and(|it| it.contains(word))
        })
    })
    .await;
}

/// The programs that are at the interfaces of the first node, as `interface: program`: of each interface those that see what comes in, in their order, then the others.
pub(crate) async fn programs_at(lab: &Lab) -> Vec<String> {
    let look = || {
        let mut found = Vec::new();
        for interface in &nix::net::if_::if_nameindex().unwrap() {
            let name = interface.name().to_str().unwrap();
            let mut socket = Socket::open().unwrap();
            let index = link::by_name(&mut socket, &name.parse().unwrap()).unwrap().unwrap().index;
            for (hook, direction) in
                [(TcAttachType::Ingress, Direction::Ingress), (TcAttachType::Egress, Direction::Egress)]
            {
                let filters = filter::list_on(&mut socket, index, direction).unwrap();
                found.extend(filters.iter().map(|filter| format!("{name}: {}", filter.name)));
                // A kernel without tcx has the filters.
                let Ok((_, programs)) = SchedClassifier::query_tcx(name, hook) else { continue };
                let names = programs.iter().map(|program| program.name_as_str().unwrap_or_default());
                found.extend(names.map(|program| format!("{name}: {program}")));
            }
        }
        found
    };
    lab.node(0).run(look).await.unwrap()
}

/// The metrics of a node's agent with this name: labels to number.
pub(crate) async fn metrics(lab: &Lab, node: usize, name: &str) -> BTreeMap<String, u64> {
    lab.node(node).metrics(name).await.unwrap()
}

/// Packets that took one way on a node, or all of them that did.
pub(crate) async fn took(lab: &Lab, node: usize, way: &str) -> u64 {
    let all = metrics(lab, node, "margay_short_way_packets_total").await;
    all.get(&format!("{{way=\"{way}\"}}")).copied().unwrap_or_default()
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
    kill_agent(lab, number, dataplane).await;
}

/// Kills a node's agent, and waits until the next one has all in the kernel, with that dataplane, whatever it is told.
pub(crate) async fn kill_agent(lab: &Lab, number: usize, dataplane: &str) {
    let node = lab.node(number);
    let before = node.pid(Daemon::Agent);
    node.signal(Daemon::Agent, nix::sys::signal::Signal::SIGKILL).unwrap();
    until(lab, "another agent runs", async || node.pid(Daemon::Agent).is_some_and(|pid| Some(pid) != before))
        .await;
    until_runs(lab, number, dataplane).await;
}

/// Waits until a node's agent has all in the kernel, with that dataplane.
pub(crate) async fn until_runs(lab: &Lab, number: usize, dataplane: &str) {
    let node = lab.node(number);
    let labels = format!("{{dataplane=\"{dataplane}\"}}");
    until(lab, &format!("the dataplane is {dataplane}"), async || {
        metrics(lab, number, "margay_dataplane").await.get(&labels) == Some(&1)
    })
    .await;
    until(lab, "it is ready", async || node.page("/readyz").await.unwrap().is_ok()).await;
}
