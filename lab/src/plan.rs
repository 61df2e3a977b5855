//! Who gets which address.

use crate::config::{FabricKind, IpFamilies, IpamMode, LabConfig};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use margay_netlink::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The autonomous system of the mesh on a flat fabric.
const MESH_ASN: u32 = 64_512;

/// The network of all pods, IPv4.
pub(crate) const PODS_IPV4: &str = "10.244.0.0/16";
/// The network of all pods, IPv6.
pub(crate) const PODS_IPV6: &str = "fd00:10:244::/64";

/// Of two subnets, that of the node with a number: 1 for odd ones.
const fn subnet_of(number: u8) -> u8 {
    2 - number % 2
}

/// What is decided about a node before it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    number: u8,
    pub(crate) name: String,
    /// Its addresses with their subnets, IPv4 first.
    pub(crate) networks: Vec<IpNetwork>,
    /// Those of its second interface, if it has one.
    pub(crate) second: Vec<IpNetwork>,
    /// The default routers of the first, in the same order.
    pub(crate) gateways: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub(crate) pod_cidrs: Vec<IpNetwork>,
    pub(crate) asn: u32,
}

impl NodePlan {
    /// The node with a number, from 1.
    pub(crate) fn new(number: u8, config: &LabConfig) -> Self {
        let mut plan = Self::with_one_uplink(number, config.fabric, config.ip_families);
        if config.second_uplink {
            plan.add_second_uplink();
        }
        if config.ipam == IpamMode::Pool {
            plan.pod_cidrs.clear();
        }
        plan
    }

    fn with_one_uplink(number: u8, fabric: FabricKind, families: IpFamilies) -> Self {
        let n = u16::from(number);
        let (v4, v4_gateway, v6, v6_gateway) = match fabric {
            FabricKind::Flat => (
                (Ipv4Addr::new(172, 18, 0, number + 1), 24),
                Ipv4Addr::new(172, 18, 0, 1),
                Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, n + 1),
                Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 1),
            ),
            FabricKind::Routed => (
                (Ipv4Addr::new(172, 18, number, 2), 30),
                Ipv4Addr::new(172, 18, number, 1),
                Ipv6Addr::new(0xfd00, 0x18, 0, n, 0, 0, 0, 2),
                Ipv6Addr::new(0xfd00, 0x18, 0, n, 0, 0, 0, 1),
            ),
            FabricKind::Subnets => {
                let subnet = subnet_of(number);
                let s = u16::from(subnet);
                (
                    (Ipv4Addr::new(172, 18, subnet, number + 1), 24),
                    Ipv4Addr::new(172, 18, subnet, 1),
                    Ipv6Addr::new(0xfd00, 0x18, 0, s, 0, 0, 0, n + 1),
                    Ipv6Addr::new(0xfd00, 0x18, 0, s, 0, 0, 0, 1),
                )
            }
        };
        let mut plan = Self {
            number,
            name: format!("n{number}"),
            networks: Vec::new(),
            second: Vec::new(),
            gateways: Vec::new(),
            pod_cidrs: Vec::new(),
            asn: match fabric {
                FabricKind::Flat | FabricKind::Subnets => MESH_ASN,
                FabricKind::Routed => MESH_ASN + u32::from(number),
            },
        };
        if families.has_ipv4() {
            plan.networks.extend(Ipv4Network::new(v4.0, v4.1).ok().map(IpNetwork::V4));
            plan.gateways.push(v4_gateway.into());
            let pods = Ipv4Addr::new(10, 244, number, 0);
            plan.pod_cidrs.extend(Ipv4Network::new(pods, 24).ok().map(IpNetwork::V4));
        }
        if families.has_ipv6() {
            plan.networks.extend(Ipv6Network::new(v6, 64).ok().map(IpNetwork::V6));
            plan.gateways.push(v6_gateway.into());
            let pods = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, n, 0, 0, 0);
            plan.pod_cidrs.extend(Ipv6Network::new(pods, 80).ok().map(IpNetwork::V6));
        }
        plan
    }

    /// Gives it a second interface, in a subnet that it shares with all nodes.
    fn add_second_uplink(&mut self) {
        let number = self.number;
        let of_family = |network: &IpNetwork| match network {
            IpNetwork::V4(_) => {
                Ipv4Network::new(Ipv4Addr::new(172, 19, 0, number + 1), 24).ok().map(IpNetwork::V4)
            }
            IpNetwork::V6(_) => {
                let address = Ipv6Addr::new(0xfd00, 0x19, 0, 0, 0, 0, 0, u16::from(number) + 1);
                Ipv6Network::new(address, 64).ok().map(IpNetwork::V6)
            }
        };
        self.second = self.networks.iter().filter_map(of_family).collect();
    }

    /// Its address in the first family.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.addresses().first().copied()
    }

    /// Its addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.networks.iter().map(IpNetwork::ip).collect()
    }

    /// The address of its network card at an interface: the same after each start, as that of a card is.
    pub(crate) fn mac(&self, interface: u8) -> MacAddr {
        MacAddr::new([0x02, b'l', b'a', b'b', interface, self.number])
    }

    /// The gateways with their subnets.
    pub(crate) fn gateway_networks(&self) -> Vec<IpNetwork> {
        let own = self.networks.iter().zip(&self.gateways);
        own.filter_map(|(network, gateway)| IpNetwork::new(*gateway, network.prefix()).ok()).collect()
    }

    /// Its pods' networks, and the node's address of the same family that leads there.
    pub(crate) fn pod_routes(&self) -> Vec<(IpNetwork, IpAddr)> {
        let via = |pods: &IpNetwork| {
            self.addresses().into_iter().find(|address| address.is_ipv4() == pods.is_ipv4())
        };
        self.pod_cidrs.iter().filter_map(|pods| Some((*pods, via(pods)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{NodePlan, PODS_IPV4, PODS_IPV6};
    use crate::config::{FabricKind, IpFamilies};
    use ipnetwork::IpNetwork;

    #[test]
    fn pods_of_all_nodes_are_in_one_network_of_each_family() {
        let all: Vec<IpNetwork> = [PODS_IPV4, PODS_IPV6].map(|text| text.parse().unwrap()).into();
        for number in [1, 250] {
            let plan = NodePlan::with_one_uplink(number, FabricKind::Flat, IpFamilies::Dual);
            assert_eq!(plan.pod_cidrs.len(), 2);
            for pods in &plan.pod_cidrs {
                assert!(all.iter().any(|network| network.contains(pods.ip())), "{pods}");
            }
            assert_eq!(plan.pod_routes().len(), 2);
        }
    }

    #[test]
    fn a_node_has_the_families_that_it_is_given_and_no_other() {
        let plan = NodePlan::with_one_uplink(1, FabricKind::Subnets, IpFamilies::Ipv6);
        let all = plan.networks.iter().chain(&plan.pod_cidrs).map(IpNetwork::ip).chain(plan.gateways);
        assert!(all.into_iter().all(|address| address.is_ipv6()));
    }

    #[test]
    fn every_other_node_is_in_the_same_of_two_subnets() {
        let gateways = [1, 2, 3]
            .map(|number| NodePlan::with_one_uplink(number, FabricKind::Subnets, IpFamilies::Dual).gateways);
        assert_eq!(gateways[0], gateways[2]);
        assert!(gateways[0].iter().zip(&gateways[1]).all(|(one, other)| one != other));
    }

    #[test]
    fn a_routed_node_shares_its_subnet_with_its_router_alone() {
        let plan = NodePlan::with_one_uplink(2, FabricKind::Routed, IpFamilies::Ipv4);
        assert_eq!(plan.networks[0].to_string(), "172.18.2.2/30");
        assert_eq!(plan.gateway_networks()[0].to_string(), "172.18.2.1/30");
        assert_eq!(plan.asn, 64_514);
    }
}
