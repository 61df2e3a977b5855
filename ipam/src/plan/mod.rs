//! What a node does about its blocks, from the pools, all claims and the use of what it has.
//!
//! Pure: the driver carries out what [`plan`] says and comes again. Rules that make it safe:
//! - A block's name says its range, so the API server lets only one node make it. Blocks of different sizes have
//!   different names: a block is used only once the watch has shown its object and no other one that overlaps it.
//!   All see the objects in one order, so of two that overlap at most one is ever used.
//! - Nothing is given back that holds an address: the file goes first, under its lock, and only when it is empty.
//! - Nothing depends on how the state came about: a lost answer, a crash between two steps and a restart are one case.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnetwork::IpNetwork;

use crate::{
    Assignment, Pool, Range,
    occupied::Occupied,
    pool::{holds, judge},
};

/// Share of a node's addresses of a pool, in percent, from which on it claims the next block.
pub const CLAIM_AHEAD_PERCENT: u64 = 75;
/// Share that the other blocks may be used to when an empty one is given back: well below the above, so that a pod
/// that comes and goes does not claim and give back a block each time.
pub const GIVE_BACK_PERCENT: u64 = 50;
/// Candidates of one claim: nodes start at different places, so that the first one is nearly always free.
const CANDIDATES: usize = 8;

/// An `IPBlock` object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The node that has it.
    pub node: String,
    /// The UID of the node in its owner reference.
    pub owner: Option<String>,
}

/// A block on this node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Whether addresses are taken from it.
    pub active: bool,
    /// Addresses held.
    pub held: u64,
    /// Addresses that can be taken.
    pub free: u64,
    /// For how long nothing has been held.
    pub empty_for: Duration,
}

/// All that a plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// This node.
    pub node: &'a str,
    /// The UID of its object; without one nothing is written to the API.
    pub node_uid: Option<&'a str>,
    /// All pools.
    pub pools: &'a BTreeMap<String, Pool>,
    /// All objects.
    pub blocks: &'a BTreeMap<IpNetwork, Claimed>,
    /// Blocks that another node was just found to have, before the watch says so.
    pub taken: &'a BTreeMap<IpNetwork, String>,
    /// The blocks on disk.
    pub local: &'a BTreeMap<IpNetwork, Local>,
    /// Blocks that a call to the API is under way about, or whose object the watch has yet to show.
    pub busy: &'a BTreeSet<IpNetwork>,
    /// Pools that a claim is under way of.
    pub claiming: &'a BTreeSet<String>,
    /// Blocks whose file is gone, and whose object is to go.
    pub releasing: &'a BTreeSet<IpNetwork>,
    /// Pools that a pod waits for.
    pub demanded: &'a BTreeSet<String>,
    /// Addresses that pods ask for, each with its pool.
    pub requested: &'a BTreeSet<(String, IpAddr)>,
    /// How long a block is empty before it is given back.
    pub give_back_after: Duration,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Disk: take addresses from it.
    Activate(IpNetwork),
    /// Disk: take no more addresses from it; its file goes with the last one.
    Retire(IpNetwork),
    /// API: make its object again, which somebody deleted while addresses are held.
    Reclaim(IpNetwork),
    /// API: make the node that there is now its owner.
    Adopt(IpNetwork),
    /// Disk, if it is still empty, then API: give it back.
    Release(IpNetwork),
    /// API: delete its object; nothing on disk is of it.
    Delete(IpNetwork),
    /// API: make the object of the first of these that nobody has.
    Claim {
        /// The pool.
        pool: String,
        /// The blocks.
        candidates: Vec<IpNetwork>,
    },
}

/// What to do, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps, in order.
    pub actions: Vec<Action>,
    /// Pools that a block is wanted of and that have none left.
    pub full: BTreeSet<String>,
    /// Blocks with addresses of this node that another node has, and which.
    pub conflicts: BTreeMap<IpNetwork, String>,
}

/// The pools that this node may claim blocks of and take addresses from, with their ranges.
pub fn usable(pools: &BTreeMap<String, Pool>) -> BTreeMap<&str, &Range> {
    let verdicts = judge(pools).into_iter();
    verdicts
        .filter_map(|(name, verdict)| Some((name, verdict.ok()?)))
        .filter(|(name, _)| pools.get(*name).is_some_and(|pool| pool.selects_node))
        .collect()
}

/// The pool that a block is of: the one whose range holds it. There is at most one, as those overlap nothing.
pub fn pool_of<'a>(usable: &BTreeMap<&'a str, &Range>, block: IpNetwork) -> Option<&'a str> {
    usable.iter().find(|(_, range)| holds(range.cidr(), block)).map(|(name, _)| *name)
}

/// Decides.
pub fn plan(input: &Input<'_>) -> Plan {
    let mut planner = Planner {
        input: *input,
        usable: usable(input.pools),
        supply: BTreeMap::new(),
        spare: BTreeMap::new(),
        occupied: OnceCell::new(),
        plan: Plan::default(),
    };
    planner.look_at_disk();
    if input.node_uid.is_some() {
        planner.look_at_objects();
        planner.look_at_pools();
    }
    planner.plan
}

struct Planner<'a> {
    input: Input<'a>,
    usable: BTreeMap<&'a str, &'a Range>,
    /// What the node has of each pool.
    supply: BTreeMap<&'a str, Supply>,
    /// Blocks that have been empty for long enough.
    spare: BTreeMap<&'a str, Vec<IpNetwork>>,
    /// Made when it is needed first: in a large cluster it is large.
    occupied: OnceCell<Occupied>,
    plan: Plan,
}

impl Planner<'_> {
    fn look_at_disk(&mut self) {
        let input = self.input;
        for (block, local) in input.local {
            let pool = pool_of(&self.usable, *block);
            let is_busy = input.busy.contains(block);
            let holder = input.blocks.get(block).map(|claimed| &claimed.node);
            let holder = holder.or_else(|| input.taken.get(block)).filter(|_| !is_busy);
            match holder {
                Some(node) if node != input.node => {
                    if local.held > 0 {
                        self.plan.conflicts.insert(*block, node.clone());
                    }
                    if local.active {
                        self.plan.actions.push(Action::Retire(*block));
                    }
                    continue;
                }
                Some(_) => match pool {
                    None if local.active => self.plan.actions.push(Action::Retire(*block)),
                    Some(pool) => {
                        if !local.active {
                            self.plan.actions.push(Action::Activate(*block));
                        }
                        self.supply.entry(pool).or_default().add(local);
                        if local.held == 0 && local.empty_for >= input.give_back_after {
                            self.spare.entry(pool).or_default().push(*block);
                        }
                        continue;
                    }
                    None => {}
                },
                None if is_busy => {}
                // Somebody has deleted the object.
                None if local.held == 0 => {
                    self.plan.actions.push(Action::Retire(*block));
                    continue;
                }
                None if input.node_uid.is_some() => self.plan.actions.push(Action::Reclaim(*block)),
                None => {}
            }
            if let Some(pool) = pool.filter(|_| local.active) {
                self.supply.entry(pool).or_default().add(local);
            }
        }
    }

    fn look_at_objects(&mut self) {
        let input = self.input;
        for (block, claimed) in input.blocks.iter().filter(|(_, claimed)| claimed.node == input.node) {
            if input.busy.contains(block) {
                continue;
            }
            if claimed.owner.as_deref() != input.node_uid {
                self.plan.actions.push(Action::Adopt(*block));
            }
            if input.local.contains_key(block) {
                continue;
            }
            let pool = pool_of(&self.usable, *block).filter(|_| !input.releasing.contains(block));
            match pool.filter(|_| !self.occupied().others_overlap(*block)) {
                Some(pool) => {
                    self.plan.actions.push(Action::Activate(*block));
                    self.supply.entry(pool).or_default().coming = true;
                }
                None => self.plan.actions.push(Action::Delete(*block)),
            }
        }
    }

    fn look_at_pools(&mut self) {
        for (name, range) in self.usable.clone() {
            let supply = self.supply.get(name).copied().unwrap_or_default();
            let is_automatic =
                self.input.pools.get(name).is_some_and(|pool| pool.assignment == Assignment::Automatic);
            if self.wants_another(name, supply, is_automatic) {
                let candidates = self.occupied().candidates(range, self.input.node, name);
                if candidates.is_empty() {
                    self.plan.full.insert(name.to_owned());
                } else {
                    self.plan.actions.push(Action::Claim { pool: name.to_owned(), candidates });
                }
                continue;
            }
            self.claim_requested(name, range);
            self.give_back(name, supply, is_automatic);
        }
    }

    fn wants_another(&self, name: &str, supply: Supply, is_automatic: bool) -> bool {
        let is_first = supply.blocks == 0 && is_automatic;
        let is_short = supply.blocks > 0 && supply.percent() >= CLAIM_AHEAD_PERCENT;
        let is_demanded = supply.free == 0 && self.input.demanded.contains(name);
        let is_coming = supply.coming || self.input.claiming.contains(name);
        !is_coming && (is_first || is_short || is_demanded)
    }

    fn claim_requested(&mut self, name: &str, range: &Range) {
        let wishes = self.input.requested.iter().filter(|(pool, _)| pool == name);
        let blocks: BTreeSet<IpNetwork> = wishes
            .filter_map(|(_, address)| range.block_of(*address))
            .filter(|block| !self.input.busy.contains(block) && !self.occupied().overlaps(*block))
            .collect();
        for block in blocks {
            self.plan.actions.push(Action::Claim { pool: name.to_owned(), candidates: vec![block] });
        }
    }

    fn give_back(&mut self, name: &str, supply: Supply, is_automatic: bool) {
        // A pool that only pods ask for needs no block without one.
        let keep_one = is_automatic || self.input.demanded.contains(name);
        let mut left = supply;
        for block in self.spare.remove(name).into_iter().flatten() {
            if self.input.requested.iter().any(|(_, address)| block.contains(*address)) {
                continue;
            }
            let Some(local) = self.input.local.get(&block) else { continue };
            let without = left.without(local);
            let is_last = without.blocks == 0;
            if (is_last && !keep_one) || (!is_last && without.percent() < GIVE_BACK_PERCENT) {
                self.plan.actions.push(Action::Release(block));
                left = without;
            }
        }
    }

    fn occupied(&self) -> &Occupied {
        let (blocks, taken) = (self.input.blocks, self.input.taken);
        self.occupied.get_or_init(|| Occupied::of(blocks.keys().chain(taken.keys()).copied()))
    }
}

/// What a node has of a pool.
#[derive(Debug, Clone, Copy, Default)]
struct Supply {
    blocks: u64,
    held: u64,
    free: u64,
    /// A block is about to be there.
    coming: bool,
}

impl Supply {
    fn add(&mut self, local: &Local) {
        self.blocks += 1;
        self.held += local.held;
        self.free += local.free;
    }

    fn without(self, local: &Local) -> Self {
        Self {
            blocks: self.blocks - 1,
            held: self.held - local.held,
            free: self.free - local.free,
            coming: self.coming,
        }
    }

    fn percent(self) -> u64 {
        (self.held * 100).checked_div(self.held + self.free).unwrap_or(100)
    }
}

impl Occupied {
    /// The next blocks of a pool that nobody has, from a place on that depends on the node.
    fn candidates(&self, range: &Range, node: &str, pool: &str) -> Vec<IpNetwork> {
        /// More blocks than are looked at in one go: no cluster has as many.
        const SEARCH: u64 = 1 << 20;
        let total = range.total_blocks();
        let start = place(node, pool) % total;
        (0..total.min(SEARCH))
            .filter_map(|step| {
                let to_the_end = total - start;
                range.block(if step < to_the_end { start + step } else { step - to_the_end })
            })
            .filter(|block| !self.overlaps(*block) && range.has_use_for(*block))
            .take(CANDIDATES)
            .collect()
    }

    /// Whether a pool has a block that nobody has.
    pub(crate) fn has_room(&self, range: &Range) -> bool {
        !self.candidates(range, "", "").is_empty()
    }
}

/// FNV-1a, with its bits mixed: a hash that is the same in every build.
fn place(node: &str, pool: &str) -> u64 {
    let octets = node.bytes().chain([b'/']).chain(pool.bytes());
    let hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests;
