//! `NetworkConfig`: settings that all nodes have in common.

use std::time::Duration;

use margay_lab::{Daemon, Lab, LabConfig, Party, PodKey};

use crate::cluster::{PATIENCE, apply, kubectl, object, run, start, until};

/// Between two datagrams of the stream.
const EVERY: Duration = Duration::from_millis(5);

fn config(spec: &str) -> String {
    format!(
        "apiVersion: margay.dev/v1alpha1\nkind: NetworkConfig\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    )
}

/// Starts agents whose own files leave these settings to the cluster.
async fn leave_it_to_the_cluster(lab: &Lab) {
    for node in lab.nodes() {
        node.stop_daemon(Daemon::Agent).await;
        node.configure(|settings| {
            for field in ["dataplane", "overlay", "natOutgoing", "logLevel"] {
                settings.as_object_mut().unwrap().remove(field);
            }
        })
        .unwrap();
        node.start_daemon(Daemon::Agent).await;
    }
    lab.wait_ready(PATIENCE).await.unwrap();
}

async fn restart(lab: &Lab, index: usize) {
    lab.node(index).stop_daemon(Daemon::Agent).await;
    lab.node(index).start_daemon(Daemon::Agent).await;
}

/// What the agent of the first node said when it began, the last time.
fn beginning(lab: &Lab) -> Option<String> {
    let lines = lab.node(0).log(Daemon::Agent, 2000);
    lines.into_iter().rev().find(|line| line.contains("margay-node runs"))
}

async fn until_tunnels(lab: &Lab, wanted: bool) {
    until(lab, &format!("tunnels on all nodes: {wanted}"), async || {
        for node in lab.nodes() {
            let links = node.output("ip", &["-br", "link"]).await.unwrap();
            let routes = node.overlay_routes().await.unwrap();
            if links.contains("margay.vxlan4") != wanted || routes.is_empty() == wanted {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn until_accepted(lab: &Lab, status: &str) -> String {
    until(lab, &format!("Accepted is {status}"), async || {
        let object = object(lab, "networkconfig default").await?;
        let accepted = object["status"]["conditions"].as_array()?.first()?;
        let is_of_now = accepted["observedGeneration"] == object["metadata"]["generation"];
        let fits = accepted["type"] == "Accepted" && accepted["status"] == status && is_of_now;
        fits.then(|| accepted["message"].as_str().unwrap().to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_followed_live_without_loss_and_what_cannot_be_is_told_and_counts_from_the_next_start() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    leave_it_to_the_cluster(&lab).await;
    run(&lab, "client", "n1").await;
    run(&lab, "web", "n2").await;
    let party = |name| Party::from(PodKey::new("default", name));
    let mut stream = lab.stream(&party("client"), &party("web"), EVERY).unwrap();
    stream.sends(20).await.unwrap();

    apply(&lab, &config("overlay: {encapsulation: VXLAN}")).await;
    until_accepted(&lab, "True").await;
    until_tunnels(&lab, true).await;
    stream.sends(20).await.unwrap();

    // What the API server refuses, and what only an agent knows to be wrong.
    let refused = lab.kubectl(&["apply", "-f", "-"], &config("mtu: 100")).await.unwrap_err();
    assert!(format!("{refused:#}").contains("spec.mtu"), "{refused:#}");
    apply(&lab, &config("logLevel: 'a=b=c'")).await;
    let message = until_accepted(&lab, "False").await;
    assert!(message.contains("logLevel is `a=b=c`"), "{message}");
    until(&lab, "an Event says it", async || {
        kubectl(&lab, "get events")
            .await
            .lines()
            .any(|line| line.contains("networkconfig/default"))
            .then_some(())
    })
    .await;
    until_tunnels(&lab, true).await;

    apply(&lab, &config("dataplane: nftables, logLevel: debug")).await;
    until_accepted(&lab, "True").await;
    until(&lab, "both nodes say that they have to be restarted", async || {
        let events = kubectl(&lab, "get events").await;
        let tells = |node: &&str| {
            events.lines().any(|line| {
                line.contains("RestartNeeded") && line.contains(node) && line.contains("`dataplane`")
            })
        };
        ["node/n1", "node/n2"].iter().all(tells).then_some(())
    })
    .await;
    // The encapsulation is gone from it.
    until_tunnels(&lab, false).await;
    assert!(lab.node(0).log(Daemon::Agent, 500).iter().any(|line| line.contains("DEBUG")));
    let before = beginning(&lab).unwrap();
    assert!(before.contains("dataplane=\"eBPF\"") || before.contains("dataplane=\"ebpf\""), "{before}");
    restart(&lab, 0).await;
    let is_nftables = || beginning(&lab).filter(|line| line.contains("dataplane=\"nftables\""));
    until(&lab, "the new dataplane counts", async || is_nftables()).await;
    lab.wait_ready(PATIENCE).await.unwrap();

    // The API server is away: the agent begins with what the one before had.
    let last = is_nftables().unwrap();
    lab.cut_api().await;
    restart(&lab, 0).await;
    let anew = until(&lab, "it begins", async || beginning(&lab).filter(|line| *line != last)).await;
    assert!(anew.contains("dataplane=\"nftables\""), "{anew}");
    stream.sends(20).await.unwrap();
    lab.restore_api().unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();

    kubectl(&lab, "delete networkconfig default").await;
    until(&lab, "it counts no more", async || {
        let lines = lab.node(1).log(Daemon::Agent, 500);
        lines.iter().any(|line| line.contains("NetworkConfig default is gone")).then_some(())
    })
    .await;
    stream.sends(20).await.unwrap();
    let counted = stream.finish().await.unwrap();
    assert!(counted.lost.is_empty(), "lost {} of {}{}", counted.lost.len(), counted.sent, lab.log_tail(40));
    lab.stop().await;
}

/// The ports of UDP on which the agent of the first node answers tests.
async fn answers(lab: &Lab, port: u16) -> bool {
    lab.node(0)
        .output("ss", &["-Hlun", "sport", "=", &format!(":{port}")])
        .await
        .unwrap()
        .contains(&port.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_ways_and_the_nodes_address_are_followed_live_and_map_sizes_count_from_the_next_start() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    leave_it_to_the_cluster(&lab).await;
    until(&lab, "tests are answered on the port of the default", async || {
        answers(&lab, 9097).await.then_some(())
    })
    .await;
    apply(&lab, &config("selfTest: {port: 9777}")).await;
    until(&lab, "on another port, and on that one alone", async || {
        (answers(&lab, 9777).await && !answers(&lab, 9097).await).then_some(())
    })
    .await;
    apply(&lab, &config("selfTest: {enabled: false}")).await;
    until(&lab, "on none", async || (!answers(&lab, 9777).await).then_some(())).await;

    // What the API server refuses, and what only an agent knows to be wrong.
    for (wrong, field) in [
        ("nodeAddress: {ipv4: {method: first-found, cidr: [10.0.0.0/8]}}", "spec.nodeAddress.ipv4"),
        ("nodeAddress: {ipv4: {method: guess}}", "spec.nodeAddress.ipv4.method"),
        ("ebpf: {flows: 1}", "spec.ebpf.flows"),
        ("selfTest: {port: 0}", "spec.selfTest.port"),
    ] {
        let refused = lab.kubectl(&["apply", "-f", "-"], &config(wrong)).await.unwrap_err();
        assert!(format!("{refused:#}").contains(field), "{wrong}: {refused:#}");
    }
    apply(&lab, &config("nodeAddress: {ipv4: {interface: ['eth(']}}")).await;
    let message = until_accepted(&lab, "False").await;
    assert!(message.contains("nodeAddress.ipv4: interface[0] is `eth(`"), "{message}");

    let chosen = async || {
        let node = object(&lab, "node n1").await?;
        Some(node["metadata"]["annotations"]["margay.dev/node-ips"].as_str().map(str::to_owned))
    };
    apply(&lab, &config("nodeAddress: {ipv4: {method: first-found}}")).await;
    until(&lab, "the node's address is chosen", async || chosen().await.flatten()).await;
    lab.wait_ready(PATIENCE).await.unwrap();
    apply(&lab, &config("ebpf: {flows: 4096}")).await;
    until(&lab, "the choice is gone", async || chosen().await.filter(Option::is_none)).await;
    until(&lab, "the nodes say that they have to be restarted", async || {
        let events = kubectl(&lab, "get events").await;
        events.lines().any(|line| line.contains("RestartNeeded") && line.contains("`ebpf`")).then_some(())
    })
    .await;
    lab.wait_ready(PATIENCE).await.unwrap();
    lab.stop().await;
}
