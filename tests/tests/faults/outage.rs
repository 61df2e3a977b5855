//! What an agent has not heard of: changes while the API server was away, and of the kernel's those that it lost.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use margay_lab::{Daemon, Dataplane, LabConfig, Node};
use margay_tests::soak;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    cluster::{PATIENCE, PORT, deny, is_open, key, leave_nothing, party, run, start, until, until_open},
    traffic::Traffic,
};

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_policies_that_come_and_go_while_agents_have_no_api_are_right_once_it_is_back_without_history()
 {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let mut pods = run(&lab, &[("client", "n1"), ("web", "n2"), ("db", "n2"), ("then", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    let mut traffic = Traffic::start(&lab, &[("client", "web")]).await;
    assert!(is_open(&lab, "client", "then").await);

    lab.cut_api().await;
    let server = lab.api_server().unwrap();
    for name in ["late", "then"] {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("deny-{name}"), "namespace": "default"},
            "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Ingress"]},
        });
        server.put_raw(policy).unwrap();
    }
    for name in ["late", "free"] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": "n2", "containers": [
                {"name": "server", "image": "margay-lab", "ports": [{"containerPort": PORT.number, "protocol": "TCP"}]},
            ]},
        });
        server.put_raw(pod).unwrap();
        pods.push(key(name));
    }
    for _ in 0..10 * soak() {
        assert!(!is_open(&lab, "client", "db").await, "what was closed stays so");
        until_open(&lab, "client", "then", true).await;
        traffic.goes_on(&lab, "without the API server").await;
        server.compact();
    }
    lab.restore_api().unwrap();
    // After minutes, watches ask again every 30 to 60 s, as those of client-go do: the agent's and the kubelet's.
    lab.wait_pods(&pods, 2 * PATIENCE).await.unwrap();
    until_open(&lab, "client", "then", false).await;
    until_open(&lab, "client", "free", true).await;
    assert!(!is_open(&lab, "client", "late").await, "its policy was there before it");
    assert!(!is_open(&lab, "client", "db").await);
    traffic.lost_nothing(&lab, "the API server was away").await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}

/// More changes than the agent's sockets have room for, and among them some that matter.
const FLOOD: &str = "set -e
lines() { for block in {1..120}; do for host in {1..250}; do echo \"route $1 198.18.$block.$host/32 dev lo\"; done; done; }
lines add > /run/lab/add; lines delete > /run/lab/delete
ip -batch /run/lab/add
ip route delete ADDRESS
nft delete table inet margay
ip -batch /run/lab/delete";

/// How many messages the kernel had no room for in the agent's sockets.
async fn lost(node: &Node) -> u64 {
    let files = fs::read_dir(format!("/proc/{}/fd", node.pid(Daemon::Agent).unwrap())).unwrap();
    let files: BTreeSet<PathBuf> =
        files.filter_map(|file| fs::read_link(file.unwrap().path()).ok()).collect();
    let sockets = node.output("cat", &["/proc/net/netlink"]).await.unwrap();
    let fields = sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_agent = fields.filter(|fields| files.contains(Path::new(&format!("socket:[{}]", fields[9]))));
    of_agent.map(|fields| fields[8].parse::<u64>().unwrap()).sum()
}

/// The routes to pods of a node, and their neighbours.
async fn of_pods(node: &Node) -> String {
    let list = "ip route show proto 77; ip neigh show nud permanent";
    let told = node.output("sh", &["-c", list]).await.unwrap();
    let mut lines: Vec<&str> = told.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lost_what_the_kernel_told_looks_anew_and_repairs() {
    // With eBPF the programs would let nobody in while the table is away.
    let lab = start(LabConfig { nodes: 2, dataplane: Dataplane::Nftables, ..LabConfig::default() }).await;
    let pods = run(&lab, &[("client", "n1"), ("web", "n2"), ("db", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    let mut traffic = Traffic::start(&lab, &[("client", "web")]).await;
    let node = lab.node(1);
    let before = of_pods(node).await;
    let overruns = async || node.metrics("margay_netlink_overruns_total").await.unwrap();
    assert_eq!(overruns().await.get("{of=\"routes\"}"), Some(&0));
    assert_eq!(lost(node).await, 0);
    node.signal(Daemon::Agent, Signal::SIGSTOP).unwrap();
    let address = lab.pod_addresses(&key("web"))[0].to_string();
    node.output("bash", &["-c", &FLOOD.replace("ADDRESS", &address)]).await.unwrap();
    assert!(lost(node).await > 0, "the agent's sockets had room for all");
    let intruder = lab.keep(&party("client"), &party("db"), PORT).await.unwrap();
    node.signal(Daemon::Agent, Signal::SIGCONT).unwrap();
    let mut intruder = intruder.expect("a node without a table lets all pass");
    until(&lab, "all is as it was", async || {
        is_open(&lab, "client", "web").await && !is_open(&lab, "client", "db").await
    })
    .await;
    let end = async { while intruder.is_alive(Duration::from_millis(500)).await {} };
    assert!(timeout(PATIENCE, end).await.is_ok(), "the intruder stays{}", lab.log_tail(30));
    traffic.goes_on(&lab, "netlink overran").await;
    assert!(overruns().await["{of=\"routes\"}"] > 0, "{}", lab.log_tail(30));
    // What was lost is as it was, to the last route and neighbour.
    until(&lab, "routes and neighbours of pods are as they were", async || of_pods(node).await == before)
        .await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}
