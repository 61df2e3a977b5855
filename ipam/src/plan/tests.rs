//! Nodes that carry out plans on views that lag, against one API: what must never happen, and where it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::{Action, Claimed, Input, Local, Plan, plan, pool_of, usable};
use crate::{Assignment, Pool, Range, Supply, overlap, pool::tests::pool};

const GIVE_BACK: Duration = Duration::from_mins(1);
const NODES: [&str; 3] = ["n1", "n2", "n3"];

type Blocks = BTreeMap<IpNetwork, Claimed>;

/// The API server: what was there after each change.
#[derive(Default)]
struct Api {
    pools: Vec<BTreeMap<String, (Pool, BTreeSet<usize>)>>,
    blocks: Vec<Blocks>,
}

impl Api {
    fn now(&self) -> Blocks {
        self.blocks.last().cloned().unwrap_or_default()
    }

    fn change(&mut self, change: impl FnOnce(&mut Blocks)) {
        let mut blocks = self.now();
        change(&mut blocks);
        self.blocks.push(blocks);
    }

    /// Who has it, when it cannot be made.
    fn create(&mut self, block: IpNetwork, node: &str) -> Result<(), String> {
        if let Some(claimed) = self.now().get(&block) {
            return Err(claimed.node.clone());
        }
        let claimed = Claimed { node: node.into(), owner: Some(node.into()) };
        self.change(|blocks| drop(blocks.insert(block, claimed)));
        Ok(())
    }
}

/// An agent: how much of the API it has seen, what is on its disk, and what only its memory holds.
#[derive(Default)]
struct Node {
    number: usize,
    seen_pools: usize,
    seen_blocks: usize,
    local: BTreeMap<IpNetwork, Local>,
    taken: BTreeMap<IpNetwork, String>,
    busy: BTreeSet<IpNetwork>,
    claiming: BTreeMap<String, IpNetwork>,
    releasing: BTreeSet<IpNetwork>,
}

impl Node {
    fn name(&self) -> &'static str {
        NODES[self.number]
    }

    fn view(&self, api: &Api) -> Blocks {
        api.blocks.get(self.seen_blocks).cloned().unwrap_or_default()
    }

    fn pools(&self, api: &Api) -> BTreeMap<String, Pool> {
        let pools = api.pools.get(self.seen_pools).cloned().unwrap_or_default();
        let chosen = |(name, (pool, nodes)): (String, (Pool, BTreeSet<usize>))| {
            (name, Pool { selects_node: nodes.contains(&self.number), ..pool })
        };
        pools.into_iter().map(chosen).collect()
    }

    fn see(&mut self, api: &Api, steps: usize) {
        for _ in 0..steps {
            if self.seen_blocks + 1 >= api.blocks.len() {
                break;
            }
            self.seen_blocks += 1;
            let view = self.view(api);
            self.busy.retain(|block| !view.contains_key(block));
            self.claiming.retain(|_, block| !view.contains_key(block));
            self.releasing.retain(|block| view.contains_key(block));
            self.taken.clear();
        }
    }

    fn restart(&mut self, api: &Api) {
        self.seen_pools = api.pools.len().saturating_sub(1);
        self.seen_blocks = api.blocks.len().saturating_sub(1);
        self.taken.clear();
        self.busy.clear();
        self.claiming.clear();
        self.releasing.clear();
    }

    fn plan(&self, api: &Api) -> Plan {
        plan(&Input {
            node: self.name(),
            node_uid: Some(self.name()),
            pools: &self.pools(api),
            blocks: &self.view(api),
            taken: &self.taken,
            local: &self.local,
            busy: &self.busy,
            claiming: &self.claiming.keys().cloned().collect(),
            releasing: &self.releasing,
            demanded: &BTreeSet::new(),
            requested: &BTreeSet::new(),
            give_back_after: GIVE_BACK,
        })
    }

    /// Carries out a plan as the driver does; false when there was nothing to do.
    fn act(&mut self, api: &mut Api) -> bool {
        let actions = self.plan(api).actions;
        for action in &actions {
            match action {
                Action::Activate(block) => {
                    let size = block.size();
                    let fresh =
                        Local { active: true, held: 0, free: addresses(size), empty_for: Duration::ZERO };
                    self.local.entry(*block).or_insert(fresh).active = true;
                }
                Action::Retire(block) => {
                    let local = self.local.get_mut(block).unwrap();
                    local.active = false;
                    if local.held == 0 {
                        self.local.remove(block);
                    }
                }
                Action::Reclaim(block) => {
                    if let Err(node) = api.create(*block, self.name()) {
                        self.taken.insert(*block, node);
                    }
                }
                Action::Adopt(_) => unreachable!("no node is made again here"),
                Action::Release(block) => {
                    let local = self.local.remove(block).unwrap();
                    assert_eq!(local.held, 0, "{block} was given back with addresses");
                    self.delete(api, *block);
                }
                Action::Delete(block) => {
                    assert!(!self.local.contains_key(block));
                    self.delete(api, *block);
                }
                Action::Claim { pool, candidates } => {
                    let pools = self.pools(api);
                    assert!(usable(&pools).contains_key(pool.as_str()), "{pool} is not for {}", self.name());
                    for block in candidates {
                        match api.create(*block, self.name()) {
                            Ok(()) => {
                                self.busy.insert(*block);
                                self.claiming.insert(pool.clone(), *block);
                                break;
                            }
                            Err(node) => drop(self.taken.insert(*block, node)),
                        }
                    }
                }
            }
        }
        !actions.is_empty()
    }

    fn delete(&mut self, api: &mut Api, block: IpNetwork) {
        self.releasing.insert(block);
        if api.now().get(&block).is_some_and(|claimed| claimed.node == self.name()) {
            api.change(|blocks| drop(blocks.remove(&block)));
        }
    }

    /// A pod comes: it gets an address of a block that the agent would name.
    fn add(&mut self, api: &Api) {
        let (pools, view) = (self.pools(api), self.view(api));
        let usable = usable(&pools);
        let from = self.local.iter_mut().find(|(block, local)| {
            let ours = view.get(*block).is_some_and(|claimed| claimed.node == NODES[self.number]);
            ours && local.active && local.free > 0 && pool_of(&usable, **block).is_some()
        });
        if let Some((_, local)) = from {
            local.held += 1;
            local.free -= 1;
            local.empty_for = Duration::ZERO;
        }
    }

    fn del(&mut self, which: usize) {
        let held: Vec<IpNetwork> =
            self.local.iter().filter(|(_, local)| local.held > 0).map(|(block, _)| *block).collect();
        let Some(block) = held.get(which % held.len().max(1)) else { return };
        let local = self.local.get_mut(block).unwrap();
        local.held -= 1;
        local.free += 1;
        if local.held == 0 && !local.active {
            self.local.remove(block);
        }
    }

    fn wait(&mut self) {
        for local in self.local.values_mut().filter(|local| local.held == 0) {
            local.empty_for = GIVE_BACK;
        }
    }
}

fn addresses(size: ipnetwork::NetworkSize) -> u64 {
    match size {
        ipnetwork::NetworkSize::V4(n) => u64::from(n) - 2,
        ipnetwork::NetworkSize::V6(n) => u64::try_from(n).unwrap() - 1,
    }
}

#[derive(Debug, Clone)]
enum Step {
    SetPool { name: usize, variant: usize, size: u8, nodes: Vec<usize>, supply: Supply },
    RemovePool(usize),
    SeePools(usize),
    See(usize, usize),
    Act(usize),
    Add(usize, usize),
    Del(usize, usize),
    Wait(usize),
    Restart(usize),
}

const POOLS: [&str; 3] = ["a", "b", "c"];
const VARIANTS: [&str; 4] = ["10.0.0.0/27", "10.0.0.0/26", "10.0.0.64/28", "2001:db8::/123"];

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES.len();
    let nodes = prop::sample::subsequence(vec![0, 1, 2], 0..=3);
    let supply = prop_oneof![4 => Just(Supply::Open), 1 => Just(Supply::Disabled)];
    let pool = (0..POOLS.len(), 0..VARIANTS.len(), 0_u8..3, nodes, supply).prop_map(
        |(name, variant, size, nodes, supply)| Step::SetPool { name, variant, size, nodes, supply },
    );
    prop_oneof![
        2 => pool,
        1 => (0..POOLS.len()).prop_map(Step::RemovePool),
        2 => node().prop_map(Step::SeePools),
        6 => (node(), 1_usize..4).prop_map(|(node, steps)| Step::See(node, steps)),
        6 => node().prop_map(Step::Act),
        4 => (node(), 1_usize..6).prop_map(|(node, count)| Step::Add(node, count)),
        3 => (node(), 0_usize..8).prop_map(|(node, which)| Step::Del(node, which)),
        2 => node().prop_map(Step::Wait),
        1 => node().prop_map(Step::Restart),
    ]
}

fn no_address_is_on_two_nodes(nodes: &[Node]) -> Result<(), TestCaseError> {
    for (index, node) in nodes.iter().enumerate() {
        for other in &nodes[index + 1..] {
            for (a, b) in node.local.keys().flat_map(|a| other.local.keys().map(move |b| (a, b))) {
                prop_assert!(!overlap(*a, *b), "{a} on {} and {b} on {}", node.name(), other.name());
            }
        }
    }
    Ok(())
}

/// All see everything and act until nobody has anything to do.
fn settle(nodes: &mut [Node], api: &mut Api) -> Result<(), TestCaseError> {
    for _ in 0..200 {
        let mut acted = false;
        for node in &mut *nodes {
            node.seen_pools = api.pools.len().saturating_sub(1);
            node.see(api, api.blocks.len());
            node.wait();
            acted |= node.act(api);
        }
        no_address_is_on_two_nodes(nodes)?;
        if !acted {
            return Ok(());
        }
    }
    Err(TestCaseError::fail("it never ends"))
}

fn all_is_as_it_must_be(nodes: &[Node], api: &Api) -> Result<(), TestCaseError> {
    let now = api.now();
    for (block, claimed) in &now {
        let node = nodes.iter().find(|node| node.name() == claimed.node).unwrap();
        prop_assert!(node.local.contains_key(block), "{block} is claimed by {} and not used", claimed.node);
    }
    for node in nodes {
        let (pools, plan) = (node.pools(api), node.plan(api));
        let usable = usable(&pools);
        prop_assert!(plan.conflicts.is_empty());
        for (block, local) in &node.local {
            prop_assert_eq!(&now[block].node, node.name());
            prop_assert_eq!(local.active, pool_of(&usable, *block).is_some(), "{}", block);
            prop_assert!(local.active || local.held > 0, "{} is kept for nothing", block);
        }
        for name in usable.keys() {
            let of_pool = || node.local.iter().filter(|(block, _)| pool_of(&usable, **block) == Some(name));
            let (held, free) = of_pool().fold((0, 0), |(h, f), (_, local)| (h + local.held, f + local.free));
            let is_enough = of_pool().count() > 0 && held * 100 < (held + free) * super::CLAIM_AHEAD_PERCENT;
            prop_assert!(is_enough || plan.full.contains(*name), "{} has too little of {name}", node.name());
            let empty = of_pool().filter(|(_, local)| local.held == 0).count();
            prop_assert!(empty <= 2, "{} keeps {empty} empty blocks of {name}", node.name());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_address_is_on_two_nodes_and_all_come_to_rest(steps in prop::collection::vec(step(), 1..120)) {
        let mut api = Api::default();
        api.pools.push(BTreeMap::new());
        api.blocks.push(Blocks::new());
        let mut nodes: Vec<Node> = (0..NODES.len()).map(|number| Node { number, ..Node::default() }).collect();
        for (time, step) in steps.into_iter().enumerate() {
            match step {
                Step::SetPool { name, variant, size, nodes, supply } => {
                    let mut pools = api.pools.last().unwrap().clone();
                    let least = if variant == 3 { 125 } else { 28 };
                    let created = pools.get(POOLS[name]).map_or(i64::try_from(time).unwrap(), |(pool, _)| pool.created);
                    let pool = Pool { supply, ..pool(created, VARIANTS[variant], Some(least + size)) };
                    pools.insert(POOLS[name].into(), (pool, nodes.into_iter().collect()));
                    api.pools.push(pools);
                }
                Step::RemovePool(name) => {
                    let mut pools = api.pools.last().unwrap().clone();
                    pools.remove(POOLS[name]);
                    api.pools.push(pools);
                }
                Step::SeePools(node) => nodes[node].seen_pools = api.pools.len() - 1,
                Step::See(node, steps) => nodes[node].see(&api, steps),
                Step::Act(node) => drop(nodes[node].act(&mut api)),
                Step::Add(node, count) => (0..count).for_each(|_| nodes[node].add(&api)),
                Step::Del(node, which) => nodes[node].del(which),
                Step::Wait(node) => nodes[node].wait(),
                Step::Restart(node) => nodes[node].restart(&api),
            }
            no_address_is_on_two_nodes(&nodes)?;
        }
        settle(&mut nodes, &mut api)?;
        all_is_as_it_must_be(&nodes, &api)?;
    }
}

/// A state on one node, `n1`.
struct State {
    pools: BTreeMap<String, Pool>,
    blocks: Blocks,
    local: BTreeMap<IpNetwork, Local>,
    demanded: BTreeSet<String>,
    requested: BTreeSet<(String, IpAddr)>,
}

impl State {
    fn new(blocks: &[(&str, &str)], local: &[(&str, u64, u64)]) -> Self {
        let claimed = |node: &str| Claimed { node: node.into(), owner: Some(format!("uid-{node}")) };
        let in_use = |(block, held, free): &(&str, u64, u64)| {
            (block.parse().unwrap(), Local { active: true, held: *held, free: *free, empty_for: GIVE_BACK })
        };
        Self {
            pools: [("a".to_owned(), pool(1, "10.0.0.0/24", Some(26)))].into(),
            blocks: blocks.iter().map(|(block, node)| (block.parse().unwrap(), claimed(node))).collect(),
            local: local.iter().map(in_use).collect(),
            demanded: BTreeSet::new(),
            requested: BTreeSet::new(),
        }
    }

    fn plan(&self) -> Plan {
        plan(&Input {
            node: "n1",
            node_uid: Some("uid-n1"),
            pools: &self.pools,
            blocks: &self.blocks,
            taken: &BTreeMap::new(),
            local: &self.local,
            busy: &BTreeSet::new(),
            claiming: &BTreeSet::new(),
            releasing: &BTreeSet::new(),
            demanded: &self.demanded,
            requested: &self.requested,
            give_back_after: GIVE_BACK,
        })
    }
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// The steps, with a claim reduced to its pool and its number of candidates.
fn steps(state: &State) -> Vec<String> {
    let text = |action: &Action| match action {
        Action::Claim { pool, candidates } => format!("Claim {pool} of {}", candidates.len()),
        other => format!("{other:?}")
            .replace("V4(Ipv4Network { addr: ", "")
            .replace(", prefix: ", "/")
            .replace(" }))", ")"),
    };
    state.plan().actions.iter().map(text).collect()
}

#[test]
fn a_node_claims_its_first_block_and_the_next_at_three_quarters_and_gives_back_below_half() {
    let two = [("10.0.0.0/26", "n1"), ("10.0.0.64/26", "n1")];
    for (blocks, local, expected) in [
        (&two[..0], &[][..], &["Claim a of 4"][..]),
        (&two[..1], &[("10.0.0.0/26", 46, 16)], &[]),
        (&two[..1], &[("10.0.0.0/26", 47, 15)], &["Claim a of 3"]),
        (&two, &[("10.0.0.0/26", 31, 31), ("10.0.0.64/26", 0, 62)], &[]),
        (&two, &[("10.0.0.0/26", 30, 32), ("10.0.0.64/26", 0, 62)], &["Release(10.0.0.64/26)"]),
        // The last one stays: the pool is automatic.
        (&two[..1], &[("10.0.0.0/26", 0, 62)], &[]),
        // Of two empty ones, one stays.
        (&two, &[("10.0.0.0/26", 0, 62), ("10.0.0.64/26", 0, 62)], &["Release(10.0.0.0/26)"]),
    ] {
        assert_eq!(steps(&State::new(blocks, local)), expected, "{local:?}");
    }
}

#[test]
fn a_block_whose_object_or_file_is_missing_is_made_whole_or_goes() {
    for (blocks, local, expected) in [
        (&[("10.0.0.0/26", "n1")][..], &[][..], &["Activate(10.0.0.0/26)"][..]),
        (&[], &[("10.0.0.0/26", 1, 61)], &["Reclaim(10.0.0.0/26)"]),
        (&[], &[("10.0.0.0/26", 0, 62)], &["Retire(10.0.0.0/26)", "Claim a of 4"]),
        (&[("10.1.0.0/26", "n1")], &[], &["Delete(10.1.0.0/26)", "Claim a of 4"]),
        (&[("10.1.0.0/26", "n1")], &[("10.1.0.0/26", 1, 61)], &["Retire(10.1.0.0/26)", "Claim a of 4"]),
        // Of another size, made at the same time: neither is used.
        (&[("10.0.0.0/26", "n1"), ("10.0.0.0/25", "n2")], &[], &["Delete(10.0.0.0/26)", "Claim a of 2"]),
    ] {
        assert_eq!(steps(&State::new(blocks, local)), expected, "{blocks:?} {local:?}");
    }
}

#[test]
fn addresses_in_a_block_that_another_node_got_are_a_conflict_and_no_more_are_taken() {
    let state = State::new(&[("10.0.0.0/26", "n2")], &[("10.0.0.0/26", 3, 59)]);
    assert_eq!(steps(&state), ["Retire(10.0.0.0/26)", "Claim a of 3"]);
    assert_eq!(state.plan().conflicts, BTreeMap::from([(net("10.0.0.0/26"), "n2".to_owned())]));
}

#[test]
fn a_node_made_again_becomes_the_owner_of_its_blocks() {
    let mut state = State::new(&[("10.0.0.0/26", "n1")], &[("10.0.0.0/26", 3, 59)]);
    state.blocks.get_mut(&net("10.0.0.0/26")).unwrap().owner = Some("uid of before".into());
    assert_eq!(steps(&state), ["Adopt(10.0.0.0/26)"]);
}

#[test]
fn a_manual_pool_is_claimed_for_a_pod_that_waits_and_given_back_whole() {
    let mut state = State::new(&[], &[]);
    state.pools.get_mut("a").unwrap().assignment = Assignment::Manual;
    assert_eq!(steps(&state), [""; 0]);
    state.demanded.insert("a".into());
    assert_eq!(steps(&state), ["Claim a of 4"]);
    let mut state = State::new(&[("10.0.0.0/26", "n1")], &[("10.0.0.0/26", 0, 62)]);
    state.pools.get_mut("a").unwrap().assignment = Assignment::Manual;
    assert_eq!(steps(&state), ["Release(10.0.0.0/26)"]);
}

#[test]
fn the_block_of_a_requested_address_is_claimed_if_nobody_has_it() {
    let mut state = State::new(&[("10.0.0.0/26", "n1")], &[("10.0.0.0/26", 0, 62)]);
    state.requested.insert(("a".into(), "10.0.0.77".parse().unwrap()));
    let claim = Action::Claim { pool: "a".into(), candidates: vec![net("10.0.0.64/26")] };
    assert_eq!(state.plan().actions, [claim]);
    state.blocks.insert(net("10.0.0.64/26"), Claimed { node: "n2".into(), owner: None });
    assert_eq!(state.plan().actions, []);
}

#[test]
fn a_pool_without_a_block_left_is_full_and_reserved_blocks_are_not_claimed() {
    let others = [("10.0.0.0/26", "n2"), ("10.0.0.64/26", "n2"), ("10.0.0.128/26", "n2")];
    let mut state = State::new(&others, &[]);
    assert_eq!(steps(&state), ["Claim a of 1"]);
    let reserved = ["10.0.0.192/26".to_owned()];
    state.pools.get_mut("a").unwrap().range = Range::new("10.0.0.0/24", Some(26), &reserved);
    assert_eq!(steps(&state), [""; 0]);
    assert_eq!(state.plan().full, BTreeSet::from(["a".to_owned()]));
}

#[test]
fn nodes_begin_their_search_at_different_places() {
    let first = |node: &str| {
        let pools = [("a".to_owned(), pool(1, "10.0.0.0/8", None))].into();
        let (none, blocks) = (BTreeSet::new(), BTreeMap::new());
        let input = Input {
            node,
            node_uid: Some("uid"),
            pools: &pools,
            blocks: &blocks,
            taken: &BTreeMap::new(),
            local: &BTreeMap::new(),
            busy: &BTreeSet::new(),
            claiming: &none,
            releasing: &BTreeSet::new(),
            demanded: &none,
            requested: &BTreeSet::new(),
            give_back_after: GIVE_BACK,
        };
        match plan(&input).actions.pop() {
            Some(Action::Claim { candidates, .. }) => candidates[0],
            other => panic!("{other:?}"),
        }
    };
    let places: BTreeSet<IpNetwork> = (0..100).map(|number| first(&format!("node-{number}"))).collect();
    assert!(places.len() > 95, "{}", places.len());
    assert_eq!(first("node-1"), first("node-1"));
}
