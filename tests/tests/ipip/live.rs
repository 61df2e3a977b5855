//! A pool whose encapsulation is edited from and to IP-in-IP.

use std::time::Duration;

use margay_api::resource::{Encapsulation, IPPoolSpec};
use margay_lab::{Dataplane, FabricKind, IpamMode, Lab, LabConfig, Routing};

use crate::{
    assert_kernel_can,
    cluster::{pod, start, until, until_connected, ways},
    short_way::took,
};

async fn cluster(fabric: FabricKind, encapsulation: Encapsulation, dataplane: Dataplane) -> Lab {
    let pool = IPPoolSpec { encapsulation, block_size: Some(24), ..Lab::pool_of("10.244.0.0/16") };
    start(LabConfig {
        nodes: 3,
        fabric,
        routing: Routing::Direct,
        ipam: IpamMode::Pool,
        dataplane,
        pools: vec![("pods".into(), pool)],
        ..LabConfig::default()
    })
    .await
}

/// Waits until the ways of n1 to n2 and n3 are by these devices.
async fn until_devices(lab: &Lab, wanted: [(&str, &str); 2]) {
    let blocks = lab.blocks().await.unwrap();
    let ways_by = |device: &dyn Fn(&str) -> Option<String>| -> Vec<String> {
        blocks.iter().filter_map(|(block, owner)| Some(format!("{block} {}", device(owner)?))).collect()
    };
    let device =
        |owner: &str| wanted.iter().find(|(node, _)| *node == owner).map(|(_, device)| (*device).to_owned());
    let wanted = ways_by(&device);
    until(lab, &format!("n1 has the ways {wanted:?}"), async || ways(lab, 0).await == wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn across_subnets_there_is_a_tunnel_and_within_one_none() {
    assert_kernel_can();
    let lab = cluster(FabricKind::Subnets, Encapsulation::IpipCrossSubnet, Dataplane::Nftables).await;
    // n3 is in the subnet of n1.
    until_devices(&lab, [("n2", "margay.ipip"), ("n3", "eth0")]).await;
    until_connected(&lab).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_kind_of_tunnel_to_another_and_to_none_no_packet_is_lost() {
    changes(Dataplane::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_is_one_that_the_programs_put_into_either() {
    changes(Dataplane::Ebpf).await;
}

async fn changes(dataplane: Dataplane) {
    assert_kernel_can();
    let lab = cluster(FabricKind::Flat, Encapsulation::Vxlan, dataplane).await;
    until_devices(&lab, [("n2", "margay.vxlan4"), ("n3", "margay.vxlan4")]).await;
    until_connected(&lab).await;
    let mut stream = lab.stream(&pod("a"), &pod("b"), Duration::from_millis(10)).unwrap();
    stream.sends(50).await.unwrap();
    let mut steps = Vec::new();
    for (mode, device, gone) in [
        ("IPIP", "margay.ipip", "margay.vxlan4"),
        ("VXLAN", "margay.vxlan4", "margay.ipip"),
        ("IPIPCrossSubnet", "eth0", "margay.vxlan4"),
        ("None", "eth0", "margay.ipip"),
    ] {
        let patch = format!("{{\"spec\": {{\"encapsulation\": \"{mode}\"}}}}");
        steps.push((stream.sent(), mode));
        lab.kubectl(&["patch", "ippool", "pods", "--type=merge", "-p", &patch], "").await.unwrap();
        until_devices(&lab, [("n2", device), ("n3", device)]).await;
        steps.push((stream.sent(), device));
        for node in lab.nodes() {
            until(&lab, &format!("{gone} of {} is gone", node.name()), async || {
                !node.output("ip", &["link"]).await.unwrap().contains(gone)
            })
            .await;
        }
        steps.push((stream.sent(), "alone"));
        if dataplane == Dataplane::Ebpf && device != "eth0" {
            // Not at once: the map follows the kernel.
            let before = took(&lab, 0, "to_tunnel").await;
            until(&lab, &format!("the programs put packets into {device}"), async || {
                took(&lab, 0, "to_tunnel").await > before + 10
            })
            .await;
        }
        stream.sends(50).await.unwrap();
    }
    let counted = stream.finish().await.unwrap();
    assert_eq!(
        counted.lost,
        [0_u64; 0],
        "{counted:?}, steps by what was sent: {steps:?}{}",
        lab.log_tail(400)
    );
    until_connected(&lab).await;
    lab.stop().await;
}
