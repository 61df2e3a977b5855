//! Services in front of pods, as kube-proxy makes them.

use margay_lab::{Lab, PodKey};

use crate::cluster::{TCP, UDP, apply, is_open, only, party, run, start, took, until};

/// Translates the address of a service to that of a pod on each node, for both protocols of each family.
async fn serve(lab: &Lab, pod: &str) {
    let mut rules = Vec::new();
    for address in lab.pod_addresses(&PodKey::new("default", pod)) {
        let (family, service, target) = match address {
            std::net::IpAddr::V4(address) => ("ip", "192.0.2.10", address.to_string()),
            std::net::IpAddr::V6(address) => ("ip6", "2001:db8::10", format!("[{address}]")),
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
