//! A cluster's life with IP-in-IP, on one subnet and on two with a router between them that knows no address of a pod.

use margay_api::resource::Encapsulation;
use margay_lab::{Dataplane, FabricKind, LabConfig, Routing};

use crate::{assert_kernel_can, life::live};

fn config(fabric: FabricKind, encapsulation: Encapsulation) -> LabConfig {
    assert_kernel_can();
    LabConfig {
        fabric,
        routing: Routing::Direct,
        encapsulation,
        dataplane: Dataplane::Nftables,
        ..LabConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_ipip() {
    live(config(FabricKind::Flat, Encapsulation::Ipip), 1480).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_ipip() {
    live(config(FabricKind::Subnets, Encapsulation::Ipip), 1480).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_ipip_between_subnets() {
    live(config(FabricKind::Subnets, Encapsulation::IpipCrossSubnet), 1480).await;
}
