//! With eBPF the programs put packets into tunnels of IP-in-IP, and take what comes out of them into pods, under the same policies.

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, Dataplane, FabricKind, Lab, LabConfig, Routing};

use crate::{
    assert_kernel_can,
    cluster::{PORT, apply, carries_at_most, pod, policy_knows_pods, start, until, until_connected},
};

/// Nobody but a reaches b.
const ONLY_A: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: only-a, namespace: default}\n\
    spec: {podSelector: {matchLabels: {name: b}}, ingress: [{from: [{podSelector: {matchLabels: {name: a}}}]}]}\n";

/// Packets that took one way on a node.
pub(crate) async fn took(lab: &Lab, node: usize, way: &str) -> u64 {
    let all = lab.node(node).metrics("margay_short_way_packets_total").await.unwrap();
    all.get(&format!("{{way=\"{way}\"}}")).copied().unwrap_or_default()
}

/// What the device of a node has sent.
async fn sent_by_device(lab: &Lab, node: usize) -> u64 {
    let shown = lab.node(node).output("ip", &["-s", "-j", "link", "show", "margay.ipip"]).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

/// What a connection from a to b counts: what n1 put into the tunnel, and what its device sent, which also does so for the node itself;
/// and what went straight into b at n2.
async fn connection(lab: &Lab) -> [u64; 3] {
    let counted = async || {
        [took(lab, 0, "to_tunnel").await, sent_by_device(lab, 0).await, took(lab, 1, "to_pod").await]
    };
    let before = counted().await;
    assert!(lab.reach(&pod("a"), &pod("b"), PORT).await.unwrap().is_open(), "{}", lab.log_tail(30));
    let after = counted().await;
    [after[0] - before[0], after[1] - before[1], after[2] - before[2]]
}

async fn until_short(lab: &Lab, when: &str) {
    until(lab, &format!("{when}: packets go round the device"), async || {
        let [into, _, arrived] = connection(lab).await;
        into > 2 && arrived > 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_go_round_the_device_on_both_sides_under_the_same_policy() {
    assert_kernel_can();
    let lab = start(LabConfig {
        nodes: 3,
        fabric: FabricKind::Subnets,
        routing: Routing::Direct,
        encapsulation: Encapsulation::Ipip,
        dataplane: Dataplane::Ebpf,
        ..LabConfig::default()
    })
    .await;
    until_connected(&lab).await;
    until_short(&lab, "first").await;
    carries_at_most(&lab, "a", "b", 1480).await;
    policy_knows_pods(&lab, "c").await;

    // Where b is isolated, a packet that one direction takes round the stack would end in it in the other.
    apply(&lab, ONLY_A).await;
    until(&lab, "b is closed to c", async || !lab.reach(&pod("c"), &pod("b"), PORT).await.unwrap().is_open())
        .await;
    until_short(&lab, "with a policy").await;
    let run = async |command: &str| lab.node(0).output("sh", &["-c", command]).await.unwrap();
    // What is to be encrypted the device sends.
    run("ip xfrm policy add src 198.51.100.1 dst 198.51.100.2 dir out priority 1").await;
    until(&lab, "packets go through the device", async || {
        let [into, device, arrived] = connection(&lab).await;
        into == 0 && device > 2 && arrived > 2
    })
    .await;
    run("ip xfrm policy flush").await;
    until_short(&lab, "without encryption").await;
    run("ip link delete margay.ipip").await;
    until(&lab, "the device is back", async || {
        lab.reach(&pod("a"), &pod("b"), PORT).await.unwrap().is_open()
    })
    .await;
    until_short(&lab, "with another device").await;
    lab.node(0).stop_daemon(Daemon::Agent).await;
    assert!(lab.reach(&pod("a"), &pod("b"), PORT).await.unwrap().is_open(), "without an agent");
    assert!(!lab.reach(&pod("c"), &pod("b"), PORT).await.unwrap().is_open(), "without an agent");
    lab.node(0).start_daemon(Daemon::Agent).await;
    until_short(&lab, "with another agent").await;
    for node in [0, 1, 2] {
        assert_eq!(took(&lab, node, "lost").await, 0);
    }
    lab.stop().await;
}
