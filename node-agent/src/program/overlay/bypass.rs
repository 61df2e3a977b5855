//! What the programs of the eBPF dataplane may do in the place of a tunnel's device: put packets into the tunnel themselves.
//!
//! The map says what the device would do ([`margay_ebpf_common::tunnel`]). So of an attempt it comes first and last: what is not to stay as it
//! is goes before anything is changed in the kernel, and what is wanted comes when all of it was. What is in between goes through the device.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use margay_ebpf_common::tunnel::{IPIP, Tunnel, TunnelKey, VXLAN};
use margay_netlink::{
    Error, Socket,
    link::{IfIndex, Link},
    qdisc::{self, Qdisc},
    xfrm,
};

use crate::{
    decide::{Carrier, Hop, Ways},
    program::ebpf::TunnelMap,
    ways::has_tx_checksum_offload,
};

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bypass {
    /// Why packets go through a device, where they could go round it.
    pub(super) hindrance: Option<String>,
    /// Entries that are wanted.
    pub(super) wanted: usize,
    /// That not all of them found room, in words.
    pub(super) problem: Option<String>,
}

/// The devices that the programs know to go round.
pub(super) const ROUND: [Carrier; 2] = [Carrier::Vxlan4, Carrier::Ipip];

/// What is to be in the map of a tunnel once its device, of this index, is as wanted. Pure.
pub(super) fn entries(wanted: &Ways, carrier: Carrier, index: IfIndex) -> BTreeMap<TunnelKey, Tunnel> {
    let Some(tunnel) = wanted.tunnels.get(&carrier) else { return BTreeMap::new() };
    let IpAddr::V4(local) = tunnel.local else { return BTreeMap::new() };
    let key =
        |gateway: IpAddr| TunnelKey { ifindex: index.number(), padding: [0; 4], next_hop: gateway.into() };
    let Some(frames) = &tunnel.frames else {
        // The gateway is the other node itself.
        let entry = |hop: &Hop| match hop {
            Hop::Tunnel { carrier: by, gateway: IpAddr::V4(remote), .. } if *by == carrier => {
                let (local, remote) = (local.octets(), remote.octets());
                Some((key(remote.into()), Tunnel { local, remote, kind: IPIP, ..Tunnel::default() }))
            }
            Hop::Tunnel { .. } | Hop::Direct { .. } | Hop::Nowhere => None,
        };
        return wanted.routes.values().filter_map(entry).collect();
    };
    let [high, middle, low] = {
        let [_, octets @ ..] = frames.vni.number().to_be_bytes();
        octets
    };
    let entry = |(gateway, mac): (&IpAddr, &margay_netlink::MacAddr)| {
        let IpAddr::V4(remote) = *frames.forwarding.get(mac)? else { return None };
        let tunnel = Tunnel {
            local: local.octets(),
            remote: remote.octets(),
            vni: [high, middle, low, 0],
            destination_mac: mac.octets(),
            source_mac: frames.mac.octets(),
            port: frames.port.to_be_bytes(),
            kind: VXLAN,
            padding: [0; 5],
        };
        Some((key(*gateway), tunnel))
    };
    frames.neighbours.iter().filter_map(entry).collect()
}

/// Takes out of the map what is not to stay; `stays` are the devices that are as wanted already.
///
/// # Errors
/// When the map cannot be read or written: then nothing else may be changed.
pub(super) fn before(
    map: &mut TunnelMap,
    socket: &mut Socket,
    wanted: &Ways,
    stays: &BTreeMap<Carrier, &Link>,
) -> anyhow::Result<()> {
    let (entries, _) = unhindered(socket, wanted, stays);
    map.retain(&entries)
}

/// Puts into the map what is wanted; these devices are there, and the kernel has refused nothing.
///
/// # Errors
/// As [`before`].
pub(super) fn after(
    map: &mut TunnelMap,
    socket: &mut Socket,
    wanted: &Ways,
    there: &BTreeMap<Carrier, &Link>,
) -> anyhow::Result<Bypass> {
    let (entries, hindrances) = unhindered(socket, wanted, there);
    if !hindrances.is_empty() {
        map.retain(&entries)?;
    }
    let left = map.add(&entries)?;
    let problem = (left > 0).then(|| {
        format!(
            "the map TUNNELS has room for {} entries, and {} are needed: make it larger (ebpf.tunnels); packets to the rest go \
             through the device of the tunnel, which takes longer",
            map.capacity(),
            entries.len()
        )
    });
    let hindrances: Vec<String> = hindrances.into_iter().collect();
    let hindrance = (!hindrances.is_empty()).then(|| hindrances.join("; "));
    Ok(Bypass { hindrance, wanted: entries.len(), problem })
}

/// The entries of the devices that do no more than the programs; and what the others do.
fn unhindered(
    socket: &mut Socket,
    wanted: &Ways,
    links: &BTreeMap<Carrier, &Link>,
) -> (BTreeMap<TunnelKey, Tunnel>, BTreeSet<String>) {
    let (mut all, mut hindrances) = (BTreeMap::new(), BTreeSet::new());
    if links.is_empty() {
        return (all, hindrances);
    }
    // What all devices have in common is asked once.
    if let Some(encryption) = encryption() {
        hindrances.insert(encryption);
        return (all, hindrances);
    }
    let qdiscs = qdisc::list(socket);
    for (carrier, link) in links {
        match hindrance(link, &qdiscs) {
            None => all.extend(entries(wanted, *carrier, link.index)),
            Some(hindrance) => drop(hindrances.insert(hindrance)),
        }
    }
    (all, hindrances)
}

/// Whether this node encrypts what it sends, or may; in words.
pub(super) fn encryption() -> Option<String> {
    match xfrm::is_in_force() {
        Ok(false) => None,
        Ok(true) => Some("the node has policies of xfrm (IPsec, `ip xfrm policy`) for what it sends".into()),
        Err(error) => Some(format!("whether the node has policies of xfrm (IPsec) is not known: {error}")),
    }
}

/// Why packets have to go through a device: it does more to them, or shows them to somebody.
fn hindrance(link: &Link, qdiscs: &Result<Vec<Qdisc>, Error>) -> Option<String> {
    let computes = link.name.parse().ok().and_then(|name| has_tx_checksum_offload(&name).ok()) != Some(true);
    if computes {
        return Some(format!(
            "checksums of packets in {} are computed by the kernel (ethtool -k)",
            link.name
        ));
    }
    // `clsact` is where the programs are before Linux 6.6.
    let holds = |qdisc: &&Qdisc| {
        qdisc.link == link.index && !qdisc.ingress && !["noqueue", "clsact"].contains(&qdisc.kind.as_str())
    };
    match qdiscs {
        Ok(all) => all
            .iter()
            .find(holds)
            .map(|found| format!("{} has the queueing discipline {} (tc qdisc)", link.name, found.kind)),
        Err(error) => Some(format!("the queueing disciplines of {} are not known: {error}", link.name)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use margay_ebpf_common::tunnel::{IPIP, Tunnel, TunnelKey, VXLAN};
    use margay_netlink::{
        MacAddr,
        link::{IfIndex, Mtu, Vni},
    };

    use super::entries;
    use crate::decide::{Carrier, Frames, Hop, Tunnel as Wanted, Ways};

    /// A tunnel to one node, from and to these addresses.
    fn ways(carrier: Carrier, local: &str, remote: &str) -> Ways {
        let mac = MacAddr::new([2, 0, 0, 0, 0, 9]);
        let frames = Frames {
            mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
            vni: Vni::new(0x12_3456).unwrap(),
            port: 4789,
            forwarding: [(mac, remote.parse().unwrap())].into(),
            neighbours: [("10.244.2.0".parse().unwrap(), mac), ("fe80::9".parse().unwrap(), mac)].into(),
        };
        let tunnel = Wanted {
            local: local.parse().unwrap(),
            mtu: Mtu::new(1450).unwrap(),
            addresses: [].into(),
            frames: Some(frames),
        };
        Ways { tunnels: [(carrier, tunnel)].into(), ..Ways::default() }
    }

    #[test]
    fn a_gateway_of_either_family_has_what_the_device_would_write() {
        let index = IfIndex::new(7).unwrap();
        let found = entries(&ways(Carrier::Vxlan4, "192.0.2.1", "192.0.2.2"), Carrier::Vxlan4, index);
        let tunnel = Tunnel {
            local: [192, 0, 2, 1],
            remote: [192, 0, 2, 2],
            vni: [0x12, 0x34, 0x56, 0],
            destination_mac: [2, 0, 0, 0, 0, 9],
            source_mac: [2, 0, 0, 0, 0, 1],
            port: [0x12, 0xb5],
            kind: VXLAN,
            padding: [0; 5],
        };
        let key = |gateway: &str| TunnelKey {
            ifindex: 7,
            padding: [0; 4],
            next_hop: gateway.parse::<std::net::IpAddr>().unwrap().into(),
        };
        assert_eq!(found, BTreeMap::from([(key("10.244.2.0"), tunnel), (key("fe80::9"), tunnel)]));
    }

    #[test]
    fn a_tunnel_over_ipv6_has_a_checksum_that_is_the_devices() {
        let carrier = Carrier::Vxlan6;
        let index = IfIndex::new(7).unwrap();
        let found = entries(&ways(carrier, "2001:db8::1", "2001:db8::2"), carrier, index);
        assert_eq!(found, BTreeMap::new());
    }

    #[test]
    fn of_ip_in_ip_a_gateway_is_the_other_node_and_other_ways_are_none_of_it() {
        let tunnel = Wanted {
            local: "192.0.2.1".parse().unwrap(),
            mtu: Mtu::new(1480).unwrap(),
            addresses: [].into(),
            frames: None,
        };
        let by =
            |carrier, gateway: &str| Hop::Tunnel { carrier, gateway: gateway.parse().unwrap(), source: None };
        let routes = [
            ("10.244.2.0/24", by(Carrier::Ipip, "192.0.2.2")),
            ("10.244.3.0/24", by(Carrier::Ipip, "192.0.2.2")),
            ("10.244.4.0/24", by(Carrier::Ipip, "198.51.100.4")),
            ("10.244.5.0/24", by(Carrier::Vxlan4, "10.244.5.0")),
            ("10.244.1.0/24", Hop::Nowhere),
        ];
        let routes = routes.map(|(block, hop)| (block.parse().unwrap(), hop)).into();
        let wanted = Ways { tunnels: [(Carrier::Ipip, tunnel)].into(), routes, ..Ways::default() };
        let entry = |remote: [u8; 4]| {
            let key =
                TunnelKey { ifindex: 7, padding: [0; 4], next_hop: std::net::IpAddr::from(remote).into() };
            (key, Tunnel { local: [192, 0, 2, 1], remote, kind: IPIP, ..Tunnel::default() })
        };
        let found = entries(&wanted, Carrier::Ipip, IfIndex::new(7).unwrap());
        assert_eq!(found, BTreeMap::from([entry([192, 0, 2, 2]), entry([198, 51, 100, 4])]));
    }
}
