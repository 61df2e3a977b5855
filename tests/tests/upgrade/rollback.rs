//! All nodes upgraded one after the other, and rolled back, under traffic and policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use margay_api::paths;
use margay_ipam::Store;
use margay_lab::{Daemon, Dataplane, IpFamilies, Lab, LabConfig, Node, PodKey, clock};
use margay_tests::guide;

use crate::{
    cluster::{
        PATIENCE, deny, events, key, leave_nothing, left, margayctl, run, start, until, until_open,
        until_ready,
    },
    denied::{Denied, watch},
    older::older,
    traffic::Traffic,
};

/// Pods that stay from the beginning to the end.
const STAY: &[(&str, &str)] =
    &[("a", "n1"), ("near", "n1"), ("db", "n1"), ("b", "n2"), ("far", "n2"), ("store", "n2")];
/// What policies allow: within a node and between nodes, both ways.
const OPEN: &[(&str, &str)] = &[("a", "near"), ("a", "far"), ("b", "a"), ("b", "far")];
/// And what they deny: pods that are isolated, and pods that others may reach.
const CLOSED: &[(&str, &str)] =
    &[("a", "db"), ("b", "db"), ("a", "store"), ("db", "near"), ("store", "near")];

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_ebpf_go_to_the_programs_of_now_and_back_and_no_packet_is_lost_or_let_through() {
    there_and_back(Dataplane::Ebpf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_nftables_go_to_the_programs_of_now_and_back_and_no_packet_is_lost_or_let_through() {
    there_and_back(Dataplane::Nftables).await;
}

async fn there_and_back(dataplane: Dataplane) {
    let (before, now) = (older(), guide::programs());
    let config = LabConfig {
        nodes: 2,
        dataplane,
        ip_families: IpFamilies::Dual,
        binaries: Some(before.clone()),
        ..LabConfig::default()
    };
    let lab = start(config).await;
    let pods = run(&lab, STAY).await;
    run(&lab, &[("first-1", "n1"), ("first-2", "n2"), ("last-1", "n1"), ("last-2", "n2")]).await;
    for pod in ["db", "store"] {
        deny(&lab, pod).await;
    }
    only(&lab, "near", "a").await;
    until_open(&lab, "a", "near", true).await;
    let addresses = addresses_of(&lab, &pods);
    let routes = routes_of(&lab).await;
    let mut traffic = Traffic::start(&lab, OPEN).await;
    let denied = Denied::start(&lab, CLOSED).await;
    let roll = async {
        // The second time, what is there was made by both.
        for (round, programs, stage) in
            [(1, &now, "upgraded"), (2, &before, "rolled back"), (3, &now, "upgraded again")]
        {
            for (index, node) in lab.nodes().iter().enumerate() {
                until_short(&lab, node).await;
                replace(&lab, node, programs, &key(&gone_in(round, index))).await;
                traffic.goes_on(&lab, &format!("{} is {stage}", node.name())).await;
            }
            assert_eq!(routes_of(&lab).await, routes, "routes of nodes that are {stage}");
            for (index, node) in lab.nodes().iter().enumerate() {
                // Those that are there now take down what those before have made, and make pods of their own.
                lab.delete_pods(&[key(&left_in(round, index))]).await.unwrap();
                run(
                    &lab,
                    &[(&gone_in(round + 1, index), node.name()), (&left_in(round + 1, index), node.name())],
                )
                .await;
            }
            assert_eq!(addresses_of(&lab, &pods), addresses, "addresses of pods on nodes that are {stage}");
            assert_held_once(&lab).await;
            still_judges(&lab, stage).await;
        }
    };
    tokio::select! {
        () = roll => {}
        () = watch(&lab, OPEN, CLOSED) => {}
    }
    let sent = denied.let_nothing_through().await;
    assert!(sent > 0);
    traffic.lost_nothing(&lab, "an upgrade, its rollback and the upgrade again").await;
    let rest = lab.ready_pods().into_iter().map(|(pod, _)| pod).collect::<Vec<_>>();
    leave_nothing(&lab, &rest).await;
    lab.stop().await;
}

/// The pod of a node that goes while only the plugin of this round is there.
fn gone_in(round: usize, index: usize) -> String {
    if round == 1 { format!("first-{}", index + 1) } else { format!("gone-{round}-{}", index + 1) }
}

/// The pod of a node that goes when all programs of this round are there.
fn left_in(round: usize, index: usize) -> String {
    if round == 1 { format!("last-{}", index + 1) } else { format!("left-{round}-{}", index + 1) }
}

/// As the kubelet does with the pod of the `DaemonSet`: both processes go, the plugin is copied, both come. Meanwhile a pod goes, and the
/// plugin is alone with what other programs have made.
async fn replace(lab: &Lab, node: &Node, programs: &Path, goes: &PodKey) {
    node.stop_daemon(Daemon::Agent).await;
    node.stop_daemon(Daemon::Bgp).await;
    node.install(programs).await.unwrap();
    let before = left(node).await;
    lab.delete_pods(std::slice::from_ref(goes)).await.unwrap();
    let after = left(node).await;
    assert_eq!((after.0 + 2, after.1 + 1, after.2 + 1), before, "{}: addresses, records, links", node.name());
    node.start_daemon(Daemon::Bgp).await;
    node.start_daemon(Daemon::Agent).await;
    for (daemon, program) in [(Daemon::Agent, "margay-node"), (Daemon::Bgp, "margay-bgp")] {
        let running = std::fs::read_link(format!("/proc/{}/exe", node.pid(daemon).unwrap())).unwrap();
        assert_eq!(running, programs.join(program).canonicalize().unwrap());
    }
    until_ready(lab, node).await;
    lab.wait_dataplane(PATIENCE).await.unwrap();
    clock::until(PATIENCE, "the session is up again and has brought its routes", || async {
        let neighbors = node.bgp_status().await.ok()?.neighbors;
        let is_up =
            |it: &margay_bgp::control::NeighborStatus| it.state == "Established" && it.prefixes_received > 0;
        (!neighbors.is_empty() && neighbors.iter().all(is_up)).then_some(())
    })
    .await
    .unwrap();
}

/// Only the second may reach the first.
async fn only(lab: &Lab, pod: &str, from: &str) {
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: only-{pod}, namespace: default}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {pod}}}}}\n\
         \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {from}}}}}}}]}}]\n"
    );
    lab.kubectl(&["apply", "-f", "-"], &policy).await.unwrap();
}

/// Policies that change are followed: a pod is closed to another, and opened again.
async fn still_judges(lab: &Lab, stage: &str) {
    for (from, to) in [("store", "b"), ("db", "b")] {
        until_open(lab, from, to, true).await;
    }
    deny(lab, "b").await;
    for (from, to) in [("store", "b"), ("db", "b")] {
        until_open(lab, from, to, false).await;
    }
    lab.kubectl(&["delete", "networkpolicy", "deny-b"], "").await.unwrap();
    for (from, to) in [("store", "b"), ("db", "b")] {
        until_open(lab, from, to, true).await;
    }
    assert!(events(lab, "b").await.iter().all(|it| !it.contains("ailed")), "{stage}");
}

fn addresses_of(lab: &Lab, pods: &[PodKey]) -> BTreeMap<String, Vec<IpAddr>> {
    pods.iter().map(|pod| (pod.to_string(), lab.pod_addresses(pod))).collect()
}

/// The destinations that BGP has brought to each node.
async fn routes_of(lab: &Lab) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for node in lab.nodes() {
        let routes = node.bgp_routes().await.unwrap();
        all.insert(node.name().to_owned(), routes.into_iter().collect());
    }
    all
}

/// What is on the disks is what pods have, and no address is on two of them.
async fn assert_held_once(lab: &Lab) {
    let mut on_pods = BTreeSet::new();
    for (pod, _) in lab.ready_pods() {
        for address in lab.pod_addresses(&pod) {
            assert!(on_pods.insert(address), "{address} is on two pods");
        }
    }
    // The agent frees an address after it has answered.
    until(lab, "the disks hold the addresses of pods and no others", async || held(lab) == on_pods).await;
    for node in lab.nodes() {
        let what = format!("`ipam check` on {} finds no difference", node.name());
        until(lab, &what, async || margayctl(node, "ipam check -o json").await.trim() == "[]").await;
    }
}

fn held(lab: &Lab) -> BTreeSet<IpAddr> {
    let stores = lab
        .nodes()
        .iter()
        .map(|node| Store::new(&node.path(format!("{}/{}", paths::STATE_DIR, paths::IPAM))));
    stores.flat_map(|store| store.allocations().unwrap()).map(|allocation| allocation.address).collect()
}

/// Where the dataplane is eBPF, what policy allows goes round the stack: within the node, and to others.
async fn until_short(lab: &Lab, node: &Node) {
    if lab.config().dataplane != Dataplane::Ebpf {
        return;
    }
    until(lab, &format!("the flows of {} are on the short way", node.name()), async || {
        let packets = node.metrics("margay_short_way_packets_total").await.unwrap();
        ["to_pod", "to_node"]
            .iter()
            .all(|way| packets.get(&format!("{{way=\"{way}\"}}")).is_some_and(|it| *it > 0))
    })
    .await;
    // And nothing is left of programs whose maps are of another layout.
    let layouts = node.path("/sys/fs/bpf/margay").read_dir().unwrap();
    let layouts: Vec<_> = layouts.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(layouts.iter().filter(|it| it.starts_with('v')).count(), 1, "{}: {layouts:?}", node.name());
}
