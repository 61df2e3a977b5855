//! Reading what there is of tunnels and routes, and making them as wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use margay_netlink::{
    Error, Request, Socket, addr, fdb,
    link::{self, IfIndex, IfName, Link, Mtu},
    neigh,
    route::{self, Filter, Protocol, TableId},
};
use tracing::debug;

use super::{
    bypass::{self, Bypass},
    difference::{self, Device, Found, name_of},
};
use crate::{
    config,
    decide::{Carrier, Conditions, Hop, Paths, Ways},
    program::{ebpf::TunnelMap, uplink},
    traffic::Traffic,
    tunnels::{Kind, Tunnels},
};

/// What came of an attempt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// How many changes the kernel took.
    pub(super) changes: usize,
    /// Why a tunnel is not there.
    pub(super) faults: Vec<String>,
    /// What else the kernel refused.
    pub(super) refused: Vec<String>,
    /// What cannot be as the cluster and the settings are, in words.
    pub(super) problems: Vec<String>,
    /// The tunnels.
    pub(super) tunnels: BTreeSet<IfIndex>,
    /// What other nodes are to know of them; `None`: as before.
    pub(super) said: Option<Tunnels>,
    /// What the programs do in the place of the tunnel's device; `None` where there are none, and as long as not all is as wanted.
    pub(super) bypass: Option<Bypass>,
}

/// The agent's settings as far as the ways follow them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) traffic: Traffic,
    pub(super) has_speaker: bool,
    pub(super) mtu: Option<Mtu>,
}

impl Settings {
    pub(super) fn of(settings: &config::Settings) -> Self {
        let config::Settings { traffic, bgp, mtu, .. } = settings;
        Self { traffic: traffic.clone(), has_speaker: bgp.enabled, mtu: *mtu }
    }
}

/// Makes the kernel hold what these paths come to here, and the map of the programs say so. A second time changes nothing.
pub(super) fn apply(
    socket: &mut Socket,
    paths: &Paths,
    settings: &Settings,
    mut map: Option<&mut TunnelMap>,
) -> anyhow::Result<Applied> {
    let names = names()?;
    let links = tunnels(socket, &names)?;
    if let Some(fault) = paths.is_nowhere() {
        let tunnels = links.values().map(|link| link.index).collect();
        return Ok(Applied { faults: vec![fault], tunnels, ..Applied::default() });
    }
    let all = addr::list(socket)?;
    let others = paths.nodes.values().flatten().copied().collect();
    let uplinks = uplink::list(socket, &all, &paths.addresses, &others)?;
    let on_tunnels = all.iter().filter(|address| links.values().any(|link| link.index == address.link));
    let present: Vec<IpAddr> = on_tunnels.map(|address| address.network.ip()).collect();
    let wanted = paths.ways(&Conditions {
        settings: &settings.traffic,
        has_speaker: settings.has_speaker,
        mtu: settings.mtu,
        uplinks: &uplinks,
        present: &present,
    });
    if let Some(map) = &mut map {
        bypass::before(map, socket, &wanted, &unchanged(&links, &wanted, &names))?;
    }
    let (mut made, mut faults) = (0, wanted.faults.clone());
    for (carrier, tunnel) in &wanted.tunnels {
        let Some(name) = names.get(carrier) else { continue };
        let (changes, refused) = execute(socket, &difference::device(links.get(carrier), tunnel, name))?;
        made += changes;
        let who = paths.kinds.get(&carrier.kind()).map_or("nobody", String::as_str);
        faults.extend(refused.iter().map(|refusal| no_device(refusal, *carrier, who)));
    }
    let mut found = Found::default();
    for (carrier, link) in tunnels(socket, &names)? {
        let device = Device {
            addresses: addr::list_on(socket, link.index)?,
            forwarding: match carrier.kind() {
                Kind::Vxlan => fdb::list_on(socket, link.index)?,
                Kind::Ipip => Vec::new(),
            },
            neighbours: neigh::list_on(socket, link.index)?,
            link,
        };
        found.devices.insert(carrier, device);
    }
    let filter = Filter { table: Some(TableId::MAIN), protocol: Some(Protocol::MARGAY_OVERLAY) };
    found.routes = route::list(socket, filter)?;
    let (written, refused) = execute(socket, &difference::entries(&found, &wanted))?;
    let said = said(paths, &wanted, &found, !refused.is_empty());
    let is_well = faults.is_empty() && refused.is_empty();
    let there = bypass::ROUND.into_iter().filter(|carrier| wanted.tunnels.contains_key(carrier));
    let there: BTreeMap<Carrier, &Link> =
        there.filter_map(|carrier| Some((carrier, &found.devices.get(&carrier)?.link))).collect();
    let bypass = match map {
        Some(map) if is_well && !there.is_empty() => Some(bypass::after(map, socket, &wanted, &there)?),
        _ => None,
    };
    Ok(Applied {
        changes: made + written,
        faults,
        refused,
        problems: wanted.problems,
        tunnels: found.devices.values().map(|device| device.link.index).collect(),
        said: Some(said),
        bypass,
    })
}

/// The devices that the programs go round, of which these are as they are wanted.
fn unchanged<'a>(
    links: &'a BTreeMap<Carrier, Link>,
    wanted: &Ways,
    names: &BTreeMap<Carrier, IfName>,
) -> BTreeMap<Carrier, &'a Link> {
    let as_wanted = |carrier: Carrier| {
        let (link, tunnel) = (links.get(&carrier)?, wanted.tunnels.get(&carrier)?);
        let is_so = difference::device(Some(link), tunnel, names.get(&carrier)?).is_empty();
        is_so.then_some((carrier, link))
    };
    bypass::ROUND.into_iter().filter_map(as_wanted).collect()
}

/// A kind is received by all of its devices, or not at all; and sent where a route may be that leads through one.
fn said(paths: &Paths, wanted: &Ways, found: &Found, was_refused: bool) -> Tunnels {
    let there: BTreeSet<Kind> = found.devices.keys().map(|carrier| carrier.kind()).collect();
    let carriers = paths.carriers();
    let lacking = carriers.iter().filter(|carrier| !found.devices.contains_key(carrier));
    let lacking: BTreeSet<Kind> = lacking.map(|carrier| carrier.kind()).collect();
    let received =
        paths.kinds.keys().filter(|kind| there.contains(kind) && !lacking.contains(kind)).copied().collect();
    let sent = wanted.routes.values().filter_map(|hop| match hop {
        Hop::Tunnel { carrier, .. } if found.devices.contains_key(carrier) => Some(carrier.kind()),
        Hop::Tunnel { .. } | Hop::Direct { .. } | Hop::Nowhere => None,
    });
    let mut sent: BTreeSet<Kind> = sent.collect();
    if was_refused {
        sent.extend(there);
    }
    Tunnels { received, sent }
}

/// What is to be done where something is there that is not ours.
const IN_PLACE: &str = "somebody else has one in its place (ip route show, ip link), which has to go";

fn no_device(refusal: &str, carrier: Carrier, who: &str) -> String {
    match carrier.kind() {
        Kind::Vxlan => format!(
            "{refusal}; is the module vxlan in this kernel (modprobe vxlan), and is there no other tunnel of this overlay.vni \
             and overlay.port (ip -d link show type vxlan)?"
        ),
        Kind::Ipip => format!(
            "{refusal}; {who} asks for IP-in-IP, which takes the module ipip in this kernel (modprobe ipip), and no other tunnel \
             from this address to any (ip -d link show type ipip); where there is none, set VXLAN"
        ),
    }
}

fn names() -> anyhow::Result<BTreeMap<Carrier, IfName>> {
    let named = Carrier::ALL.into_iter().map(|carrier| Ok((carrier, name_of(carrier).parse()?)));
    named.collect()
}

/// Our tunnels that are there.
fn tunnels(
    socket: &mut Socket,
    names: &BTreeMap<Carrier, IfName>,
) -> anyhow::Result<BTreeMap<Carrier, Link>> {
    let mut found = BTreeMap::new();
    for (carrier, name) in names {
        let Some(link) = link::by_name(socket, name)? else { continue };
        let (is_ours, kind) = match carrier.kind() {
            Kind::Vxlan => (link.vxlan.is_some(), "VXLAN"),
            Kind::Ipip => (link.ipip.is_some(), "IP-in-IP"),
        };
        anyhow::ensure!(
            is_ours,
            "make the {kind} device {name}: there is a link of that name and of kind `{}`; rename or delete it",
            link.kind
        );
        found.insert(*carrier, link);
    }
    Ok(found)
}

/// Says how many requests were carried out, and what was refused.
fn execute(socket: &mut Socket, requests: &[Request]) -> Result<(usize, Vec<String>), Error> {
    let (mut changes, mut refused) = (0, Vec::new());
    for (request, outcome) in requests.iter().zip(socket.execute_all(requests)?) {
        match outcome {
            Ok(()) => {
                debug!("{request}");
                changes += 1;
            }
            // What is to go has gone by itself: an address takes routes along.
            Err(error) if error.is_gone() && request.is_deletion() => {}
            Err(error) if error.is_present() => refused.push(format!("{error}; {IN_PLACE}")),
            Err(error) => refused.push(error.to_string()),
        }
    }
    Ok((changes, refused))
}

#[cfg(test)]
mod tests;
