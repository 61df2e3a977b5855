//! A pool whose encapsulation is edited.

use std::time::Duration;

use margay_api::resource::{Encapsulation, IPPoolSpec};
use margay_lab::{Daemon, FabricKind, IpFamilies, IpamMode, Lab, LabConfig, Party, Routing, Stream};

use crate::cluster::{
    attach_outside, gives_mtu, inside, key, margayctl, passes, pod, seen_outside, start, until,
    until_connected, until_ways,
};

fn config(fabric: FabricKind, routing: Routing, encapsulation: Encapsulation) -> LabConfig {
    let pool = IPPoolSpec { encapsulation, block_size: Some(24), ..Lab::pool_of("10.244.0.0/16") };
    LabConfig {
        nodes: 3,
        fabric,
        routing,
        ipam: IpamMode::Pool,
        pools: vec![("pods".into(), pool)],
        ..LabConfig::default()
    }
}

async fn edit(lab: &Lab, spec: &str) {
    edit_pool(lab, "pods", spec).await;
}

async fn edit_pool(lab: &Lab, name: &str, spec: &str) {
    let patch = format!("{{\"spec\": {spec}}}");
    lab.kubectl(&["patch", "ippool", name, "--type=merge", "-p", &patch], "").await.unwrap();
}

/// The ways of n1 to the blocks of n2 and n3 by these devices, which were claimed at random places; in their order.
async fn expected(lab: &Lab, devices: &[(&str, &str)]) -> Vec<String> {
    let blocks = lab.blocks().await.unwrap();
    let ways = blocks.iter().filter_map(|(block, owner)| {
        let (_, device) = devices.iter().find(|(node, _)| node == owner)?;
        Some(format!("{block} {device}"))
    });
    ways.collect()
}

async fn until_expected(lab: &Lab, devices: &[(&str, &str)]) {
    let wanted = expected(lab, devices).await;
    assert_eq!(wanted.len(), devices.len() * lab.config().pools.len(), "a block of each pool: {wanted:?}");
    until_ways(lab, 0, &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Waits until no node has a tunnel any more.
async fn until_no_device(lab: &Lab) {
    for node in lab.nodes() {
        until(lab, &format!("the device of {} is gone", node.name()), async || {
            !node.output("ip", &["link"]).await.unwrap().contains("margay")
        })
        .await;
    }
}

async fn nothing_was_lost(stream: Stream) {
    let counted = stream.finish().await.unwrap();
    assert_eq!(counted.lost, [0_u64; 0], "{counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pool_says_holds_on_all_nodes_and_bgp_has_the_rest() {
    let lab = start(config(FabricKind::Subnets, Routing::Bgp, Encapsulation::VxlanCrossSubnet)).await;
    // n3 is in the subnet of n1, where BGP leads.
    until_expected(&lab, &[("n2", "margay.vxlan4")]).await;
    until_connected(&lab).await;
    passes(&lab, "a", "b", 1450).await.unwrap();

    edit(&lab, r#"{"encapsulation": "VXLAN"}"#).await;
    until_expected(&lab, &[("n2", "margay.vxlan4"), ("n3", "margay.vxlan4")]).await;
    // The speaker has them too, and the kernel takes ours.
    let address = lab.pod_addresses(&key("c"))[0].to_string();
    let taken = lab.node(0).output("ip", &["route", "get", &address]).await.unwrap();
    assert!(taken.contains("margay.vxlan4"), "{taken}");
    assert_eq!(lab.node(0).bgp_routes().await.unwrap().len(), 3, "two, and the blackhole of its own block");
    until_connected(&lab).await;

    edit(&lab, r#"{"encapsulation": "None"}"#).await;
    until_expected(&lab, &[]).await;
    until_no_device(&lab).await;
    assert!(lab.reach(&pod("a"), &pod("c"), crate::cluster::PORT).await.unwrap().is_open());
    // The router in between does not know it.
    assert!(!lab.reach(&pod("a"), &pod("b"), crate::cluster::PORT).await.unwrap().is_open());
    until(&lab, "new pods have room for what a tunnel took", async || gives_mtu(&lab, 0, 1500)).await;
    edit(&lab, r#"{"encapsulation": "VXLANCrossSubnet"}"#).await;
    until_connected(&lab).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_bgp_no_packet_of_either_family_is_lost_between_tunnels_for_some_nodes_and_for_all() {
    const POOLS: [(&str, &str, u8); 2] = [("pods", "10.244.0.0/16", 24), ("pods6", "fd00:10:244::/64", 80)];
    let pool = |(name, range, block_size): (&str, &str, u8)| {
        let encapsulation = Encapsulation::VxlanCrossSubnet;
        (name.to_owned(), IPPoolSpec { encapsulation, block_size: Some(block_size), ..Lab::pool_of(range) })
    };
    let mut lab = start(LabConfig {
        ip_families: IpFamilies::Dual,
        pools: POOLS.map(pool).into(),
        ..config(FabricKind::Subnets, Routing::Bgp, Encapsulation::VxlanCrossSubnet)
    })
    .await;
    let edit_both = async |spec: &str| {
        for (name, ..) in POOLS {
            edit_pool(&lab, name, spec).await;
        }
    };
    // n3 is in the subnet of n1, where BGP leads as long as no tunnel is asked for.
    let some = [("n2", "margay.vxlan4")];
    let all = [("n2", "margay.vxlan4"), ("n3", "margay.vxlan4")];
    until_expected(&lab, &some).await;
    until_connected(&lab).await;
    let mut streams = Vec::new();
    for to in ["b", "c"] {
        for address in lab.pod_addresses(&key(to)) {
            let every = Duration::from_millis(10);
            let mut stream = lab.stream_to(&pod("a"), &pod(to), address, every).unwrap();
            stream.sends(50).await.unwrap();
            streams.push((address, stream));
        }
    }
    assert_eq!(streams.len(), 4, "two families to two pods");
    for (mode, devices) in [("VXLAN", &all[..]), ("VXLANCrossSubnet", &some), ("VXLAN", &all)] {
        edit_both(&format!("{{\"encapsulation\": \"{mode}\"}}")).await;
        until_expected(&lab, devices).await;
        for (_, stream) in &mut streams {
            stream.sends(50).await.unwrap();
        }
    }
    until_connected(&lab).await;
    for (address, stream) in streams {
        let counted = stream.finish().await.unwrap();
        assert_eq!(counted.lost, [0_u64; 0], "to {address}: {counted:?}");
    }

    // The nodes translate for those that know no pod, in the family of the pool that says so.
    attach_outside(&mut lab).await;
    let node = lab.node(0).addresses();
    for (family, (name, ..)) in POOLS.into_iter().enumerate() {
        assert_eq!(seen_outside(&lab, "a", family).await, None, "{name}");
        edit_pool(&lab, name, r#"{"natOutgoing": true}"#).await;
        until(&lab, &format!("a is seen as its node by {name}"), async || {
            seen_outside(&lab, "a", family).await == Some(node[family])
        })
        .await;
    }
    until_connected(&lab).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_subnet_without_bgp_each_mode_connects_all() {
    let mut lab = start(config(FabricKind::Flat, Routing::Direct, Encapsulation::Vxlan)).await;
    until_expected(&lab, &[("n2", "margay.vxlan4"), ("n3", "margay.vxlan4")]).await;
    until_connected(&lab).await;
    assert!(inside(&lab, "a", "ip link show eth0").await.contains("mtu 1450"));
    for (mode, device) in [("VXLANCrossSubnet", "eth0"), ("VXLAN", "margay.vxlan4"), ("None", "eth0")] {
        edit(&lab, &format!("{{\"encapsulation\": \"{mode}\"}}")).await;
        until_expected(&lab, &[("n2", device), ("n3", device)]).await;
        until_connected(&lab).await;
    }
    // From none to tunnels and back not a packet is lost, and that from the very beginning: no device has lingered.
    until_no_device(&lab).await;
    let mut stream = lab.stream(&pod("a"), &pod("b"), Duration::from_millis(10)).unwrap();
    stream.sends(50).await.unwrap();
    for (mode, device) in [("VXLAN", "margay.vxlan4"), ("None", "eth0")] {
        edit(&lab, &format!("{{\"encapsulation\": \"{mode}\"}}")).await;
        until_expected(&lab, &[("n2", device), ("n3", device)]).await;
        stream.sends(50).await.unwrap();
    }
    until_no_device(&lab).await;
    stream.sends(50).await.unwrap();

    // Nor to pods or to the outside while translation comes and goes, and the pool becomes larger and smaller. The router in front
    // of the outside knows pods of podCIDRs alone.
    attach_outside(&mut lab).await;
    assert_eq!(seen_outside(&lab, "a", 0).await, None);
    let outside = Party::External("outside".into());
    let mut outwards = lab.stream(&pod("a"), &outside, Duration::from_millis(10)).unwrap();
    outwards.sends(50).await.unwrap();
    edit(&lab, r#"{"natOutgoing": true}"#).await;
    let node = Some(lab.node(0).addresses()[0]);
    until(&lab, "a is seen as its node", async || seen_outside(&lab, "a", 0).await == node).await;
    // Nodes and other pods still see itself.
    until_connected(&lab).await;
    for range in ["10.240.0.0/12", "10.244.0.0/16"] {
        edit(&lab, &format!("{{\"cidr\": \"{range}\"}}")).await;
        until(&lab, &format!("what is to {range} is not translated"), async || {
            lab.node(0).output("nft", &["list", "table", "inet", "margay"]).await.unwrap().contains(range)
        })
        .await;
        stream.sends(50).await.unwrap();
        outwards.sends(50).await.unwrap();
    }
    assert_eq!(seen_outside(&lab, "a", 0).await, node);
    until_connected(&lab).await;
    edit(&lab, r#"{"natOutgoing": false}"#).await;
    until(&lab, "a is seen as its node no more", async || seen_outside(&lab, "a", 0).await.is_none()).await;
    stream.sends(50).await.unwrap();
    outwards.sends(50).await.unwrap();
    nothing_was_lost(stream).await;
    nothing_was_lost(outwards).await;
    lab.stop().await;
}

/// More packets than are sent in the time that a change takes at least.
const LONG: u64 = 700;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_agent_of_a_node_is_away_others_wait_for_it_and_no_packet_is_lost() {
    let lab = start(config(FabricKind::Flat, Routing::Direct, Encapsulation::None)).await;
    until_expected(&lab, &[("n2", "eth0"), ("n3", "eth0")]).await;
    until_connected(&lab).await;
    let away = lab.node(1);
    let mut stream = lab.stream(&pod("a"), &pod("b"), Duration::from_millis(10)).unwrap();
    for (mode, device) in [("VXLAN", "margay.vxlan4"), ("None", "eth0")] {
        away.stop_daemon(Daemon::Agent).await;
        edit(&lab, &format!("{{\"encapsulation\": \"{mode}\"}}")).await;
        stream.sends(LONG).await.unwrap();
        until_expected(&lab, &[("n2", "eth0"), ("n3", "eth0")]).await;
        until(&lab, "n1 has a tunnel for n2", async || {
            lab.node(0).output("ip", &["link"]).await.unwrap().contains("margay.vxlan4")
        })
        .await;
        assert!(
            gives_mtu(&lab, 0, 1450),
            "a pod that is added meanwhile has room for the tunnel, whether it comes or goes"
        );
        away.start_daemon(Daemon::Agent).await;
        until_expected(&lab, &[("n2", device), ("n3", device)]).await;
        stream.sends(50).await.unwrap();
    }
    until_no_device(&lab).await;
    until(&lab, "new pods have room for what a tunnel took", async || gives_mtu(&lab, 0, 1500)).await;
    stream.sends(50).await.unwrap();
    nothing_was_lost(stream).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_make_ip_in_ip_is_not_ready_for_it_and_its_pods_go_on() {
    let lab = start(config(FabricKind::Flat, Routing::Direct, Encapsulation::None)).await;
    until_connected(&lab).await;
    let node = lab.node(0);
    // Where the kernel can, another's device is in the place.
    let thief = format!("ip tunnel add thief mode ipip local {} || true", node.addresses()[0]);
    node.output("sh", &["-c", &thief]).await.unwrap();
    edit(&lab, r#"{"encapsulation": "IPIP"}"#).await;
    for words in ["the IPPool of 10.244.0.0/16 asks for IP-in-IP", "modprobe ipip"] {
        until(&lab, &format!("n1 says: {words}"), async || {
            margayctl(&lab, 0, "node status").await.contains(words)
        })
        .await;
    }
    // Longer than others take to send through the tunnel: where these cannot either, the ways that there were are all there are.
    let is_alone = node.output("modprobe", &["ipip"]).await.is_err();
    if is_alone {
        let mut stream = lab.stream(&pod("a"), &pod("b"), Duration::from_millis(10)).unwrap();
        stream.sends(800).await.unwrap();
        nothing_was_lost(stream).await;
    }
    node.output("sh", &["-c", "ip link delete thief || true"]).await.unwrap();
    edit(&lab, r#"{"encapsulation": "None"}"#).await;
    until(&lab, "all is well", async || !margayctl(&lab, 0, "node status").await.contains("ipip")).await;
    until_connected(&lab).await;
    lab.stop().await;
}
