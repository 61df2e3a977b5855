//! Everything through IP-in-IP, without BGP, behind routers that know no address of a pod.

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, Dataplane, FabricKind, LabConfig, Routing};

use crate::{
    assert_kernel_can,
    cluster::{
        PORT, carries_at_most, inside, pod, policy_knows_pods, start, until, until_connected, until_ways,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_and_policies_see_the_pods_behind_a_tunnel() {
    assert_kernel_can();
    let lab = start(LabConfig {
        nodes: 3,
        fabric: FabricKind::Subnets,
        routing: Routing::Direct,
        encapsulation: Encapsulation::Ipip,
        // `short_way` has the other.
        dataplane: Dataplane::Nftables,
        ..LabConfig::default()
    })
    .await;
    // Of one subnet or not: all through the tunnel.
    let of_n1 = ["10.244.2.0/24 margay.ipip", "10.244.3.0/24 margay.ipip"];
    until_ways(&lab, 0, &of_n1).await;
    until_connected(&lab).await;
    assert!(inside(&lab, "a", "ip link show eth0").await.contains("mtu 1480"));
    carries_at_most(&lab, "a", "b", 1480).await;

    policy_knows_pods(&lab, "c").await;
    let reaches = async |from: &str| lab.reach(&pod(from), &pod("b"), PORT).await.unwrap().is_open();

    // The kernel forwards without the agent; what others take away while it runs, it puts back.
    lab.node(0).stop_daemon(Daemon::Agent).await;
    assert!(reaches("a").await);
    lab.node(0).start_daemon(Daemon::Agent).await;
    for damage in ["link delete margay.ipip", "route flush proto 78"] {
        until_ways(&lab, 0, &of_n1).await;
        lab.node(0).output("ip", &damage.split(' ').collect::<Vec<_>>()).await.unwrap();
        until(&lab, damage, async || reaches("a").await).await;
    }
    lab.stop().await;
}
