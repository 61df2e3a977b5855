//! Agents that are killed and upgraded while pods of two nodes send as much as iperf3 makes them.

use std::fs;

use margay_lab::{Daemon, Lab, Node, PodKey, Port};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::{TCP, apply, is_open, kill_agent, run, start, took, until, until_runs};

/// Where iperf3 listens.
const IPERF3: u16 = 5201;

/// A policy that lets the client in to `far` where iperf3 listens, and nobody anywhere else.
const ONLY_IPERF3: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: only-far, namespace: default}\n\
    spec:\n  podSelector: {matchLabels: {app: far}}\n\
    \x20 ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 5201}]}]\n";

/// Runs a program in the network of a pod.
async fn inside(lab: &Lab, pod: &str, program: &[&str]) -> String {
    let (node, netns) = lab.pod_netns(&PodKey::new("default", pod)).unwrap();
    let net = format!("--net={}", netns.unwrap().display());
    let arguments: Vec<&str> = [net.as_str()].iter().chain(program).copied().collect();
    node.output("nsenter", &arguments).await.unwrap()
}

/// Has the agent of a node find what one of another layout of maps left.
async fn upgrade(lab: &Lab, number: usize) {
    let node: &Node = lab.node(number);
    let pins = node.path("/sys/fs/bpf/margay");
    let [current, before] =
        [0, 1].map(|less| pins.join(format!("v{}", margay_ebpf_common::LAYOUT_VERSION - less)));
    node.stop_daemon(Daemon::Agent).await;
    fs::rename(&current, &before).unwrap();
    node.start_daemon(Daemon::Agent).await;
    until_runs(lab, number, "ebpf").await;
    assert!(current.exists() && !before.exists(), "the maps before are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_iperf3_goes_on_while_agents_are_killed_and_upgraded_and_nothing_denied_passes() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("far", "n2")]).await;
    apply(&lab, ONLY_IPERF3).await;
    let closed = [("client", TCP), ("other", TCP), ("other", Port::tcp(IPERF3))];
    until(&lab, "policy is in force", async || !is_open(&lab, "client", "far", TCP).await).await;
    // How long the load has to last on this machine: four agents begin under it.
    let begun = Instant::now();
    kill_agent(&lab, 0, "ebpf").await;
    let seconds = ((8 * begun.elapsed()).as_secs() + 6).to_string();

    let port = IPERF3.to_string();
    let address = lab.pod_addresses(&PodKey::new("default", "far"))[0].to_string();
    let server = ["iperf3", "--server", "--one-off", "--json", "--port", &port];
    let serve = inside(&lab, "far", &server);
    let send = async {
        until(&lab, "iperf3 listens", async || {
            !inside(&lab, "far", &["ss", "-Hltn", "sport", "=", &port]).await.is_empty()
        })
        .await;
        // Not all that the machine can: agents need some of it too.
        let load = ["--time", &seconds, "--bitrate", "200M", "--json", "--port", &port];
        let told = inside(&lab, "client", &[&["iperf3", "--client", &address][..], &load].concat()).await;
        (told, Instant::now())
    };
    let work = async {
        let before = took(&lab, 0, "to_node").await;
        until(&lab, "the load takes the short way", async || took(&lab, 0, "to_node").await > before + 500)
            .await;
        for number in [0, 1] {
            kill_agent(&lab, number, "ebpf").await;
        }
        for number in [0, 1] {
            upgrade(&lab, number).await;
        }
        Instant::now()
    };
    let watch = async {
        loop {
            for (from, port) in closed {
                assert!(!is_open(&lab, from, "far", port).await, "{from} -> far, {port} was open");
            }
        }
    };
    let (served, (sent, sent_until), worked_until) = tokio::select! {
        done = async { tokio::join!(serve, send, work) } => done,
        () = watch => unreachable!("it never ends"),
    };
    let served: Value = serde_json::from_str(&served).unwrap();
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert!(worked_until < sent_until, "the load ended after {seconds} s, before the agents had begun");
    for told in [&served, &sent] {
        assert_eq!(told.get("error"), None, "iperf3 ends well");
    }
    // Octets that came in each second; the last one is none.
    let intervals = served["intervals"].as_array().unwrap();
    let came: Vec<u64> = intervals.iter().map(|it| it["sum"]["bytes"].as_u64().unwrap()).collect();
    assert!(came.len() > 4 && came[..came.len() - 1].iter().all(|octets| *octets > 0), "by second: {came:?}");
    lab.stop().await;
}
