//! A cluster for one test, and what the programs count in it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use margay_lab::{Daemon, Dataplane, IpFamilies, Lab, LabConfig, Party, PodKey, PodSpec, Port, Protocol};

pub(crate) const TCP: Port = Port::tcp(8080);
pub(crate) const UDP: Port = Port { protocol: Protocol::Udp, number: 8081 };
/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Two nodes, of which both have the eBPF dataplane.
pub(crate) async fn start() -> Lab {
    let config = LabConfig {
        nodes: 2,
        dataplane: Dataplane::Ebpf,
        ip_families: IpFamilies::Dual,
        ..LabConfig::default()
    };
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    lab
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
    for (key, _) in &pods {
        let (node, _) = lab.pod_netns(key).unwrap();
        until(lab, &format!("the links of {} have programs", node.name()), async || {
            let links = node.output("ip", &["-json", "link"]).await.unwrap();
            let links: serde_json::Value = serde_json::from_str(&links).unwrap();
            let count = |prefix: &str| {
                let all = links.as_array().unwrap().iter();
                all.filter(|link| link["ifname"].as_str().unwrap().starts_with(prefix)).count()
            };
            let Ok(versions) = std::fs::read_dir(node.path("/sys/fs/bpf/margay")) else { return false };
            let links =
                versions.flatten().filter_map(|version| std::fs::read_dir(version.path().join("links")).ok());
            let attached = links.map(Iterator::count);
            // Two at each link, and the fabric's is the one that is no pod's.
            attached.sum::<usize>() == 2 * (count("mgy") + 1)
        })
        .await;
    }
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
    let node = lab.node(number);
    node.configure(|settings| settings["dataplane"] = dataplane.into()).unwrap();
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
