//! The task of mode `pool`: it owns what the node knows of pools and blocks, plans, and has the plan carried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnetwork::IpNetwork;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, api::ObjectMeta};
use margay_api::{
    agent::{NoAddress, Response},
    endpoint::Records,
    pools::{BlockRow, PoolRow, Snapshot},
    resource::{IPPool, IPPoolStatus},
};
use margay_ipam::{
    Action, Assignment, Claimed, Input, Local, Plan, Pool, Report, Store, Supply, by_age, plan, pool_of,
    report, usable,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    Ask, ClaimedBlocks, Message, OwnAddresses, PoolTraffic,
    calls::{self, Outcome, Owner},
    choose::{Choice, Known, Waits, choose, full, no_pool},
    pool_status::Written,
};
use crate::{
    config::Settings,
    core::Event,
    facts::Facts,
    notice::{Notices, Object, Reason},
    program::leak,
    watch::{BlockFacts, Change, PoolFacts},
};

/// How long after an answer the blocks are looked at: the plugin has taken its address by then.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long after a failed call the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);
/// How long the watch may take to show what a call has done, and how long it is believed without.
const LAG: Duration = Duration::from_secs(10);
/// Plans in one go: each but the last has changed the disk, or found a pool full.
const ROUNDS: usize = 8;

/// Runs until the core is gone.
pub(crate) async fn run(
    settings: Settings,
    client: Client,
    mut inbox: mpsc::Receiver<Message>,
    mut facts: watch::Receiver<Facts>,
    core: mpsc::Sender<Event>,
    notices: Notices,
) -> anyhow::Result<()> {
    let mut task = Task::new(&settings, client, notices);
    // Nobody tells when an address is freed.
    let tick = (task.give_back_after / 2).clamp(Duration::from_secs(1), settings.reconcile);
    let mut tick = interval(tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = task.next();
        tokio::select! {
            message = inbox.recv() => match message {
                Some(message) => task.hear(message),
                None => return Ok(()),
            },
            changed = facts.changed() => if changed.is_err() { return Ok(()) },
            Some(outcome) = task.calls.join_next() => task.heed(outcome?),
            _ = tick.tick() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        while let Ok(message) = inbox.try_recv() {
            task.hear(message);
        }
        task.facts.clone_from(&facts.borrow_and_update());
        task.step();
        if let Some(claimed) = task.news()
            && core.send(Event::Claimed(claimed)).await.is_err()
        {
            return Ok(());
        }
    }
}

struct Task {
    node: String,
    run_dir: PathBuf,
    give_back_after: Duration,
    client: Client,
    store: Store,
    own: OwnAddresses,
    facts: Facts,
    /// `None` before they were listed.
    pools: Option<BTreeMap<String, PoolFacts>>,
    blocks: Option<BTreeMap<String, BlockFacts>>,
    claimed: BTreeMap<IpNetwork, Claimed>,
    /// The same for the core: made anew when it changes, so that it is not compared.
    holders: Arc<BTreeMap<IpNetwork, String>>,
    /// Since they were made: once for all blocks that came together.
    holders_changed: bool,
    /// How packets of the pods of each pool travel.
    traffic: Arc<BTreeMap<IpNetwork, PoolTraffic>>,
    taken: BTreeMap<IpNetwork, (String, Instant)>,
    busy: BTreeMap<IpNetwork, Instant>,
    /// Pools of which a block is being claimed, which one if that is known, and for how long that is waited for.
    claiming: BTreeMap<String, (Option<IpNetwork>, Instant)>,
    releasing: BTreeSet<IpNetwork>,
    empty_since: BTreeMap<IpNetwork, Instant>,
    local: BTreeMap<IpNetwork, Local>,
    full: BTreeSet<String>,
    conflicts: BTreeMap<IpNetwork, String>,
    asks: Vec<Ask>,
    calls: JoinSet<Outcome>,
    /// Of all pools; `None` since a pool or a block has changed.
    reports: Option<BTreeMap<String, Report>>,
    written: Written,
    snapshot: Option<Snapshot>,
    told: Option<ClaimedBlocks>,
    fresh: Option<ClaimedBlocks>,
    look_again: Option<Instant>,
    last_error: Option<String>,
    notices: Notices,
}

impl Task {
    fn new(settings: &Settings, client: Client, notices: Notices) -> Self {
        Self {
            node: settings.node_name.clone(),
            run_dir: settings.run_dir.clone(),
            give_back_after: Duration::from_secs(settings.ipam.give_back_seconds),
            client,
            store: Store::new(&settings.state_dir.join(margay_api::paths::IPAM)),
            own: OwnAddresses::default(),
            facts: Facts::default(),
            pools: None,
            blocks: None,
            claimed: BTreeMap::new(),
            holders: Arc::default(),
            holders_changed: false,
            traffic: Arc::default(),
            taken: BTreeMap::new(),
            busy: BTreeMap::new(),
            claiming: BTreeMap::new(),
            releasing: BTreeSet::new(),
            empty_since: BTreeMap::new(),
            local: BTreeMap::new(),
            full: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            asks: Vec::new(),
            calls: JoinSet::new(),
            reports: None,
            written: Written::default(),
            snapshot: None,
            told: None,
            fresh: None,
            look_again: None,
            last_error: None,
            notices,
        }
    }

    /// When there is something to do even if nothing happens.
    fn next(&self) -> Option<Instant> {
        let asks = self.asks.iter().map(|ask| ask.until);
        let lags = self.busy.values().chain(self.claiming.values().map(|(_, until)| until)).copied();
        asks.chain(lags).chain(self.look_again).min()
    }

    fn news(&mut self) -> Option<ClaimedBlocks> {
        let fresh = self.fresh.take()?;
        if self.told.as_ref() == Some(&fresh) {
            return None;
        }
        self.told = Some(fresh.clone());
        Some(fresh)
    }

    fn hear(&mut self, message: Message) {
        if !matches!(message, Message::Ask(_)) {
            self.reports = None;
        }
        match message {
            Message::Pools(change) => {
                change.changes(self.pools.get_or_insert_default());
            }
            Message::Blocks(change) => {
                self.hear_of_blocks(change);
                self.holders_changed = true;
            }
            Message::Ask(ask) => self.asks.push(ask),
        }
    }

    fn hear_of_blocks(&mut self, change: Change<String, BlockFacts>) {
        let before = match &change {
            Change::Replaced(_) => None,
            Change::Applied(name, _) | Change::Deleted(name) => {
                self.blocks.as_ref().and_then(|blocks| blocks.get(name)).map(|facts| facts.network)
            }
        };
        let after = match &change {
            Change::Applied(_, facts) => Some(facts.clone()),
            _ => None,
        };
        let is_listing = change.is_listing();
        change.changes(self.blocks.get_or_insert_default());
        if is_listing {
            let all = self.blocks.iter().flat_map(BTreeMap::values);
            self.claimed = all.map(|facts| (facts.network, facts.claimed.clone())).collect();
            self.busy.clear();
            self.taken.clear();
            self.claiming.clear();
            self.releasing.retain(|network| self.claimed.contains_key(network));
            return;
        }
        // The object says what became of a call.
        for network in before.into_iter().chain(after.as_ref().map(|facts| facts.network)) {
            self.busy.remove(&network);
            self.taken.remove(&network);
            self.claiming.retain(|_, (claimed, _)| *claimed != Some(network));
            self.claimed.remove(&network);
        }
        match after {
            Some(facts) => drop(self.claimed.insert(facts.network, facts.claimed)),
            None => self.releasing.retain(|network| self.claimed.contains_key(network)),
        }
    }

    fn heed(&mut self, outcome: Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Claim { pool, claimed, taken } => {
                for (network, node) in taken {
                    self.busy.remove(&network);
                    if !self.claimed.contains_key(&network) {
                        self.taken.insert(network, (node, now + LAG));
                    }
                }
                match claimed {
                    Ok(Some(network)) => {
                        info!(block = %network, pool, "claimed a block");
                        self.last_error = None;
                        let seen = self.claimed.contains_key(&network);
                        self.claiming.remove(&pool);
                        self.busy.remove(&network);
                        if !seen {
                            self.claiming.insert(pool, (Some(network), now + LAG));
                            self.busy.insert(network, now + LAG);
                        }
                    }
                    Ok(None) => drop(self.claiming.remove(&pool)),
                    Err((network, reason)) => {
                        self.claiming.insert(pool, (None, now + RETRY));
                        self.busy.insert(network, now + RETRY);
                        self.failed(reason);
                    }
                }
            }
            Outcome::Block { network, action, result } => match result {
                Ok(()) => self.last_error = None,
                Err(reason) => {
                    self.busy.insert(network, now + RETRY);
                    self.failed(format!("{action} block {network}: {reason}"));
                }
            },
            Outcome::Status { pool, result } => {
                if let Err(reason) = result {
                    self.failed(format!("write the status of IPPool {pool}: {reason}"));
                }
            }
        }
    }

    /// Said once, not at every attempt.
    fn failed(&mut self, reason: String) {
        if self.last_error.as_ref() != Some(&reason) {
            warn!("{reason}; trying again");
            self.last_error = Some(reason);
        }
    }

    /// Everything, from the state: what the disk says, what is to be done, who gets an answer, what is told.
    fn step(&mut self) {
        let now = Instant::now();
        self.look_again = None;
        self.busy.retain(|_, until| *until > now);
        self.taken.retain(|_, (_, until)| *until > now);
        self.claiming.retain(|_, (_, until)| *until > now);
        let Some(facts) = &self.pools else { return self.answer_the_late(now) };
        if self.blocks.is_none() {
            return self.answer_the_late(now);
        }
        let labels = self.facts.node.as_ref().map(|node| &node.labels);
        let pools: BTreeMap<String, Pool> = facts
            .iter()
            .map(|(name, facts)| {
                let selects_node = labels.is_some_and(|labels| facts.nodes.matches(labels));
                (name.clone(), Pool { selects_node, ..facts.pool.clone() })
            })
            .collect();
        self.full.clear();
        for _ in 0..ROUNDS {
            if let Err(error) = self.read_disk(&pools, now) {
                self.failed(format!("read the address blocks: {error}"));
                self.look_again = Some(now + RETRY);
                return self.answer_the_late(now);
            }
            let waits = self.answer(&pools, now);
            let plan = self.plan(&pools, &waits);
            let changed = self.carry_out(&plan, now);
            let before = self.full.len();
            self.full.extend(plan.full);
            self.tell_conflicts(plan.conflicts);
            if !changed && self.full.len() == before {
                break;
            }
        }
        self.answer_the_late(now);
        self.publish(&pools);
        if self.facts.speaks {
            self.write_status(&pools, now);
        }
    }

    fn read_disk(&mut self, pools: &BTreeMap<String, Pool>, now: Instant) -> Result<(), margay_ipam::Error> {
        let reserved: Vec<IpNetwork> =
            usable(pools).values().flat_map(|range| range.reserved().iter().copied()).collect();
        let own = self.own.look();
        let usage = self.store.usage(|address| {
            own.contains(&address) || reserved.iter().any(|range| range.contains(address))
        })?;
        self.empty_since.retain(|network, _| usage.iter().any(|it| it.network == *network && it.held == 0));
        self.local = usage
            .iter()
            .map(|usage| {
                let empty_for = if usage.held == 0 {
                    now.saturating_duration_since(*self.empty_since.entry(usage.network).or_insert(now))
                } else {
                    Duration::ZERO
                };
                let local = Local {
                    active: usage.active,
                    held: usage.held as u64,
                    free: usage.free as u64,
                    empty_for,
                };
                (usage.network, local)
            })
            .collect();
        Ok(())
    }

    /// The blocks on disk that the API says are this node's: addresses come from no other.
    fn ours(&self) -> BTreeMap<IpNetwork, Local> {
        let is_ours = |network: &IpNetwork| {
            self.claimed.get(network).map_or_else(
                // Deleted by somebody: it is claimed again, unless another node was quicker.
                || !self.taken.contains_key(network),
                |claimed| claimed.node == self.node,
            )
        };
        self.local.iter().filter(|(network, _)| is_ours(network)).map(|(k, v)| (*k, *v)).collect()
    }

    /// Answers those who can be answered, and says what the others wait for.
    fn answer(&mut self, pools: &BTreeMap<String, Pool>, now: Instant) -> Waits {
        let mut waits = Waits::default();
        if self.asks.is_empty() {
            return waits;
        }
        let local = self.ours();
        let requested: Vec<_> = self.asks.iter().flat_map(|ask| ask.wanted.addresses.clone()).collect();
        let known = Known {
            node: &self.node,
            pools,
            blocks: &self.claimed,
            local: &local,
            full: &self.full,
            own: self.own.look_for(&requested),
        };
        for ask in std::mem::take(&mut self.asks) {
            if ask.answer.is_closed() {
                continue;
            }
            match choose(&known, &ask.wanted) {
                Choice::Take(addressing) => {
                    ask.answer.send(Response::Addressing(addressing));
                    self.look_again = Some(now + LOOK_AGAIN);
                }
                // Pools and blocks may be about to come.
                Choice::Refuse(NoAddress::Later, _) if ask.until > now => self.asks.push(ask),
                Choice::Refuse(cause, reason) => ask.answer.refuse(cause, reason),
                Choice::Wait(on) => {
                    waits.pools.extend(on.pools);
                    waits.addresses.extend(on.addresses);
                    self.asks.push(ask);
                }
            }
        }
        waits
    }

    fn answer_the_late(&mut self, now: Instant) {
        for ask in std::mem::take(&mut self.asks) {
            if ask.until > now {
                self.asks.push(ask);
                continue;
            }
            let why = self.last_error.as_deref().unwrap_or("the API server has not answered");
            ask.answer.refuse(NoAddress::Later, format!("no address block could be claimed in time: {why}"));
        }
    }

    fn plan(&self, pools: &BTreeMap<String, Pool>, waits: &Waits) -> Plan {
        plan(&Input {
            node: &self.node,
            node_uid: self.facts.node.as_ref().map(|node| node.uid.as_str()),
            pools,
            blocks: &self.claimed,
            taken: &self.taken.iter().map(|(network, (node, _))| (*network, node.clone())).collect(),
            local: &self.local,
            busy: &self.busy.keys().copied().collect(),
            claiming: &self.claiming.keys().cloned().collect(),
            releasing: &self.releasing,
            demanded: &waits.pools,
            requested: &waits.addresses,
            give_back_after: self.give_back_after,
        })
    }

    /// Starts what the plan says; true when the disk has changed.
    fn carry_out(&mut self, plan: &Plan, now: Instant) -> bool {
        let owner =
            self.facts.node.as_ref().map(|node| Owner { name: self.node.clone(), uid: node.uid.clone() });
        let mut changed = false;
        for action in &plan.actions {
            if let Err(error) = self.start(action, owner.as_ref(), now, &mut changed) {
                self.failed(format!("{action:?}: {error}"));
                self.look_again = Some(now + RETRY);
            }
        }
        changed
    }

    fn start(
        &mut self,
        action: &Action,
        owner: Option<&Owner>,
        now: Instant,
        changed: &mut bool,
    ) -> Result<(), margay_ipam::Error> {
        let client = self.client.clone();
        let until = now + 2 * LAG;
        match (action, owner.cloned()) {
            (Action::Activate(network), _) => {
                self.store.activate(*network)?;
                if let Err(error) = leak::hold_again(&Records::below(&self.run_dir), &self.store) {
                    // Of a block that was lost, it is not known which addresses pods have.
                    self.store.retire(*network)?;
                    self.failed(format!("{action:?}: {error:#}"));
                    self.look_again = Some(now + RETRY);
                    return Ok(());
                }
                info!(block = %network, "addresses come from this block");
                *changed = true;
            }
            (Action::Retire(network), _) => {
                self.store.retire(*network)?;
                info!(block = %network, "no more addresses come from this block");
                *changed = true;
            }
            (Action::Release(network), _) => {
                if !self.store.remove_if_empty(*network)? {
                    return Ok(());
                }
                info!(block = %network, "an empty block is given back");
                *changed = true;
                self.delete(*network, until);
            }
            (Action::Delete(network), _) => self.delete(*network, until),
            (Action::Reclaim(network), Some(owner)) => {
                warn!(block = %network, "somebody deleted the IPBlock although addresses of it are in use; it is made again");
                self.busy.insert(*network, until);
                let pool = self.pool_name(*network);
                self.calls.spawn(calls::reclaim(client, owner, pool, *network));
            }
            (Action::Adopt(network), Some(owner)) => {
                self.busy.insert(*network, until);
                self.calls.spawn(calls::adopt(client, owner, *network));
            }
            (Action::Claim { pool, candidates }, Some(owner)) => {
                if let [network] = candidates[..] {
                    self.busy.insert(network, until);
                }
                self.claiming.insert(pool.clone(), (None, until));
                self.calls.spawn(calls::claim(client, owner, pool.clone(), candidates.clone()));
            }
            (Action::Reclaim(_) | Action::Adopt(_) | Action::Claim { .. }, None) => {}
        }
        Ok(())
    }

    fn delete(&mut self, network: IpNetwork, until: Instant) {
        self.releasing.insert(network);
        self.busy.insert(network, until);
        let known = self.blocks.iter().flat_map(BTreeMap::values).find(|facts| facts.network == network);
        let uid = known.map(|facts| facts.uid.clone());
        self.calls.spawn(calls::delete(self.client.clone(), network, uid));
    }

    /// The pool whose range holds a block, whatever is wrong with the pool.
    fn pool_name(&self, network: IpNetwork) -> String {
        let holds = |facts: &PoolFacts| {
            facts.pool.range.as_ref().is_ok_and(|range| margay_ipam::holds(range.cidr(), network))
        };
        let found = self.pools.iter().flatten().find(|(_, facts)| holds(facts));
        found.map(|(name, _)| name.clone()).unwrap_or_default()
    }

    /// Writes on the objects of others that addresses of their blocks are held here, and that they no longer are.
    fn tell_conflicts(&mut self, conflicts: BTreeMap<IpNetwork, String>) {
        if conflicts == self.conflicts {
            return;
        }
        for (network, node) in &conflicts {
            if self.conflicts.get(network) == Some(node) {
                continue;
            }
            error!(
                block = %network,
                node,
                "pods here have addresses of a block that another node has; they lose their network: delete them"
            );
            let condition = json!([{
                "type": "Conflict", "status": "True", "reason": "AddressesInUse",
                "message": format!("pods of node {} still have addresses of this block; delete them", self.node),
                "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }]);
            self.calls.spawn(calls::set_conflict(self.client.clone(), *network, condition));
        }
        for network in self.conflicts.keys().filter(|network| !conflicts.contains_key(network)) {
            info!(block = %network, "no address is held any more of this block of another node");
            self.calls.spawn(calls::set_conflict(self.client.clone(), *network, json!([])));
        }
        self.conflicts = conflicts;
    }

    /// What the core and `margayctl` are told.
    fn publish(&mut self, pools: &BTreeMap<String, Pool>) {
        if std::mem::take(&mut self.holders_changed) {
            let holders = self.claimed.iter().map(|(network, claimed)| (*network, claimed.node.clone()));
            self.holders = Arc::new(holders.collect());
        }
        let traffic = self.traffic_of(pools);
        if *self.traffic != traffic {
            self.traffic = Arc::new(traffic);
        }
        let usable = usable(pools);
        let local = self.ours();
        let known = Known {
            node: &self.node,
            pools,
            blocks: &self.claimed,
            local: &local,
            full: &self.full,
            own: &BTreeSet::new(),
        };
        let mut claimed = ClaimedBlocks {
            blocks: local.keys().copied().collect(),
            holders: Arc::clone(&self.holders),
            traffic: Arc::clone(&self.traffic),
            conflicts: self.conflicts.clone(),
            ..ClaimedBlocks::default()
        };
        let automatic: Vec<_> = by_age(pools)
            .into_iter()
            .filter(|(_, pool)| pool.assignment == Assignment::Automatic)
            .filter_map(|(name, _)| Some((name, *usable.get(name)?)))
            .collect();
        if self.facts.node.is_none() {
            claimed.missing = Some(format!("ipam: there is no Node {} in the API", self.node));
        } else if automatic.is_empty() {
            claimed.missing = Some(format!("ipam: {}", no_pool(&known)));
        }
        for is_ipv4 in [true, false] {
            let of_family: Vec<_> =
                automatic.iter().filter(|(_, range)| range.cidr().is_ipv4() == is_ipv4).copied().collect();
            let blocks = local.iter().filter(|(network, local)| {
                let pool = pool_of(&usable, **network);
                local.active && of_family.iter().any(|(name, _)| pool == Some(*name))
            });
            let (count, free) =
                blocks.fold((0, 0), |(count, free), (_, local)| (count + 1, free + local.free));
            if of_family.is_empty() || free > 0 {
                continue;
            }
            let are_full = of_family.iter().all(|(name, _)| self.full.contains(*name));
            let why = if are_full {
                full(&known, &of_family)
            } else {
                let names: Vec<&str> = of_family.iter().map(|(name, _)| *name).collect();
                let error = self.last_error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
                format!("a block of pool {} is being claimed{error}", names.join(", "))
            };
            if count == 0 {
                claimed.missing = Some(format!("ipam: this node has no address block: {why}"));
            } else if are_full {
                claimed.full = Some(format!("ipam: {why}"));
            }
        }
        self.write_snapshot(pools, &claimed.blocks);
        self.fresh = Some(claimed);
    }

    /// How packets of the pods of each pool travel, whether it gives this node blocks or not.
    fn traffic_of(&self, pools: &BTreeMap<String, Pool>) -> BTreeMap<IpNetwork, PoolTraffic> {
        let open = |(name, pool): (&String, &Pool)| {
            (name.clone(), Pool { selects_node: true, supply: Supply::Open, ..pool.clone() })
        };
        let pools: BTreeMap<String, Pool> = pools.iter().map(open).collect();
        let ranges = usable(&pools).into_iter().filter_map(|(name, range)| {
            let facts = self.pools.as_ref()?.get(name)?;
            Some((range.cidr(), facts.traffic))
        });
        ranges.collect()
    }

    fn write_snapshot(&mut self, pools: &BTreeMap<String, Pool>, blocks: &[IpNetwork]) {
        let usable = usable(pools);
        let reports = self.reports.get_or_insert_with(|| report(pools, &self.claimed));
        let rows = by_age(pools).into_iter().filter_map(|(name, pool)| {
            let report = reports.get(name)?;
            let range = pool.range.as_ref().ok();
            let (state, message) = match &report.fault {
                Some(fault) => (fault.reason, fault.message.clone()),
                None if !pool.selects_node => {
                    ("NotSelected", "its nodeSelector does not choose this node".into())
                }
                None => ("Ready", String::new()),
            };
            Some(PoolRow {
                name: name.to_owned(),
                cidr: range.map(|range| range.cidr().to_string()).unwrap_or_default(),
                block_size: range.map_or(0, margay_ipam::Range::block_size),
                claimed_blocks: report.claimed,
                total_blocks: report.total,
                state: state.into(),
                message,
            })
        });
        let snapshot = Snapshot {
            pools: rows.collect(),
            blocks: blocks
                .iter()
                .map(|cidr| BlockRow { cidr: *cidr, pool: pool_of(&usable, *cidr).map(ToOwned::to_owned) })
                .collect(),
        };
        if self.snapshot.as_ref() == Some(&snapshot) {
            return;
        }
        match snapshot.write(&self.run_dir) {
            Ok(()) => self.snapshot = Some(snapshot),
            Err(error) => warn!(%error, "what margayctl shows of the pools cannot be written"),
        }
    }

    fn write_status(&mut self, pools: &BTreeMap<String, Pool>, now: Instant) {
        let reports = self.reports.get_or_insert_with(|| report(pools, &self.claimed));
        let Some(facts) = &self.pools else { return };
        let (due, next) = self.written.due(facts, reports, now, Timestamp::now());
        for (pool, status) in due {
            self.tell_fault(&pool, &status);
            self.calls.spawn(calls::set_pool_status(self.client.clone(), pool, json!(status)));
        }
        self.look_again = self.look_again.into_iter().chain(next).min();
    }

    /// Tells on the pool that nodes get no blocks of it, when that is news.
    fn tell_fault(&self, pool: &str, status: &IPPoolStatus) {
        let Some(facts) = self.pools.as_ref().and_then(|pools| pools.get(pool)) else { return };
        let ready = |status: &IPPoolStatus| status.conditions.iter().find(|it| it.type_ == "Ready").cloned();
        let Some(now) = ready(status).filter(|ready| ready.status != "True") else { return };
        if ready(&facts.status).is_some_and(|before| before.message == now.message) {
            return;
        }
        let report = self.reports.as_ref().and_then(|reports| reports.get(pool));
        if let Some(fault) = report.and_then(|report| report.fault.as_ref())
            // What a user has asked for is no news to him.
            && !matches!(fault.reason, "Disabled" | "Deleting")
        {
            let object = Object { uid: facts.uid.clone(), ..Object::of::<IPPool>(&ObjectMeta::default()) };
            let object = Object { name: pool.to_owned(), ..object };
            self.notices.of(object, Reason::warning(fault.reason), &now.message);
        }
    }
}
