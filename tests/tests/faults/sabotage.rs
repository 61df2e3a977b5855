//! Somebody takes away what is ours in the kernel.

use std::time::Duration;

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, Dataplane, Lab, LabConfig, Node, Routing, clock};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::{
    cluster::{
        PATIENCE, PORT, deny, is_open, key, leave_nothing, party, records, run, start, until, until_open,
        until_said,
    },
    traffic::Traffic,
};

/// The node's end of a pod's link.
fn host_end(node: &Node, pod: &str) -> String {
    let records = records(node).list().unwrap().endpoints;
    records.into_iter().find(|it| it.pod.as_ref().is_some_and(|it| it.name == pod)).unwrap().host_ifname
}

/// Does it, and comes back when all is open again that was. What is closed stays so all the time.
async fn repaired(lab: &Lab, node: &Node, script: &str) {
    node.output("bash", &["-c", script]).await.unwrap();
    let repair = async {
        for (from, to) in [("a", "b"), ("b", "a"), ("b", "near"), ("near", "a")] {
            until_open(lab, from, to, true).await;
        }
    };
    let watch = async {
        loop {
            for from in ["a", "b"] {
                assert!(!is_open(lab, from, "db").await, "{from} -> db was open after: {script}");
            }
        }
    };
    tokio::select! {
        () = repair => {}
        () = watch => {}
    }
}

async fn sabotage(config: LabConfig) {
    let (tunnels, programs) = (!config.routing.has_bgp(), config.dataplane == Dataplane::Ebpf);
    let lab = start(config).await;
    let pods = run(&lab, &[("a", "n1"), ("near", "n1"), ("db", "n1"), ("b", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "a", "db", false).await;
    let mut traffic = Traffic::start(&lab, &[("a", "b"), ("a", "near")]).await;
    let node = lab.node(0);
    let (a, near) = (host_end(node, "a"), host_end(node, "near"));
    let address = lab.pod_addresses(&key("a"))[0];

    repaired(&lab, node, &format!("ip route delete {address}; ip neigh flush dev {near} nud permanent"))
        .await;
    until_said(&lab, node, &["put back", "route", &address.to_string()]).await;
    until_said(&lab, node, &["put back", "neigh", &lab.pod_addresses(&key("near"))[0].to_string()]).await;
    traffic.goes_on(&lab, "routes and neighbours of pods").await;

    repaired(&lab, node, &format!("ip link set {a} down")).await;
    until_said(&lab, node, &["put back", "up"]).await;
    traffic.goes_on(&lab, "a pod's link").await;

    let routes = if tunnels {
        "ip route flush proto 78; ip link delete margay.vxlan4"
    } else {
        "ip route flush proto bgp"
    };
    repaired(&lab, node, routes).await;
    if tunnels {
        until_said(&lab, node, &["put back", "tunnels and routes"]).await;
    }
    traffic.goes_on(&lab, "ways to other nodes").await;

    node.signal(Daemon::Agent, Signal::SIGSTOP).unwrap();
    if programs {
        // The programs stand by themselves. (The agent's last act may have been to write the table anew.)
        let has_table = async || node.output("nft", &["list", "table", "inet", "margay"]).await.is_ok();
        until(&lab, "the table is away", async || {
            node.output("nft", &["flush", "ruleset"]).await.unwrap();
            !has_table().await
        })
        .await;
        assert!(!is_open(&lab, "a", "db").await);
        assert!(is_open(&lab, "a", "near").await);
        assert!(!has_table().await);
        node.signal(Daemon::Agent, Signal::SIGCONT).unwrap();
    } else {
        // Without its table a node lets all pass, until the agent has seen that. What came in meanwhile does not stay.
        let let_in = || async {
            // Its last act may have been to write the table anew.
            node.output("nft", &["flush", "ruleset"]).await.unwrap();
            lab.keep(&party("a"), &party("db"), PORT).await.unwrap()
        };
        let mut intruder =
            clock::until(PATIENCE, "a node without a table lets all pass", let_in).await.unwrap();
        node.signal(Daemon::Agent, Signal::SIGCONT).unwrap();
        until_open(&lab, "a", "db", false).await;
        let end = async { while intruder.is_alive(Duration::from_millis(500)).await {} };
        assert!(timeout(PATIENCE, end).await.is_ok(), "the intruder stays{}", lab.log_tail(30));
    }
    until_said(&lab, node, &["somebody flushed", "inet margay"]).await;
    until(&lab, "the table is back", async || {
        let table = node.output("nft", &["list", "table", "inet", "margay"]).await;
        table.is_ok_and(|table| table.contains(&a))
    })
    .await;
    traffic.goes_on(&lab, "the table").await;

    if programs {
        // Programs without a pin leave their interfaces.
        repaired(&lab, node, "rm -r /sys/fs/bpf/margay").await;
        until(&lab, "the programs are back", async || {
            let links =
                node.path("/sys/fs/bpf/margay").join(format!("v{}", margay_ebpf_common::LAYOUT_VERSION));
            links.join("links").read_dir().is_ok_and(|links| links.count() >= 8)
        })
        .await;
        traffic.goes_on(&lab, "the programs").await;
    }
    drop(traffic);
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_takes_away_with_bgp_and_programs_is_put_back_and_nothing_opens() {
    let config = LabConfig { nodes: 2, dataplane: Dataplane::Ebpf, ..LabConfig::default() };
    sabotage(config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_takes_away_with_tunnels_and_nftables_is_put_back_and_nothing_opens() {
    let config = LabConfig {
        nodes: 2,
        dataplane: Dataplane::Nftables,
        routing: Routing::Direct,
        encapsulation: Encapsulation::Vxlan,
        ..LabConfig::default()
    };
    sabotage(config).await;
}
