//! A cluster's life in each mode, on one subnet and on two with a router between them that knows no address of a pod.

use margay_api::resource::Encapsulation;
use margay_lab::{FabricKind, IpFamilies, LabConfig, Routing};

use crate::life::live;

fn dual(fabric: FabricKind, routing: Routing, encapsulation: Encapsulation) -> LabConfig {
    LabConfig { fabric, routing, encapsulation, ip_families: IpFamilies::Dual, ..LabConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_bgp() {
    live(dual(FabricKind::Flat, Routing::Bgp, Encapsulation::None), 1500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_direct() {
    live(dual(FabricKind::Flat, Routing::Direct, Encapsulation::None), 1500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_vxlan() {
    live(dual(FabricKind::Flat, Routing::Direct, Encapsulation::Vxlan), 1450).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subnet_vxlan_between_subnets() {
    live(dual(FabricKind::Flat, Routing::Direct, Encapsulation::VxlanCrossSubnet), 1450).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_of_their_own_bgp() {
    live(dual(FabricKind::Routed, Routing::Bgp, Encapsulation::None), 1500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_vxlan() {
    live(dual(FabricKind::Subnets, Routing::Direct, Encapsulation::Vxlan), 1450).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_vxlan_between_subnets() {
    live(dual(FabricKind::Subnets, Routing::Direct, Encapsulation::VxlanCrossSubnet), 1450).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subnets_vxlan_between_subnets_and_bgp_within() {
    live(dual(FabricKind::Subnets, Routing::Bgp, Encapsulation::VxlanCrossSubnet), 1450).await;
}
