//! Files, maps and messages of the version before, and of the next one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use margay_api::paths;
use margay_lab::{Daemon, Dataplane, Lab, LabConfig, Node};
use serde_json::{Value, json};

use crate::{
    cluster::{
        deny, is_open, leave_nothing, left, margayctl, readiness, records, run, said, start, until,
        until_open, until_ready, until_said,
    },
    traffic::Traffic,
};

fn record_of(node: &Node, pod: &str) -> PathBuf {
    let listing = records(node).list().unwrap();
    let of_pod = |it: &&margay_api::endpoint::Endpoint| it.pod.as_ref().is_some_and(|it| it.name == pod);
    let id = listing.endpoints.iter().find(of_pod).unwrap().id();
    records(node).dir().join(format!("{id}.json"))
}

/// Changes a record, as another version would have written it.
fn rewrite(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut record);
    fs::write(path, record.to_string()).unwrap();
}

async fn restart(lab: &Lab, node: &Node, meanwhile: impl AsyncFnOnce()) {
    node.stop_daemon(Daemon::Agent).await;
    meanwhile().await;
    node.start_daemon(Daemon::Agent).await;
    until_ready(lab, node).await;
}

/// Says a line on a socket of the node, and hears one.
async fn ask(node: &Node, socket: &str, line: &str) -> Value {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let path = node.path(Path::new(paths::RUN_DIR).join(socket));
    let mut stream = BufReader::new(tokio::net::UnixStream::connect(path).await.unwrap());
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_the_version_before_and_of_the_next_keep_their_pods_and_a_format_unknown_is_named() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let pods =
        run(&lab, &[("client", "n1"), ("old", "n2"), ("new", "n2"), ("db", "n2"), ("far", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    let mut traffic = Traffic::start(&lab, &[("client", "old"), ("client", "new"), ("old", "new")]).await;
    let node = lab.node(1);
    restart(&lab, node, async || {
        // The first records did not name a network.
        rewrite(&record_of(node, "old"), |record| drop(record.as_object_mut().unwrap().remove("network")));
        for pod in ["new", "db"] {
            rewrite(&record_of(node, pod), |record| {
                record["bandwidth"] = json!({"ingress": 1_000_000});
                record["pod"]["serviceAccount"] = "default".into();
            });
        }
    })
    .await;
    traffic.goes_on(&lab, "records of other versions").await;
    assert!(!is_open(&lab, "client", "db").await);
    assert!(!said(node, &["endpoint record", "damaged"]), "{}", lab.log_tail(30));
    for (pod, open) in [("old", true), ("new", true), ("db", false)] {
        assert_eq!(is_open(&lab, "client", pod).await, open, "{pod}");
    }

    let far = record_of(node, "far");
    // Of a format that this version does not know, nothing is guessed.
    rewrite(&far, |record| record["format"] = 2.into());
    until_said(&lab, node, &["endpoint record", "format 2"]).await;
    until_open(&lab, "client", "far", false).await;
    let told = margayctl(node, "ipam check").await;
    assert!(told.contains("format 2"), "{told}");
    rewrite(&far, |record| record["format"] = 1.into());
    until_open(&lab, "client", "far", true).await;
    rewrite(&far, |record| record["format"] = 2.into());
    traffic.lost_nothing(&lab, "records of other versions").await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_another_version_are_refused_by_name_and_no_address_is_given_twice() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let mut pods = run(&lab, &[("client", "n1"), ("web", "n2")]).await;
    let traffic = Traffic::start(&lab, &[("client", "web")]).await;
    let node = lab.node(1);
    let block = node.path("/var/lib/margay/ipam/blocks/10.244.2.0-24.block");
    let good = fs::read(&block).unwrap();
    // What the next version writes where this one has zeroes does no harm.
    let mut more = good.clone();
    more[100..108].copy_from_slice(b"whatever");
    fs::write(&block, &more).unwrap();
    pods.extend(run(&lab, &[("second", "n2")]).await);

    let mut other = fs::read(&block).unwrap();
    other[7] = 2;
    fs::write(&block, &other).unwrap();
    let refused = crate::cluster::create(&lab, &[("third", "n2")]).await;
    until(&lab, "the ADD is refused", async || {
        let events = crate::cluster::events(&lab, "third").await;
        events.iter().any(|it| it.contains("10.244.2.0-24.block") && it.contains("version 2"))
    })
    .await;
    assert!(is_open(&lab, "client", "web").await);
    // As the message says: it is put away, and the agent made to begin.
    restart(&lab, node, async || fs::remove_file(&block).unwrap()).await;
    pods.extend(refused);
    lab.wait_pods(&pods, crate::cluster::PATIENCE).await.unwrap();
    let addresses: std::collections::BTreeSet<_> = pods.iter().flat_map(|it| lab.pod_addresses(it)).collect();
    assert_eq!(addresses.len(), pods.len(), "an address is on two pods: {addresses:?}");
    traffic.lost_nothing(&lab, "blocks of another version").await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_another_version_give_their_flows_away_before_they_go() {
    let config = LabConfig { nodes: 2, dataplane: Dataplane::Ebpf, ..LabConfig::default() };
    let lab = start(config).await;
    let pods = run(&lab, &[("client", "n1"), ("near", "n1"), ("far", "n2"), ("db", "n1")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    let node = lab.node(0);
    let pins = node.path("/sys/fs/bpf/margay");
    let current = pins.join(format!("v{}", margay_ebpf_common::LAYOUT_VERSION));
    until(&lab, "there are programs", async || current.join("links").read_dir().unwrap().count() >= 8).await;
    // Where policy decides, connection tracking must know an open connection.
    for to in ["near", "far"] {
        let policy = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: only-{to}, namespace: default}}\n\
             spec:\n  podSelector: {{matchLabels: {{app: {to}}}}}\n\
             \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]}}]\n"
        );
        lab.kubectl(&["apply", "-f", "-"], &policy).await.unwrap();
        until_open(&lab, "db", to, false).await;
    }
    let mut traffic = Traffic::start(&lab, &[("client", "near"), ("client", "far")]).await;
    let flows = async || {
        margayctl(node, "ebpf flows").await.lines().filter(|line| line.contains("established")).count()
    };
    until(&lab, "the flows are on the short way", async || flows().await >= 2).await;
    for other in [margay_ebpf_common::LAYOUT_VERSION - 1, margay_ebpf_common::LAYOUT_VERSION + 1] {
        let name = format!("v{other}");
        restart(&lab, node, async || fs::rename(&current, pins.join(&name)).unwrap()).await;
        assert!(!pins.join(&name).exists(), "nothing is left of {name}");
        assert!(current.exists());
        traffic.goes_on(&lab, &format!("with programs of {name} before")).await;
        assert!(!is_open(&lab, "client", "db").await);
        assert!(said(node, &["that are not of this version", &name]), "{}", lab.log_tail(30));
    }
    traffic.lost_nothing(&lab, "programs of other versions").await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_versions_are_refused_in_words_or_understood() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let node = lab.node(0);
    // What the first plugins said, and what the next one may.
    for (line, words) in [
        (r#"{"request":"endpointDeleted","endpoint":"0123456789ab"}"#, "endpointDeleted"),
        (r#"{"request":"status","detail":true}"#, "done"),
        (r#"{"request":"addressing","family":"IPv6"}"#, "family"),
    ] {
        let answer = ask(node, paths::AGENT_SOCKET, line).await.to_string();
        assert!(answer.contains(words), "{line}: {answer}");
    }
    // The speaker keeps its sessions, whatever it is told that it does not know.
    let status = node.bgp_status().await.unwrap();
    let configure = json!({"configure": {
        "asn": status.asn, "router_id": status.router_id, "turbo": true,
    }});
    let answer = ask(node, paths::BGP_SOCKET, &configure.to_string()).await.to_string();
    assert!(answer.contains("error") && answer.contains("turbo"), "{answer}");
    let answer = ask(node, paths::BGP_SOCKET, r#"{"dance": 1}"#).await.to_string();
    assert!(answer.contains("error") && answer.contains("dance"), "{answer}");
    let after = node.bgp_status().await.unwrap();
    assert_eq!(after.neighbors[0].state, "Established");
    assert!(after.neighbors[0].since_seconds >= status.neighbors[0].since_seconds);
    readiness(node).await.unwrap();
    assert_eq!(left(node).await, (0, 0, 0));
    lab.stop().await;
}
