//! A cluster's life with IP-in-IP, on one subnet and on two with a router between them that knows no address of a pod.

use margay_api::resource::Encapsulation;
use margay_lab::{Dataplane, FabricKind, LabConfig, Routing};

use crate::{assert_kernel_can, life::live};

fn config(fabric: FabricKind, encapsulation: Encapsulation, dataplane: Dataplane) -> LabConfig {
    assert_kernel_can();
    LabConfig { fabric, routing: Routing::Direct, encapsulation, dataplane, ..LabConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_ipip() {
    live(config(FabricKind::Flat, Encapsulation::Ipip, Dataplane::Nftables), 1480).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_ipip_with_ebpf() {
    live(config(FabricKind::Flat, Encapsulation::Ipip, Dataplane::Ebpf), 1480).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_ipip() {
    live(config(FabricKind::Subnets, Encapsulation::Ipip, Dataplane::Nftables), 1480).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_ipip_between_subnets() {
    live(config(FabricKind::Subnets, Encapsulation::IpipCrossSubnet, Dataplane::Nftables), 1480).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_ipip_between_subnets_with_ebpf() {
    live(config(FabricKind::Subnets, Encapsulation::IpipCrossSubnet, Dataplane::Ebpf), 1480).await;
}
