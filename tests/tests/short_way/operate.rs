//! What operators see of the short way, and how a node becomes clean again.

use std::path::Path;

use margay_lab::{Daemon, Lab, PodKey};
use serde_json::Value;

use crate::cluster::{TCP, apply, is_open, margayctl, only, party, run, start, until};

async fn ask(lab: &Lab, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
    serde_json::from_str(&lab.node(0).output(&margayctl(), &arguments).await.unwrap()).unwrap()
}

/// The rows of a table in which a column says this.
fn rows<'v>(table: &'v Value, column: &str, says: &str) -> Vec<&'v Value> {
    table.as_array().unwrap().iter().filter(|row| row[column].as_str().unwrap().contains(says)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn margayctl_says_which_pods_flows_and_verdicts_the_short_way_has() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1")]).await;
    apply(&lab, &only("client", "near")).await;
    until(&lab, "the verdicts are there", async || {
        ask(&lab, &["ebpf", "verdicts"]).await != Value::Array(vec![])
    })
    .await;
    let mut kept = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();
    assert!(kept.is_alive(crate::cluster::PATIENCE).await);

    let status = ask(&lab, &["ebpf", "status"]).await;
    assert_eq!(rows(&status, "what", "short way")[0]["value"], "open", "{status}");
    let endpoints = ask(&lab, &["ebpf", "endpoints"]).await;
    let near = rows(&endpoints, "pod", "default/near")[0];
    assert_eq!(near["packets to it"], "straight", "{near}");
    assert_eq!(near["egress set"], "none: all may pass", "{near}");
    let set = near["ingress set"].as_str().unwrap();
    let verdicts = ask(&lab, &["ebpf", "verdicts", set]).await;
    assert_eq!(rows(&verdicts, "verdict", "allowed").len(), 1, "the client's class: {verdicts}");
    assert_eq!(
        rows(&verdicts, "class", "any other")[0]["verdict"],
        "denied, as nothing that isolates the pods allows it",
        "{verdicts}"
    );
    let address = lab.pod_addresses(&PodKey::new("default", "client"))[0].to_string();
    let class = &rows(&verdicts, "verdict", "allowed")[0]["class"];
    let classes = ask(&lab, &["ebpf", "classes"]).await;
    assert_eq!(rows(&classes, "addresses", &address)[0]["class"], *class, "{classes}");
    let flows = ask(&lab, &["ebpf", "flows"]).await;
    let flow = rows(&flows, "from", &format!("{address}:"))[0];
    assert_eq!((&flow["state"], &flow["judged"]), (&"established".into(), &"in force".into()), "{flow}");
    lab.stop().await;
}

/// Runs a program with no more than manifests/cleanup.yaml gives it: one capability, and a root that is read-only but for some
/// folders of the node, mounted where they are.
const JOB: &str = r#"
    for folder in /run/margay /var/lib/margay /etc/cni/net.d /opt/cni/bin /sys/fs/bpf; do
        mount --bind $folder $folder || exit 1
    done
    for mount in / /run /var/lib; do
        ! mountpoint -q $mount || mount -o remount,bind,ro $mount || exit 1
    done
    ! touch /run/margay.new 2> /dev/null || exit 1
    exec setpriv --bounding-set=-all,+net_admin -- "$@"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_leaves_nothing_of_ours_and_waits_for_the_agent_and_the_pods_to_go() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1")]).await;
    assert!(is_open(&lab, "client", "near", TCP).await);
    let node = lab.node(0);
    let margayctl = margayctl();
    let cleanup = async |more: &[&str]| {
        let job = ["--mount", "sh", "-c", JOB, "sh", &margayctl, "node", "cleanup"];
        let arguments: Vec<&str> = job.iter().chain(more).copied().collect();
        node.output("unshare", &arguments).await
    };
    let refused = format!("{:#}", cleanup(&[]).await.unwrap_err());
    assert!(refused.contains("the agent runs"), "{refused}");
    node.stop_daemon(Daemon::Agent).await;
    node.stop_daemon(Daemon::Bgp).await;
    let refused = format!("{:#}", cleanup(&[]).await.unwrap_err());
    assert!(refused.contains("2 pods on this node still have a link"), "{refused}");
    let dry = cleanup(&["--with-pods", "--dry-run"]).await.unwrap();
    assert!(dry.contains("would be removed") && is_open(&lab, "client", "near", TCP).await, "{dry}");

    // As an agent leaves it that changes to nftables on a kernel without tcx; and one that is somebody else's.
    let leave = "ip link add theirs type bridge; tc qdisc add dev theirs clsact; tc qdisc replace dev eth0 clsact; \
                 echo [$(cat /sys/class/net/eth0/ifindex)] > /run/margay/clsact";
    node.output("sh", &["-e", "-c", leave]).await.unwrap();
    let told = cleanup(&["--with-pods"]).await.unwrap();
    assert!(!told.contains("failed"), "{told}");
    for gone in ["/sys/fs/bpf/margay", "/etc/cni/net.d/10-margay.conflist", "/opt/cni/bin/margay"] {
        assert!(!Path::new(&node.path(gone)).exists(), "{gone} is left:\n{told}");
    }
    for empty in ["/run/margay", "/var/lib/margay"] {
        let left = std::fs::read_dir(node.path(empty)).unwrap().count();
        assert_eq!(left, 0, "{empty} is not empty:\n{told}");
    }
    assert_eq!(node.output("nft", &["list", "tables"]).await.unwrap().trim(), "");
    let disciplines = node.output("tc", &["qdisc", "show"]).await.unwrap();
    let clsact: Vec<&str> = disciplines.lines().filter(|line| line.contains("clsact")).collect();
    assert!(clsact.len() == 1 && clsact[0].contains("dev theirs"), "{disciplines}");
    assert_eq!(node.bgp_routes().await.unwrap(), [""; 0]);
    let links = node.output("ip", &["-brief", "link"]).await.unwrap();
    assert!(!links.contains("mgy"), "{links}");
    let again = cleanup(&[]).await.unwrap();
    assert!(!again.contains("failed"), "there is nothing left to do:\n{again}");
    lab.stop().await;
}
