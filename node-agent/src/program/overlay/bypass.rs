//! What the programs of the eBPF dataplane may do in the place of a tunnel's device: put packets into the tunnel themselves.
//!
//! The map says what the device would do ([`margay_ebpf_common::tunnel`]). So of an attempt it comes first and last: what is not to stay as it
//! is goes before anything is changed in the kernel, and what is wanted comes when all of it was. What is in between goes through the device.

use std::{collections::BTreeMap, net::IpAddr};

use margay_ebpf_common::tunnel::{Tunnel, TunnelKey};
use margay_netlink::{
    Socket,
    link::{IfIndex, Link},
    qdisc, xfrm,
};

use crate::{
    decide::{Carrier, Ways},
    program::ebpf::TunnelMap,
    ways::has_tx_checksum_offload,
};

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bypass {
    /// Why packets go through the device, where they could go round it.
    pub(super) hindrance: Option<String>,
    /// Entries that are wanted.
    pub(super) wanted: usize,
    /// That not all of them found room, in words.
    pub(super) problem: Option<String>,
}

/// What is to be in the map once the device of this index is as wanted. Pure.
pub(super) fn entries(wanted: &Ways, index: IfIndex) -> BTreeMap<TunnelKey, Tunnel> {
    let Some(tunnel) = wanted.tunnels.get(&Carrier::Vxlan4) else { return BTreeMap::new() };
    let (Some(frames), IpAddr::V4(local)) = (&tunnel.frames, tunnel.local) else { return BTreeMap::new() };
    let [high, middle, low] = {
        let [_, octets @ ..] = frames.vni.number().to_be_bytes();
        octets
    };
    let entry = |(gateway, mac): (&IpAddr, &margay_netlink::MacAddr)| {
        let IpAddr::V4(remote) = *frames.forwarding.get(mac)? else { return None };
        let key = TunnelKey { ifindex: index.number(), padding: [0; 4], next_hop: (*gateway).into() };
        let tunnel = Tunnel {
            local: local.octets(),
            remote: remote.octets(),
            vni: [high, middle, low, 0],
            destination_mac: mac.octets(),
            source_mac: frames.mac.octets(),
            port: frames.port.to_be_bytes(),
            padding: [0; 6],
        };
        Some((key, tunnel))
    };
    frames.neighbours.iter().filter_map(entry).collect()
}

/// Takes out of the map what is not to stay; `stays` is the device, if it is as wanted already.
///
/// # Errors
/// When the map cannot be read or written: then nothing else may be changed.
pub(super) fn before(
    map: &mut TunnelMap,
    socket: &mut Socket,
    wanted: &Ways,
    stays: Option<&Link>,
) -> anyhow::Result<()> {
    let entries = match stays {
        Some(link) if hindrance(socket, link).is_none() => entries(wanted, link.index),
        _ => BTreeMap::new(),
    };
    map.retain(&entries)
}

/// Puts into the map what is wanted; the device is there, and the kernel has refused nothing.
///
/// # Errors
/// As [`before`].
pub(super) fn after(
    map: &mut TunnelMap,
    socket: &mut Socket,
    wanted: &Ways,
    link: &Link,
) -> anyhow::Result<Bypass> {
    if let Some(hindrance) = hindrance(socket, link) {
        map.retain(&BTreeMap::new())?;
        return Ok(Bypass { hindrance: Some(hindrance), ..Bypass::default() });
    }
    let entries = entries(wanted, link.index);
    let left = map.add(&entries)?;
    let problem = (left > 0).then(|| {
        format!(
            "the map TUNNELS has room for {} entries, and {} are needed: make it larger (ebpf.tunnels); packets to the rest go \
             through the device of the tunnel, which takes longer",
            map.capacity(),
            entries.len()
        )
    });
    Ok(Bypass { hindrance: None, wanted: entries.len(), problem })
}

/// Whether this node encrypts what it sends, or may; in words.
pub(super) fn encryption() -> Option<String> {
    match xfrm::is_in_force() {
        Ok(false) => None,
        Ok(true) => Some("the node has policies of xfrm (IPsec, `ip xfrm policy`) for what it sends".into()),
        Err(error) => Some(format!("whether the node has policies of xfrm (IPsec) is not known: {error}")),
    }
}

/// Why packets have to go through the device: it does more to them, or shows them to somebody.
fn hindrance(socket: &mut Socket, link: &Link) -> Option<String> {
    if let Some(encryption) = encryption() {
        return Some(encryption);
    }
    let computes = link.name.parse().ok().and_then(|name| has_tx_checksum_offload(&name).ok()) != Some(true);
    if computes {
        return Some(format!(
            "checksums of packets in {} are computed by the kernel (ethtool -k)",
            link.name
        ));
    }
    // `clsact` is where the programs are before Linux 6.6.
    let holds = |qdisc: &&qdisc::Qdisc| {
        qdisc.link == link.index && !qdisc.ingress && !["noqueue", "clsact"].contains(&qdisc.kind.as_str())
    };
    match qdisc::list(socket) {
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

    use margay_ebpf_common::tunnel::{Tunnel, TunnelKey};
    use margay_netlink::{
        MacAddr,
        link::{IfIndex, Mtu, Vni},
    };

    use super::entries;
    use crate::decide::{Carrier, Frames, Tunnel as Wanted, Ways};

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
        let found = entries(&ways(Carrier::Vxlan4, "192.0.2.1", "192.0.2.2"), index);
        let tunnel = Tunnel {
            local: [192, 0, 2, 1],
            remote: [192, 0, 2, 2],
            vni: [0x12, 0x34, 0x56, 0],
            destination_mac: [2, 0, 0, 0, 0, 9],
            source_mac: [2, 0, 0, 0, 0, 1],
            port: [0x12, 0xb5],
            padding: [0; 6],
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
        let found = entries(&ways(Carrier::Vxlan6, "2001:db8::1", "2001:db8::2"), IfIndex::new(7).unwrap());
        assert_eq!(found, BTreeMap::new());
    }
}
