//! Which blocks a new endpoint may take its addresses from. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use margay_api::agent::{Addressing, NoAddress};
use margay_ipam::{Assignment, Claimed, Local, Pool, Range, Window, by_age, judge, overlap, pool_of, usable};

use super::{Wanted, asking::taken_by_node};

/// Blocks of a pool in an answer: more than one, because several plugins take addresses at once; not all of
/// hundreds, because the plugin looks at each.
const BLOCKS: usize = 4;

/// What the task knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) node: &'a str,
    pub(super) pools: &'a BTreeMap<String, Pool>,
    pub(super) blocks: &'a BTreeMap<IpNetwork, Claimed>,
    /// The blocks on disk that are this node's.
    pub(super) local: &'a BTreeMap<IpNetwork, Local>,
    /// Pools that have no block left.
    pub(super) full: &'a BTreeSet<String>,
    /// The node's own addresses.
    pub(super) own: &'a BTreeSet<IpAddr>,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Take(Addressing),
    Refuse(NoAddress, String),
    /// Until a block is claimed.
    Wait(Waits),
}

/// What must be claimed first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) pools: BTreeSet<String>,
    pub(super) addresses: BTreeSet<(String, IpAddr)>,
}

/// Decides.
pub(super) fn choose(known: &Known<'_>, wanted: &Wanted) -> Choice {
    match try_choose(known, wanted) {
        Ok(choice) => choice,
        Err((cause, reason)) => Choice::Refuse(cause, reason),
    }
}

type Refusal = (NoAddress, String);

fn try_choose(known: &Known<'_>, wanted: &Wanted) -> Result<Choice, Refusal> {
    let usable = usable(known.pools);
    let allowed = allowed(known, &usable, wanted)?;
    let mut taken = Addressing::default();
    let mut waits = Waits::default();
    for address in &wanted.addresses {
        if !allowed.iter().any(|(_, range)| range.cidr().contains(*address)) {
            let ranges: Vec<String> =
                allowed.iter().map(|(name, range)| format!("{name} ({})", range.cidr())).collect();
            return Err((
                NoAddress::Refused,
                format!(
                    "address {address} was asked for, but is in no pool that the pod may use on node {}: {}; ask for one of those, or name its pool with the annotation {}",
                    known.node,
                    ranges.join(", "),
                    margay_api::annotation::POOLS
                ),
            ));
        }
    }
    for is_ipv4 in [true, false] {
        let pools: Vec<(&str, &Range)> =
            allowed.iter().filter(|(_, range)| range.cidr().is_ipv4() == is_ipv4).copied().collect();
        if let Some(address) = wanted.addresses.iter().find(|address| address.is_ipv4() == is_ipv4) {
            match requested(known, &pools, *address)? {
                Ok(block) => {
                    taken.blocks.push(block);
                    taken.addresses.push(*address);
                }
                Err(pool) => drop(waits.addresses.insert((pool, *address))),
            }
            continue;
        }
        let mut blocks = Vec::new();
        for (name, _) in &pools {
            blocks.extend(with_room(known, &usable, name));
        }
        if blocks.is_empty() && !pools.is_empty() {
            let next = pools.iter().find(|(name, _)| !known.full.contains(*name));
            let (name, _) = next.ok_or_else(|| (NoAddress::Full, full(known, &pools)))?;
            waits.pools.insert((*name).to_owned());
        }
        taken.blocks.extend(blocks);
    }
    if waits != Waits::default() {
        return Ok(Choice::Wait(waits));
    }
    let withheld = allowed.iter().flat_map(|(_, range)| range.reserved().iter().copied());
    let withheld = withheld.chain(known.own.iter().map(|address| IpNetwork::from(*address)));
    taken.excluded =
        withheld.filter(|withheld| taken.blocks.iter().any(|block| overlap(*block, *withheld))).collect();
    Ok(Choice::Take(taken))
}

/// The pools that an endpoint may use, in order.
fn allowed<'a>(
    known: &Known<'a>,
    usable: &BTreeMap<&'a str, &'a Range>,
    wanted: &Wanted,
) -> Result<Vec<(&'a str, &'a Range)>, Refusal> {
    let Some((names, place)) = &wanted.pools else {
        let automatic =
            by_age(known.pools).into_iter().filter(|(_, pool)| pool.assignment == Assignment::Automatic);
        let allowed: Vec<_> =
            automatic.filter_map(|(name, _)| Some((name, usable.get(name).copied()?))).collect();
        return if allowed.is_empty() { Err((NoAddress::Later, no_pool(known))) } else { Ok(allowed) };
    };
    let mut allowed = Vec::new();
    let mut reasons = Vec::new();
    for name in names {
        let Some((name, pool)) = known.pools.get_key_value(name) else {
            let there: Vec<&str> = known.pools.keys().map(String::as_str).collect();
            return Err((
                NoAddress::Refused,
                format!("{place} names pool {name}, which does not exist; there are: {}", there.join(", ")),
            ));
        };
        match (usable.get(name.as_str()), why_not(known, name, pool)) {
            (Some(range), _) => allowed.push((name.as_str(), *range)),
            (None, why) => reasons.push(format!("{name}: {why}")),
        }
    }
    if allowed.is_empty() {
        let reasons = reasons.join("; ");
        return Err((
            NoAddress::Refused,
            format!("{place} names pools that give no addresses on node {}: {reasons}", known.node),
        ));
    }
    Ok(allowed)
}

fn why_not(known: &Known<'_>, name: &str, pool: &Pool) -> String {
    match judge(known.pools).remove(name) {
        Some(Err(fault)) => fault.message,
        _ if !pool.selects_node => "its nodeSelector does not choose the node".into(),
        _ => "it gives addresses".into(),
    }
}

/// Why a node has no pool for pods that name none.
pub(super) fn no_pool(known: &Known<'_>) -> String {
    let automatic = known.pools.iter().filter(|(_, pool)| pool.assignment == Assignment::Automatic);
    let reasons: Vec<String> =
        automatic.map(|(name, pool)| format!("{name}: {}", why_not(known, name, pool))).collect();
    if reasons.is_empty() {
        "there is no IPPool of assignmentMode Automatic; make one (kubectl apply)".into()
    } else {
        format!("no IPPool gives addresses to node {}: {}", known.node, reasons.join("; "))
    }
}

/// Why there is no address in any of some pools, none of which has a block left.
pub(super) fn full(known: &Known<'_>, pools: &[(&str, &Range)]) -> String {
    let of = |(name, range): &(&str, &Range)| format!("{name} ({})", range.cidr());
    format!(
        "no address is free on node {}, and no block is left in pool {}: add an IPPool, or delete pods",
        known.node,
        pools.iter().map(of).collect::<Vec<_>>().join(", ")
    )
}

/// This node's blocks of a pool that have a free address, the fullest first, so that others can become empty.
fn with_room(known: &Known<'_>, usable: &BTreeMap<&str, &Range>, pool: &str) -> Vec<IpNetwork> {
    // While the object of a block is missing, another node may be about to claim it.
    let is_claimed = |block| known.blocks.get(block).is_some_and(|claimed| claimed.node == known.node);
    let of_pool = known.local.iter().filter(|(block, local)| {
        local.active && local.free > 0 && is_claimed(*block) && pool_of(usable, **block) == Some(pool)
    });
    let mut blocks: Vec<_> = of_pool.map(|(block, local)| (local.free, *block)).collect();
    blocks.sort_unstable();
    blocks.into_iter().map(|(_, block)| block).take(BLOCKS).collect()
}

/// The block that has a requested address; the pool to claim it of, when nobody has it yet.
fn requested(
    known: &Known<'_>,
    pools: &[(&str, &Range)],
    address: IpAddr,
) -> Result<Result<IpNetwork, String>, Refusal> {
    let refuse = |reason: String| Err((NoAddress::Refused, reason));
    let Some((name, range)) = pools.iter().find(|(_, range)| range.cidr().contains(address)) else {
        return refuse(format!("address {address} was asked for, but is in no pool that the pod may use"));
    };
    if known.own.contains(&address) {
        return refuse(taken_by_node(address));
    }
    if range.reserves(address) {
        return refuse(format!(
            "address {address} was asked for, but pool {name} reserves it (spec.reserved); ask for another"
        ));
    }
    let holder = known.blocks.iter().find(|(block, _)| block.contains(address));
    let block = match holder {
        Some((block, claimed)) if claimed.node != known.node => {
            return refuse(format!(
                "address {address} was asked for, but is in block {block} of node {}; run the pod there, or ask for another",
                claimed.node
            ));
        }
        Some((block, _)) => Some(*block),
        None => None,
    };
    let Some(new) = block.or_else(|| range.block_of(address)) else {
        return refuse(format!("address {address} was asked for, but is in no block of pool {name}"));
    };
    if !Window::of(new).is_ok_and(|window| window.offset(address).is_some()) {
        return refuse(format!(
            "address {address} was asked for, but is not handed out: block {new} keeps its first address, an IPv4 block its last one too; ask for another"
        ));
    }
    match block.filter(|block| known.local.get(block).is_some_and(|local| local.active)) {
        Some(block) => Ok(Ok(block)),
        None if block.is_none() && known.full.contains(*name) => {
            refuse(format!("address {address} was asked for, but no block is left in pool {name}"))
        }
        None => Ok(Err((*name).to_owned())),
    }
}

#[cfg(test)]
mod tests;
