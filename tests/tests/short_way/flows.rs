//! `margayctl monitor --flows`.

use std::process::Stdio;

use margay_lab::Lab;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::cluster::{
    PATIENCE, TCP, apply, is_open, margayctl, only, party, restart_agent, run, start, until,
};

/// A monitor of the first node, which ends with this.
struct Monitor {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Monitor {
    /// Starts one that misses nothing from now on; or what it is refused with.
    async fn start(lab: &Lab, arguments: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(margayctl())
            .arg(format!("--run-dir={}", lab.node(0).path("/run/margay").display()))
            .args(["monitor", "--flows", "-o", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut aside = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = timeout(PATIENCE, aside.next_line()).await.unwrap().unwrap().unwrap_or_default();
        if line != "listening" {
            return Err(line);
        }
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Ok(Self { _child: child, lines })
    }

    async fn event(&mut self) -> Value {
        // An event comes, and the monitor stays open.
        let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_shows_the_flows_that_begin_with_the_pods_and_the_policy_that_lets_them() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("far", "n2")]).await;
    apply(&lab, &only("client", "near")).await;
    until(&lab, "the policy is in force", async || !is_open(&lab, "other", "near", TCP).await).await;

    let mut monitor = Monitor::start(&lab, &["--pod", "default/near", "--pod", "far"]).await.unwrap();
    // Not allowed, not the monitor's, and then one of each way.
    assert!(!is_open(&lab, "other", "near", TCP).await);
    assert!(is_open(&lab, "client", "other", TCP).await);
    let _kept = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();
    let event = monitor.event().await;
    let pod = |name: &str| json!({"namespace": "default", "name": name});
    assert_eq!((&event["source"]["pod"], &event["destination"]["pod"]), (&pod("client"), &pod("near")));
    assert_eq!((&event["node"], &event["protocol"]), (&json!("n1"), &json!("TCP")));
    assert_eq!(event["destinationPort"], 8080);
    assert_eq!(event["egress"], json!({"by": "nobody"}));
    let policy = json!({"kind": "NetworkPolicy", "namespace": "default", "name": "only-near"});
    assert_eq!(event["ingress"], json!({"by": "rule", "policy": policy, "rule": 1}));
    assert!(is_open(&lab, "other", "far", TCP).await);
    let event = monitor.event().await;
    assert_eq!((&event["source"]["pod"], &event["destination"]["pod"]), (&pod("other"), &pod("far")));
    assert_eq!((&event["egress"], &event["ingress"]), (&json!({"by": "nobody"}), &Value::Null));

    // Once nobody listens, the programs write nothing; the next one hears what begins then, and nothing older.
    drop(monitor);
    let tells = async || {
        let status = lab.node(0).output(&margayctl(), &["ebpf", "status", "-o", "json"]).await.unwrap();
        let status: Value = serde_json::from_str(&status).unwrap();
        let row =
            status.as_array().unwrap().iter().find(|row| row["what"] == "tells of flows").unwrap().clone();
        row["value"] == "yes"
    };
    until(&lab, "nobody listens", async || !tells().await).await;
    assert!(is_open(&lab, "client", "far", TCP).await);
    let mut monitor = Monitor::start(&lab, &["--pod", "far"]).await.unwrap();
    assert!(tells().await);
    assert!(is_open(&lab, "other", "far", TCP).await);
    assert_eq!(monitor.event().await["source"]["pod"], pod("other"));

    restart_agent(&lab, 0, "nftables").await;
    let refused = Monitor::start(&lab, &[]).await.map(|_| ()).unwrap_err();
    assert!(refused.contains("no eBPF dataplane"), "{refused}");
    lab.stop().await;
}
