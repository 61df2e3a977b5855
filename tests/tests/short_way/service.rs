//! Services and host ports in front of pods, as kube-proxy makes them, and what leaves the cluster from its node's address.

use std::{net::IpAddr, time::Duration};

use margay_lab::{ExternalConfig, Lab, LabConfig, Party, PodKey, Port, Protocol, Reach};
use tokio::time::Instant;

use crate::cluster::{PATIENCE, TCP, UDP, apply, is_open, only, party, run, start, start_with, took, until};

/// Translates the address of a service to that of a pod on each node, for both protocols of each family.
async fn serve(lab: &Lab, pod: &str) {
    let mut rules = Vec::new();
    for address in lab.pod_addresses(&PodKey::new("default", pod)) {
        let (family, service, target) = match address {
            IpAddr::V4(address) => ("ip", "192.0.2.10", address.to_string()),
            IpAddr::V6(address) => ("ip6", "2001:db8::10", format!("[{address}]")),
        };
        for (protocol, port) in [("tcp", 8080), ("udp", 8081)] {
            rules.push(format!(
                "add rule inet services prerouting {family} daddr {service} {protocol} dport {port} \
                 dnat {family} to {target}:{port}"
            ));
        }
    }
    let table = format!(
        "add table inet services\ndelete table inet services\nadd table inet services\n\
         add chain inet services prerouting {{ type nat hook prerouting priority dstnat; }}\n{}",
        rules.join("\n")
    );
    for node in lab.nodes() {
        node.output("nft", &[&table]).await.unwrap();
    }
}

async fn is_served(lab: &Lab, from: &str) -> bool {
    for service in ["192.0.2.10", "2001:db8::10"] {
        for port in [TCP, UDP] {
            let reach = lab.reach_address(&party(from), service.parse().unwrap(), port).await.unwrap();
            if !reach.is_open() {
                return false;
            }
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_translated_goes_through_the_stack_and_is_judged_after_translation() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("far", "n2")]).await;
    for (to, policy) in [("near", only("client", "near")), ("far", only("client", "far"))] {
        serve(&lab, to).await;
        // From the same ports again and again: also while the same pods speak with each other directly.
        for _ in 0..5 {
            assert!(is_served(&lab, "client").await, "the service with {to}{}", lab.log_tail(30));
            assert!(is_open(&lab, "client", to, UDP).await && is_open(&lab, "client", to, TCP).await);
        }
        assert!(is_served(&lab, "other").await);
        apply(&lab, &policy).await;
        until(&lab, "the service is closed to others", async || !is_served(&lab, "other").await).await;
        assert!(is_served(&lab, "client").await && !is_open(&lab, "other", to, TCP).await);
    }
    assert!(took(&lab, 0, "stack_flow").await > 0, "replies of the service went through the stack");
    lab.stop().await;
}

/// Has the first node do what kube-proxy has IPVS do: what comes in for a service leaves by the node's own output, to a pod and with the
/// source that it had, and answers are translated where they are forwarded. A kernel without IPVS has rules of nftables do the same.
#[expect(clippy::print_stdout, reason = "which of the two it was is not seen otherwise")]
async fn serve_like_ipvs(lab: &Lab, pod: &str) {
    let node = lab.node(0);
    let cleared = node.output("ipvsadm", &["--clear"]).await;
    let has_ipvs = cleared.is_ok();
    if let Err(error) = cleared {
        assert!(format!("{error:#}").contains("Can't initialize ipvs"), "{error:#}");
    }
    println!("{pod}: {}", if has_ipvs { "by IPVS" } else { "this kernel has no IPVS: by rules of nftables" });
    if has_ipvs {
        // As kube-proxy has it.
        node.output("sysctl", &["-w", "net.ipv4.vs.conntrack=1"]).await.unwrap();
    }
    for address in lab.pod_addresses(&PodKey::new("default", pod)) {
        let (service, of, number, nodad) = if address.is_ipv4() {
            ("192.0.2.10", "ip", 4, None)
        } else {
            ("2001:db8::10", "ip6", 6, Some("nodad"))
        };
        let own: Vec<&str> = ["addr", "replace", service, "dev", "lo"].into_iter().chain(nodad).collect();
        node.output("ip", &own).await.unwrap();
        if !has_ipvs {
            let table = format!(
                "add table {of} ipvs\ndelete table {of} ipvs\ntable {of} ipvs {{
                    set served {{ type ipv{number}_addr . inet_proto . inet_service; flags dynamic; size 1024; timeout 10m; }}
                    chain input {{
                        type filter hook input priority 98
                        {of} daddr {service} meta l4proto {{ tcp, udp }} th dport {{ {}, {} }} \
                            update @served {{ {of} saddr . meta l4proto . th sport }} {of} daddr set {address} dup to {address} drop
                    }}
                    chain forward {{
                        type filter hook forward priority 99
                        {of} saddr {address} {of} daddr . meta l4proto . th dport @served {of} saddr set {service}
                    }}
                }}",
                TCP.number, UDP.number
            );
            node.output("nft", &[&table]).await.unwrap();
            continue;
        }
        for (protocol, port) in [("--tcp-service", TCP), ("--udp-service", UDP)] {
            let at = |address: IpAddr| std::net::SocketAddr::new(address, port.number).to_string();
            let (service, pod) = (at(service.parse().unwrap()), at(address));
            let add = ["--add-service", protocol, &service, "--scheduler", "rr"];
            node.output("ipvsadm", &add).await.unwrap();
            let add = ["--add-server", protocol, &service, "--real-server", &pod, "--masquerading"];
            node.output("ipvsadm", &add).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ipvs_sends_to_a_pod_is_answered_through_the_stack_and_other_flows_of_the_same_pods_take_the_short_way()
 {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1"), ("far", "n2")]).await;
    for to in ["near", "far"] {
        serve_like_ipvs(&lab, to).await;
        let mut kept = Vec::new();
        for port in [TCP, UDP] {
            kept.push(lab.keep(&party("client"), &party(to), port).await.unwrap().unwrap());
        }
        for _ in 0..3 {
            let (before, stacked) = (settled_at(&lab, 0).await, took(&lab, 0, "stack_flow").await);
            assert!(is_served(&lab, "client").await, "the service with {to}{}", lab.log_tail(30));
            assert_eq!(
                short_at(&lab, 0).await,
                before,
                "{to}: no packet of it goes round what translates it"
            );
            // One answer, at least, of either protocol of each family.
            assert!(took(&lab, 0, "stack_flow").await >= stacked + 4, "{to}: answers meet the translation");
            for kept in &mut kept {
                let before = short_at(&lab, 0).await;
                assert!(kept.is_alive(PATIENCE).await, "a flow with {to}'s own address{}", lab.log_tail(30));
                assert!(short_at(&lab, 0).await > before, "{to}: it takes the short way");
            }
            for port in [TCP, UDP] {
                let before = short_at(&lab, 0).await;
                assert!(is_open(&lab, "client", to, port).await, "{to} {port:?}");
                assert!(short_at(&lab, 0).await > before, "{to} {port:?} takes the short way");
            }
        }
    }
    lab.stop().await;
}

/// Ports of the first node that lead to a pod's, for TCP and UDP: with the source that packets have.
const HOST_PORTS: [Port; 2] = [Port::tcp(30_080), Port { protocol: Protocol::Udp, number: 30_081 }];
/// Likewise, with the node's address as their source.
const MASQUERADED: [Port; 2] = [Port::tcp(30_180), Port { protocol: Protocol::Udp, number: 30_181 }];
/// A host outside of the cluster.
const OUTSIDE: [&str; 2] = ["203.0.113.10", "2001:db8:113::10"];

/// Has ports of the first node lead to a pod.
async fn expose(lab: &Lab, pod: &str) {
    let mut rules = Vec::new();
    let pod = lab.pod_addresses(&PodKey::new("default", pod));
    for node in lab.node(0).addresses() {
        let family = if node.is_ipv4() { "ip" } else { "ip6" };
        let target = *pod.iter().find(|address| address.is_ipv4() == node.is_ipv4()).unwrap();
        for (ports, mark) in [(HOST_PORTS, ""), (MASQUERADED, "meta mark set meta mark or 0x4000 ")] {
            for (from, to) in ports.iter().zip([TCP, UDP]) {
                let target = std::net::SocketAddr::new(target, to.number);
                let (protocol, number) = (format!("{:?}", from.protocol).to_lowercase(), from.number);
                rules.push(format!(
                    "add rule inet hostports prerouting {family} daddr {node} {protocol} dport {number} \
                     {mark}dnat {family} to {target}"
                ));
            }
        }
    }
    let table = format!(
        "add table inet hostports\n\
         add chain inet hostports prerouting {{ type nat hook prerouting priority dstnat; }}\n\
         add chain inet hostports postrouting {{ type nat hook postrouting priority srcnat; }}\n\
         add rule inet hostports postrouting meta mark and 0x4000 != 0 masquerade\n{}",
        rules.join("\n")
    );
    lab.node(0).output("nft", &[&table]).await.unwrap();
}

/// The address of one family that somebody is seen from at an address; `None` when no answer comes.
async fn seen(lab: &Lab, from: &Party, to: IpAddr, port: Port) -> Option<IpAddr> {
    match lab.reach_address(from, to, port).await.unwrap() {
        Reach::Open { client } => Some(client),
        Reach::Closed { .. } => None,
    }
}

/// How many packets took the short way on both nodes.
async fn short(lab: &Lab) -> u64 {
    short_at(lab, 0).await + short_at(lab, 1).await
}

/// Likewise on one of them.
async fn short_at(lab: &Lab, node: usize) -> u64 {
    let mut sum = 0;
    for way in ["to_pod", "to_node", "to_tunnel"] {
        sum += took(lab, node, way).await;
    }
    sum
}

/// Likewise, once nothing has come for longer than the receiver of a segment waits before it confirms it (`TCP_DELACK_MAX`, 200 ms).
async fn settled_at(lab: &Lab, node: usize) -> u64 {
    let (mut last, mut since) = (short_at(lab, node).await, Instant::now());
    until(lab, "flows that were used are silent", async || {
        let now = short_at(lab, node).await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    })
    .await;
    last
}

/// Asserts that what is translated has the source that it should, both ways work, and none of it takes the short way.
async fn is_translated(lab: &Lab) {
    let before = short(lab).await;
    for node in lab.node(0).addresses() {
        let own = |addresses: Vec<IpAddr>| {
            addresses.into_iter().find(|address| address.is_ipv4() == node.is_ipv4()).unwrap()
        };
        let pod = |name: &str| own(lab.pod_addresses(&PodKey::new("default", name)));
        let outside = own(OUTSIDE.map(|text| text.parse().unwrap()).into());
        let second = own(lab.node(1).addresses());
        for (from, address) in [
            (party("client"), pod("client")),
            (party("far"), pod("far")),
            (Party::Node("n2".into()), second),
            (Party::External("outside".into()), outside),
        ] {
            for port in HOST_PORTS {
                assert_eq!(seen(lab, &from, node, port).await, Some(address), "{from:?} {port:?}");
            }
            for port in MASQUERADED {
                assert_eq!(seen(lab, &from, node, port).await, Some(node), "{from:?} {port:?}");
            }
        }
        for (from, address) in [("client", node), ("near", node), ("far", second)] {
            for port in [TCP, UDP] {
                assert_eq!(seen(lab, &party(from), outside, port).await, Some(address), "{from} {port:?}");
            }
        }
    }
    assert_eq!(short(lab).await, before, "packets that took the short way{}", lab.log_tail(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_and_masquerade_are_the_stacks_and_other_flows_of_the_same_pods_take_the_short_way_meanwhile()
 {
    let (mut lab, _programs) = start_with(LabConfig { nat_outgoing: true, ..LabConfig::default() }).await;
    let addresses = OUTSIDE.map(|text| text.parse().unwrap()).into();
    let outside = ExternalConfig { name: "outside".into(), addresses, ports: vec![TCP, UDP] };
    lab.attach_external(&outside).await.unwrap();
    run(&lab, &[("client", "n1"), ("near", "n1"), ("far", "n2")]).await;
    expose(&lab, "near").await;

    let mut kept = Vec::new();
    for from in ["client", "far"] {
        for port in [TCP, UDP] {
            kept.push(lab.keep(&party(from), &party("near"), port).await.unwrap().unwrap());
        }
    }
    for _ in 0..3 {
        is_translated(&lab).await;
        for kept in &mut kept {
            let before = took(&lab, 0, "to_pod").await;
            assert!(kept.is_alive(PATIENCE).await, "a flow with the pod's own address{}", lab.log_tail(30));
            assert!(took(&lab, 0, "to_pod").await > before, "it takes the short way");
        }
        for from in ["client", "far"] {
            for port in [TCP, UDP] {
                let before = took(&lab, 0, "to_pod").await;
                assert!(is_open(&lab, from, "near", port).await, "{from} {port:?}");
                assert!(took(&lab, 0, "to_pod").await > before, "{from} {port:?} takes the short way");
            }
        }
    }
    assert!(took(&lab, 0, "stack_flow").await > 0, "answers of the host port went through the stack");

    // Policy is about who sends, through the node's port as well.
    apply(&lab, &only("client", "near")).await;
    until(&lab, "near is closed to far", async || !is_open(&lab, "far", "near", TCP).await).await;
    for node in lab.node(0).addresses() {
        for port in HOST_PORTS {
            assert_eq!(seen(&lab, &party("far"), node, port).await, None, "{port:?}");
            assert!(seen(&lab, &party("client"), node, port).await.is_some(), "{port:?}");
        }
    }
    lab.stop().await;
}
