//! The condition `NetworkUnavailable` of a Node is that of its network.

use margay_lab::{Daemon, Lab, LabConfig};
use serde_json::{Value, json};

use crate::cluster::{object, until};

async fn condition(lab: &Lab) -> Option<Value> {
    let node = object(lab, "node n1").await?;
    node["status"]["conditions"].as_array()?.iter().find(|it| it["type"] == "NetworkUnavailable").cloned()
}

async fn until_condition(lab: &Lab, status: &str, reason: &str) -> Value {
    until(lab, &format!("NetworkUnavailable is {status}, {reason}"), async || {
        condition(lab).await.filter(|it| it["status"] == status && it["reason"] == reason)
    })
    .await
}

/// Says what some cloud providers say when they make a node.
async fn say(lab: &Lab, status: &str) {
    let patch = json!({"status": {"conditions": [{
        "type": "NetworkUnavailable", "status": status, "reason": "NoRouteCreated", "message": "made by a provider",
    }]}});
    let patch = ["patch", "node", "n1", "--subresource=status", "--type=strategic", "-p", &patch.to_string()];
    lab.kubectl(&patch, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_condition_is_false_as_soon_as_pods_can_be_added_whoever_set_it_and_true_after_a_while_without() {
    let lab = Lab::start(LabConfig { nodes: 1, ..LabConfig::default() }).await.unwrap();
    say(&lab, "True").await;
    let up = until_condition(&lab, "False", "MargayIsUp").await;
    assert!(up["lastTransitionTime"].is_string(), "{up}");
    // The kubelet's are still there.
    let node = object(&lab, "node n1").await.unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        assert!(conditions.iter().any(|it| it["type"] == kind), "{kind}: {node}");
    }
    // A provider that comes late is corrected.
    say(&lab, "True").await;
    until_condition(&lab, "False", "MargayIsUp").await;

    lab.node(0).stop_daemon(Daemon::Agent).await;
    lab.node(0).configure(|settings| settings["unreadySeconds"] = 1.into()).unwrap();
    lab.node(0).configure(|settings| settings["reconcileSeconds"] = 1.into()).unwrap();
    lab.node(0).start_daemon(Daemon::Agent).await;
    until_condition(&lab, "False", "MargayIsUp").await;
    lab.node(0).stop_daemon(Daemon::Bgp).await;
    let down = until_condition(&lab, "True", "MargayIsDown").await;
    assert!(down["message"].as_str().unwrap().contains("bgp: "), "{down}");
    until(&lab, "the node tells it, too", async || {
        let events = lab.kubectl(&["get", "events"], "").await.ok()?;
        events.lines().any(|line| line.contains("MargayNotReady") && line.contains("node/n1")).then_some(())
    })
    .await;
    // What cannot be written now is written later.
    lab.cut_api().await;
    lab.node(0).start_daemon(Daemon::Bgp).await;
    until(&lab, "the session is there again", async || {
        lab.node(0).bgp_status().await.ok().filter(|it| it.configured)
    })
    .await;
    lab.restore_api().unwrap();
    until_condition(&lab, "False", "MargayIsUp").await;
    lab.stop().await;
}
