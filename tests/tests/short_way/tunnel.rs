//! The programs put packets into the tunnels that the agent has made, as long as the kernel's device would do no more than they.

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, Lab, LabConfig, Routing};

use crate::cluster::{
    TCP, UDP, apply, is_open, metrics, only, party, restart_agent, restart_agent_with, run, start_with, took,
    until,
};

async fn start() -> (Lab, tempfile::TempDir) {
    let config =
        LabConfig { routing: Routing::Direct, encapsulation: Encapsulation::Vxlan, ..LabConfig::default() };
    let (lab, programs) = start_with(config).await;
    run(&lab, &[("client", "n1"), ("near", "n1"), ("far", "n2")]).await;
    (lab, programs)
}

/// The ways into tunnels that the programs of a node know: one for the other node's block of each family.
async fn entries(lab: &Lab, node: usize) -> Option<u64> {
    metrics(lab, node, "margay_ebpf_map_entries").await.get("{map=\"tunnels\"}").copied()
}

async fn until_entries(lab: &Lab, node: usize, wanted: u64) {
    until(lab, &format!("the programs of n{} know {wanted} ways into tunnels", node + 1), async || {
        entries(lab, node).await == Some(wanted)
    })
    .await;
}

/// Has the client reach the far pod, and says how many packets of it the programs put into a tunnel, and how many the device.
async fn sent(lab: &Lab) -> (u64, u64) {
    let counted = async || (took(lab, 0, "to_tunnel").await, took(lab, 0, "to_node").await);
    let before = counted().await;
    let arrived = took(lab, 1, "to_pod").await;
    for port in [TCP, UDP] {
        assert!(is_open(lab, "client", "far", port).await, "{port:?}{}", lab.log_tail(30));
    }
    assert!(took(lab, 1, "to_pod").await > arrived);
    let after = counted().await;
    (after.0 - before.0, after.1 - before.1)
}

async fn run_on(lab: &Lab, node: usize, command: &str) {
    lab.node(node).output("sh", &["-c", command]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_to_another_node_go_round_the_device_of_the_tunnel_under_the_same_policy() {
    let (lab, _programs) = start().await;
    for node in [0, 1] {
        until_entries(&lab, node, 2).await;
    }
    // The device has programs of its own, without which it is no way.
    until(&lab, "packets go round the device", async || sent(&lab).await.0 > 2).await;
    let (round, through) = sent(&lab).await;
    assert!(round > 2 && through == 0, "{round} {through}");
    apply(&lab, &only("near", "far")).await;
    until(&lab, "far is closed", async || !is_open(&lab, "client", "far", TCP).await).await;
    assert!(is_open(&lab, "near", "far", TCP).await);
    lab.kubectl(&["delete", "networkpolicy", "only-far"], "").await.unwrap();
    until(&lab, "far is open", async || is_open(&lab, "client", "far", TCP).await).await;

    // Whatever becomes of the device, and of the agent.
    for damage in [
        "ip link delete margay.vxlan4",
        // Each by itself: 6.1 cannot flush those of such a device.
        "bridge fdb show dev margay.vxlan4 | while read mac _; do bridge fdb del $mac dev margay.vxlan4; done",
        "ip link set margay.vxlan4 mtu 1300",
    ] {
        run_on(&lab, 0, damage).await;
        until(&lab, damage, async || is_open(&lab, "client", "far", TCP).await).await;
        until(&lab, damage, async || entries(&lab, 0).await == Some(2) && sent(&lab).await.1 == 0).await;
    }
    lab.node(0).stop_daemon(Daemon::Agent).await;
    assert!(is_open(&lab, "client", "far", TCP).await);
    lab.node(0).start_daemon(Daemon::Agent).await;
    until_entries(&lab, 0, 2).await;
    until(&lab, "packets go round the device again", async || {
        let (round, through) = sent(&lab).await;
        round > 2 && through == 0
    })
    .await;
    restart_agent(&lab, 0, "nftables").await;
    assert!(is_open(&lab, "client", "far", TCP).await);
    restart_agent(&lab, 0, "ebpf").await;
    until_entries(&lab, 0, 2).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ways_that_the_map_has_no_room_for_go_through_the_device_under_the_same_policy() {
    let (lab, _programs) = start().await;
    until_entries(&lab, 0, 2).await;
    let sizes = serde_json::json!({"tunnels": 1});
    restart_agent_with(&lab, 0, "ebpf", |settings| settings["ebpf"] = sizes).await;
    until_entries(&lab, 0, 2).await;
    let said = || lab.node(0).log(Daemon::Agent, 2000).join("\n");
    until(&lab, "the log names the map", async || {
        said().contains(
            "the map TUNNELS has room for 1 entries, and 2 are needed: make it larger (ebpf.tunnels)",
        )
    })
    .await;
    // One family goes round the device, and the other through it.
    let far = lab.pod_addresses(&margay_lab::PodKey::new("default", "far"));
    let sent = async || {
        let mut ways = Vec::new();
        for address in &far {
            let counted = async || (took(&lab, 0, "to_tunnel").await, took(&lab, 0, "to_node").await);
            let before = counted().await;
            for port in [TCP, UDP] {
                let reach = lab.reach_address(&party("client"), *address, port).await.unwrap();
                assert!(reach.is_open(), "{address} {port:?}{}", lab.log_tail(30));
            }
            let after = counted().await;
            ways.push((after.0 > before.0, after.1 > before.1));
        }
        ways.sort_unstable();
        ways
    };
    until(&lab, "one of two ways goes round the device", async || {
        sent().await == [(false, true), (true, false)]
    })
    .await;
    apply(&lab, &only("near", "far")).await;
    until(&lab, "far is closed", async || !is_open(&lab, "client", "far", TCP).await).await;
    for address in &far {
        for port in [TCP, UDP] {
            let reach = async |from| lab.reach_address(&party(from), *address, port).await.unwrap().is_open();
            assert!(reach("near").await && !reach("client").await, "{address} {port:?}");
        }
    }
    lab.kubectl(&["delete", "networkpolicy", "only-far"], "").await.unwrap();
    until(&lab, "far is open", async || is_open(&lab, "client", "far", TCP).await).await;

    // Room again.
    restart_agent_with(&lab, 0, "ebpf", |settings| settings["ebpf"] = serde_json::json!({"tunnels": 2}))
        .await;
    until(&lab, "both go round the device", async || sent().await == [(true, false), (true, false)]).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_device_does_more_than_the_programs_is_the_devices() {
    const POLICY: &str = "ip xfrm policy add src 198.51.100.1 dst 198.51.100.2 dir out priority 1";
    let (lab, _programs) = start().await;
    until(&lab, "packets go round the device", async || sent(&lab).await.0 > 2).await;
    for (begin, end) in [
        (POLICY, "ip xfrm policy flush"),
        ("tc qdisc add dev margay.vxlan4 root pfifo", "tc qdisc del dev margay.vxlan4 root"),
    ] {
        run_on(&lab, 0, begin).await;
        until_entries(&lab, 0, 0).await;
        let (round, through) = sent(&lab).await;
        assert!(round == 0 && through > 2, "{begin}: {round} {through}");
        run_on(&lab, 0, end).await;
        until_entries(&lab, 0, 2).await;
        let (round, through) = sent(&lab).await;
        assert!(round > 2 && through == 0, "{end}: {round} {through}");
    }
    // A policy that came while there was no agent is found when there is one.
    lab.node(0).stop_daemon(Daemon::Agent).await;
    run_on(&lab, 0, POLICY).await;
    lab.node(0).start_daemon(Daemon::Agent).await;
    until_entries(&lab, 0, 0).await;
    until(&lab, "the device sends", async || sent(&lab).await.0 == 0).await;
    lab.stop().await;
}
