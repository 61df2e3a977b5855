//! No room on the disks of a node.

use margay_lab::{Daemon, Lab, LabConfig, Node};

use crate::{
    cluster::{
        create, deny, events, is_open, key, leave_nothing, left, records, run, start, until, until_open,
        until_ready,
    },
    traffic::Traffic,
};

/// Gives a node small disks of their own for what we keep.
const SMALL: &str = "set -e
for directory in /run/margay /var/lib/margay; do
    cp -a $directory /run/lab/kept
    mount -t tmpfs -o size=512k,nr_inodes=96 tmpfs $directory
    cp -a /run/lab/kept/. $directory
    rm -r /run/lab/kept
done";
/// No octet more goes on them.
const FILL: &str = "for directory in /run/margay /var/lib/margay; do
    dd if=/dev/zero of=$directory/filler bs=4k 2> /dev/null || true
done";
/// No file more goes on them.
const CROWD: &str = "for directory in /run/margay /var/lib/margay; do
    mkdir -p $directory/crowd
    number=0
    while true > $directory/crowd/$number; do number=$((number + 1)); done 2> /dev/null
done";
const EMPTY: &str =
    "rm -rf /run/margay/filler /run/margay/crowd /var/lib/margay/filler /var/lib/margay/crowd";

async fn sh(node: &Node, script: &str) {
    node.output("bash", &["-c", script]).await.unwrap();
}

fn has_record(node: &Node, pod: &str) -> bool {
    let records = records(node).list().unwrap().endpoints;
    records.iter().any(|it| it.pod.as_ref().is_some_and(|it| it.name == pod))
}

/// An ADD on full disks, and what becomes of what is there.
async fn check(lab: &Lab, node: &Node, full: &str, number: usize) {
    let mut traffic = Traffic::start(lab, &[("client", "web")]).await;
    let before = left(node).await;
    sh(node, full).await;
    let name = format!("late{number}");
    let late = create(lab, &[(&name, node.name())]).await;
    until(lab, "the ADD is refused in words", async || {
        let said = events(lab, &name).await;
        said.iter().any(|it| it.contains("/margay") && it.contains("No space left on device"))
    })
    .await;
    until(lab, "nothing half-done is left", async || left(node).await == before).await;
    traffic.goes_on(lab, "a full disk").await;
    // A pod that goes, goes.
    let gone = format!("gone{number}");
    lab.delete_pods(&[key(&gone)]).await.unwrap();
    // What it leaves free, the one that waits may take.
    assert!(!has_record(node, &gone));
    // An agent that begins now goes on with what is there.
    node.stop_daemon(Daemon::Agent).await;
    node.start_daemon(Daemon::Agent).await;
    until(lab, "the next agent runs", async || crate::cluster::readiness(node).await.is_ok()).await;
    assert!(!is_open(lab, "client", "db").await);
    traffic.goes_on(lab, "an agent that begins with a full disk").await;

    sh(node, EMPTY).await;
    lab.wait_pods(&late, crate::cluster::PATIENCE).await.unwrap();
    assert!(is_open(lab, "client", &name).await);
    traffic.lost_nothing(lab, "a full disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_full_disks_adds_fail_in_words_pods_go_on_and_go_and_with_room_adds_work_again() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let node = lab.node(1);
    node.stop_daemon(Daemon::Agent).await;
    node.stop_daemon(Daemon::Bgp).await;
    sh(node, SMALL).await;
    node.start_daemon(Daemon::Bgp).await;
    node.start_daemon(Daemon::Agent).await;
    until_ready(&lab, node).await;
    let all = [("client", "n1"), ("web", "n2"), ("db", "n2"), ("gone0", "n2"), ("gone1", "n2")];
    let mut pods = run(&lab, &all).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    for (number, full) in [FILL, CROWD].into_iter().enumerate() {
        check(&lab, node, full, number).await;
        pods.push(key(&format!("late{number}")));
    }
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}
