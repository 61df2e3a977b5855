//! `margayctl monitor --flows`.

use serde_json::{Value, json};

use crate::{
    cluster::{TCP, apply, is_open, margayctl, only, party, restart_agent, run, start, until},
    monitor::Monitor,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_shows_the_flows_that_begin_with_the_pods_and_the_policy_that_lets_them() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("far", "n2")]).await;
    apply(&lab, &only("client", "near")).await;
    until(&lab, "the policy is in force", async || !is_open(&lab, "other", "near", TCP).await).await;

    let mut monitor =
        Monitor::start(&lab, "--flows", &["--pod", "default/near", "--pod", "far"]).await.unwrap();
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
    let mut monitor = Monitor::start(&lab, "--flows", &["--pod", "far"]).await.unwrap();
    assert!(tells().await);
    assert!(is_open(&lab, "other", "far", TCP).await);
    assert_eq!(monitor.event().await["source"]["pod"], pod("other"));

    restart_agent(&lab, 0, "nftables").await;
    let refused = Monitor::start(&lab, "--flows", &[]).await.map(|_| ()).unwrap_err();
    assert!(refused.contains("no eBPF dataplane"), "{refused}");
    lab.stop().await;
}
