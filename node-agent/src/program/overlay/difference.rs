//! By how much the kernel differs from the wanted ways. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use margay_netlink::{
    MacAddr, Request, addr,
    addr::Address,
    fdb,
    link::{self, IfIndex, IfName, Ipip, IpipFacts, Link, Vxlan},
    neigh::{self, Neighbour},
    route::{self, Kind, NextHop, Protocol, Route},
};

use crate::decide::{Carrier, Hop, Tunnel, Ways};

/// The metric of our routes: those of the speaker, which have 512, wait behind them, and are there at once when ours go.
/// An administrator's own route of IPv4 comes before both.
const METRIC: u32 = 128;

/// What the kernel has of tunnels and routes of ours.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) devices: BTreeMap<Carrier, Device>,
    pub(super) routes: Vec<Route>,
}

/// A tunnel that is there.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) link: Link,
    pub(super) addresses: Vec<Address>,
    pub(super) forwarding: Vec<fdb::Entry>,
    pub(super) neighbours: Vec<Neighbour>,
}

/// The name of the tunnel of a family.
pub(crate) fn name_of(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Vxlan4 => "margay.vxlan4",
        Carrier::Vxlan6 => "margay.vxlan6",
        Carrier::Ipip => "margay.ipip",
    }
}

/// The requests after which there is a wanted device, in their order. What a device was made with cannot be changed
/// later: such a one is made anew, and all that was on it with it. One that is not wanted stays for now, as routes may
/// lead to it.
pub(super) fn device(found: Option<&Link>, tunnel: &Tunnel, name: &IfName) -> Vec<Request> {
    let make = || match &tunnel.frames {
        Some(frames) => link::add_vxlan(&Vxlan {
            name,
            address: frames.mac,
            mtu: tunnel.mtu,
            vni: frames.vni,
            port: frames.port,
            local: tunnel.local,
        }),
        None => link::add_ipip(&Ipip { name, mtu: tunnel.mtu, local: tunnel.local }),
    };
    let Some(link) = found else { return vec![make()] };
    if !is_made_as(link, tunnel) {
        return vec![link::delete_by_index(link.index), make()];
    }
    let mut requests = Vec::new();
    if link.mtu != tunnel.mtu.octets() {
        requests.push(link::set_mtu(link.index, tunnel.mtu));
    }
    if !link.up {
        requests.push(link::set_up(link.index));
    }
    requests
}

fn is_made_as(link: &Link, tunnel: &Tunnel) -> bool {
    let Some(frames) = &tunnel.frames else {
        return link.ipip == Some(IpipFacts { local: Some(tunnel.local), has_remote: false });
    };
    let same = |facts: &link::VxlanFacts| {
        facts.vni == frames.vni.number()
            && facts.local == Some(tunnel.local)
            && facts.port == frames.port
            && !facts.learns
            && !facts.floods
    };
    link.address == Some(frames.mac) && link.vxlan.as_ref().is_some_and(same)
}

/// The requests after which entries and routes are as wanted, in their order: additions first, in the order in which
/// one refers to the other, then what goes, the other way round.
pub(super) fn entries(found: &Found, wanted: &Ways) -> Vec<Request> {
    let mut requests = Vec::new();
    for (carrier, tunnel) in &wanted.tunnels {
        if let Some(device) = found.devices.get(carrier) {
            requests.extend(additions(device, tunnel));
        }
    }
    let links: BTreeMap<Carrier, IfIndex> =
        found.devices.iter().map(|(carrier, device)| (*carrier, device.link.index)).collect();
    let routes: Vec<Route> = wanted
        .routes
        .iter()
        .filter_map(|(block, way)| Some(Route { metric: Some(METRIC), ..route_of(*block, *way, &links)? }))
        .collect();
    // A tunnel that the kernel does not make takes nothing else along: what there is may be all that there can be.
    let is_stuck = |block: &IpNetwork| {
        let unmade = |hop: &Hop| matches!(hop, Hop::Tunnel { carrier, .. } if !links.contains_key(carrier));
        wanted.stuck.contains(block) || wanted.routes.get(block).is_some_and(unmade)
    };
    let place = |route: &Route| (route.destination, route.metric);
    let there: BTreeSet<&Route> = found.routes.iter().collect();
    let taken: BTreeSet<_> = found.routes.iter().map(place).collect();
    let missing = routes.iter().filter(|route| !there.contains(route));
    // Only what is ours is replaced: where another's route is in the place, the kernel refuses.
    requests.extend(
        missing.map(
            |route| {
                if taken.contains(&place(route)) { route::replace(route) } else { route::add(route) }
            },
        ),
    );
    let kept: BTreeSet<_> = routes.iter().map(place).collect();
    // One that is in the place of a wanted one was replaced.
    let gone =
        found.routes.iter().filter(|there| !kept.contains(&place(there)) && !is_stuck(&there.destination));
    requests.extend(gone.map(route::delete));
    let keeps_all = wanted.routes.keys().chain(&wanted.stuck).any(is_stuck);
    for (carrier, device) in &found.devices {
        if let Some(tunnel) = wanted.tunnels.get(carrier) {
            requests.extend(removals(device, tunnel));
        } else if !keeps_all {
            requests.push(link::delete_by_index(device.link.index));
        }
    }
    requests
}

fn additions(device: &Device, tunnel: &Tunnel) -> Vec<Request> {
    let index = device.link.index;
    let mut requests = Vec::new();
    // All that a device has is looked for by what it says: there may be thousands of nodes.
    let addresses: BTreeSet<IpNetwork> = device.addresses.iter().map(|there| there.network).collect();
    let forwarding: BTreeSet<(MacAddr, IpAddr)> = device
        .forwarding
        .iter()
        .filter(|there| there.permanent)
        .map(|there| (there.mac, there.destination))
        .collect();
    let neighbours: BTreeSet<(IpAddr, MacAddr)> = device
        .neighbours
        .iter()
        .filter(|there| there.permanent)
        .filter_map(|there| Some((there.address, there.mac?)))
        .collect();
    for address in &tunnel.addresses {
        if !addresses.contains(&(*address).into()) {
            requests.push(addr::add(index, (*address).into()));
        }
    }
    let Some(frames) = &tunnel.frames else { return requests };
    for (mac, destination) in &frames.forwarding {
        if !forwarding.contains(&(*mac, *destination)) {
            requests.push(fdb::replace_permanent(index, *mac, *destination));
        }
    }
    for (address, mac) in &frames.neighbours {
        if !neighbours.contains(&(*address, *mac)) {
            requests.push(neigh::replace_permanent(index, *address, *mac));
        }
    }
    requests
}

fn removals(device: &Device, tunnel: &Tunnel) -> Vec<Request> {
    let mut requests = Vec::new();
    // Without frames there are neither.
    if let Some(frames) = &tunnel.frames {
        // What the kernel has found out by itself it forgets by itself.
        let neighbours = device.neighbours.iter().filter(|there| there.permanent);
        let neighbours = neighbours.filter(|there| !frames.neighbours.contains_key(&there.address));
        requests.extend(neighbours.map(|there| neigh::delete(device.link.index, there.address)));
        let forwarding = device.forwarding.iter().filter(|there| !frames.forwarding.contains_key(&there.mac));
        requests.extend(forwarding.map(fdb::delete));
    }
    // A link has a link-local address of its own.
    let addresses = device.addresses.iter().filter(|there| there.global);
    let addresses = addresses.filter(|there| {
        !tunnel.addresses.contains(&there.network.ip()) || there.network != there.network.ip().into()
    });
    requests.extend(addresses.map(|there| addr::delete(device.link.index, there.network)));
    requests
}

/// `None` while the tunnel is not there.
fn route_of(block: IpNetwork, way: Hop, links: &BTreeMap<Carrier, IfIndex>) -> Option<Route> {
    let hop = match way {
        Hop::Nowhere => return Some(Route::new(block, Kind::Blackhole, Protocol::MARGAY_OVERLAY)),
        Hop::Tunnel { carrier, gateway, .. } => {
            let link = links.get(&carrier).copied()?;
            NextHop { link: Some(link), on_link: true, ..NextHop::via(gateway) }
        }
        Hop::Direct { via, link } => NextHop { link: Some(link), ..NextHop::via(via) },
    };
    let source = match way {
        Hop::Tunnel { source, .. } => source,
        Hop::Direct { .. } | Hop::Nowhere => None,
    };
    let kind = Kind::Unicast(vec![hop]);
    Some(Route { source, ..Route::new(block, kind, Protocol::MARGAY_OVERLAY) })
}
