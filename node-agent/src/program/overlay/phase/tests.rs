//! What is there and what is sent through while an encapsulation changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use margay_api::resource::Encapsulation;
use tokio::time::Instant;

use super::{PATIENCE, Phases, SPREAD};
use crate::decide::{Block, Kind, Paths, Tunnels};

const VXLAN: Encapsulation = Encapsulation::Vxlan;
const IPIP: Encapsulation = Encapsulation::Ipip;
const NONE: Encapsulation = Encapsulation::None;

fn kinds(words: &str) -> BTreeSet<Kind> {
    Kind::ALL.into_iter().filter(|kind| words.split(' ').any(|word| word == kind.word())).collect()
}

/// The other node says that it receives these and sends those.
fn says(received: &str, sent: &str) -> Tunnels {
    Tunnels { received: kinds(received), sent: kinds(sent) }
}

/// A node with another one, that says this.
fn paths(encapsulation: Encapsulation, said: impl Into<Option<Tunnels>>) -> Paths {
    let block = Block { node: "there".into(), encapsulation };
    Paths {
        name: "here".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        own: Vec::new(),
        nodes: BTreeMap::from([("there".into(), vec!["192.0.2.2".parse().unwrap()])]),
        blocks: BTreeMap::from([("10.0.2.0/24".parse().unwrap(), block)]),
        kinds: Kind::of(encapsulation).map(|kind| (kind, "a test".into())).into_iter().collect(),
        said: BTreeMap::from([("there".into(), said.into())]),
        had: BTreeSet::new(),
    }
}

/// Plans at points in time, and says which tunnels there are and how the other node is sent to.
struct World {
    phases: Phases,
    start: Instant,
    problems: Vec<String>,
    until: Option<Duration>,
}

impl World {
    fn new() -> Self {
        Self { phases: Phases::default(), start: Instant::now(), problems: Vec::new(), until: None }
    }

    /// Of an agent for which this was settled long ago.
    fn settled(encapsulation: Encapsulation, said: impl Into<Option<Tunnels>>) -> Self {
        let mut world = Self::new();
        world.plan(0, &paths(encapsulation, said));
        world
    }

    fn plan(&mut self, seconds: u64, wanted: &Paths) -> (String, Encapsulation) {
        let plan = self.phases.plan(&Arc::new(wanted.clone()), self.start + Duration::from_secs(seconds));
        self.problems = plan.problems;
        self.until = plan.until.map(|until| until - self.start);
        let there: Vec<&str> = plan.paths.kinds.keys().map(|kind| kind.word()).collect();
        (there.join(" "), plan.paths.blocks.values().next().map_or(NONE, |block| block.encapsulation))
    }

    #[track_caller]
    fn check(
        &mut self,
        seconds: u64,
        encapsulation: Encapsulation,
        said: impl Into<Option<Tunnels>>,
        expected: (&str, Encapsulation),
    ) {
        let (there, sent) = self.plan(seconds, &paths(encapsulation, said));
        assert_eq!((there.as_str(), sent), expected, "at {seconds} s");
    }
}

#[test]
fn nothing_is_sent_through_a_tunnel_before_the_other_node_says_that_it_has_it() {
    let mut world = World::settled(NONE, says("", ""));
    world.check(100, VXLAN, says("", ""), ("VXLAN", NONE));
    // However long the others take whose agents say nothing.
    world.check(130, VXLAN, says("", ""), ("VXLAN", NONE));
    world.check(131, VXLAN, says("VXLAN", ""), ("VXLAN", VXLAN));
    assert_eq!((world.until, world.problems.len()), (None, 0));
}

#[test]
fn a_tunnel_is_there_until_the_other_node_says_that_it_sends_no_more_through_it() {
    let mut world = World::settled(VXLAN, says("VXLAN", "VXLAN"));
    world.check(100, NONE, says("VXLAN", "VXLAN"), ("VXLAN", NONE));
    world.check(130, NONE, says("VXLAN", "VXLAN"), ("VXLAN", NONE));
    world.check(131, NONE, says("VXLAN", ""), ("", NONE));
    assert_eq!(world.until, None);
}

#[test]
fn from_one_kind_to_another_both_are_there_until_both_nodes_send_through_the_new_one() {
    let mut world = World::settled(VXLAN, says("VXLAN", "VXLAN"));
    world.check(100, IPIP, says("VXLAN", "VXLAN"), ("VXLAN IPIP", VXLAN));
    world.check(120, IPIP, says("VXLAN IPIP", "VXLAN"), ("VXLAN IPIP", IPIP));
    world.check(121, IPIP, says("VXLAN IPIP", "IPIP"), ("IPIP", IPIP));
    world.check(122, IPIP, says("IPIP", "IPIP"), ("IPIP", IPIP));
    assert_eq!(world.until, None);
}

#[test]
fn an_agent_that_starts_in_the_middle_keeps_what_the_one_before_it_had_and_sends_what_is_received() {
    let mut wanted = paths(IPIP, says("VXLAN", "VXLAN"));
    wanted.had = kinds("VXLAN IPIP");
    let mut world = World::new();
    assert_eq!(world.plan(0, &wanted), ("VXLAN IPIP".into(), VXLAN));
    wanted.said = BTreeMap::from([("there".into(), says("VXLAN IPIP", "VXLAN").into())]);
    assert_eq!(world.plan(1, &wanted), ("VXLAN IPIP".into(), IPIP));
    wanted.said = BTreeMap::from([("there".into(), says("VXLAN IPIP", "IPIP").into())]);
    assert_eq!(world.plan(2, &wanted), ("IPIP".into(), IPIP));
}

#[test]
fn who_is_waited_for_a_minute_is_named_and_waited_for_on() {
    let (patience, there) = (PATIENCE.as_secs(), says("", ""));
    let mut world = World::settled(NONE, there.clone());
    world.check(100, VXLAN, there.clone(), ("VXLAN", NONE));
    assert_eq!(world.until, Some(Duration::from_secs(100 + patience)));
    world.check(99 + patience, VXLAN, there.clone(), ("VXLAN", NONE));
    assert!(world.problems.is_empty());
    world.check(100 + patience, VXLAN, there, ("VXLAN", NONE));
    assert!(world.problems[0].starts_with("tunnels of VXLAN: node there has none"), "{:?}", world.problems);
    assert_eq!(world.until, None);

    let there = says("VXLAN", "VXLAN");
    let mut world = World::settled(VXLAN, there.clone());
    world.check(100, NONE, there.clone(), ("VXLAN", NONE));
    world.check(99 + patience, NONE, there.clone(), ("VXLAN", NONE));
    assert!(world.problems.is_empty());
    world.check(100 + patience, NONE, there.clone(), ("VXLAN", NONE));
    assert!(
        world.problems[0].starts_with("tunnels of VXLAN: node there sends through"),
        "{:?}",
        world.problems
    );
    world.check(999, NONE, says("", ""), ("", NONE));
}

#[test]
fn who_says_nothing_is_given_some_seconds() {
    let spread = SPREAD.as_secs();
    let mut world = World::settled(NONE, None);
    world.check(100, VXLAN, None, ("VXLAN", NONE));
    // Attempts in between neither prolong that nor end it.
    world.check(99 + spread, VXLAN, None, ("VXLAN", NONE));
    assert_eq!(world.until, Some(Duration::from_secs(100 + spread)));
    world.check(100 + spread, VXLAN, None, ("VXLAN", VXLAN));
    assert_eq!(world.until, None);
    world.check(200, NONE, None, ("VXLAN", NONE));
    world.check(199 + spread, NONE, None, ("VXLAN", NONE));
    world.check(200 + spread, NONE, None, ("", NONE));
}

#[test]
fn an_agent_that_starts_sends_at_once_to_who_says_nothing() {
    World::new().check(0, VXLAN, None, ("VXLAN", VXLAN));
}

#[test]
fn what_is_wanted_again_before_it_is_gone_never_was_away() {
    let mut world = World::settled(VXLAN, says("VXLAN", "VXLAN"));
    world.check(100, NONE, says("VXLAN", "VXLAN"), ("VXLAN", NONE));
    world.check(101, VXLAN, says("VXLAN", ""), ("VXLAN", VXLAN));
    world.check(102, VXLAN, says("VXLAN", "VXLAN"), ("VXLAN", VXLAN));
    assert_eq!(world.until, None);
}

#[test]
fn another_node_that_comes_meanwhile_is_waited_for_by_itself() {
    let mut world = World::settled(NONE, says("", ""));
    world.check(100, VXLAN, says("", ""), ("VXLAN", NONE));
    let mut wanted = paths(VXLAN, says("VXLAN", ""));
    wanted.said.insert("new".into(), None);
    wanted.nodes.insert("new".into(), vec!["192.0.2.3".parse().unwrap()]);
    let block = Block { node: "new".into(), encapsulation: VXLAN };
    wanted.blocks.insert("10.0.3.0/24".parse().unwrap(), block);
    let plan = world.phases.plan(&Arc::new(wanted.clone()), world.start + Duration::from_secs(101));
    let sent: Vec<Encapsulation> = plan.paths.blocks.values().map(|block| block.encapsulation).collect();
    assert_eq!(sent, [VXLAN, NONE]);
    let plan = world.phases.plan(&Arc::new(wanted), world.start + Duration::from_secs(105));
    assert!(plan.paths.blocks.values().all(|block| block.encapsulation == VXLAN));
}

#[test]
fn where_all_is_the_speakers_the_nodes_of_before_say_which_tunnels_there_were() {
    let mut world = World::settled(VXLAN, says("VXLAN", "VXLAN"));
    let mut wanted = paths(NONE, says("VXLAN", "VXLAN"));
    (wanted.nodes, wanted.blocks) = (BTreeMap::new(), BTreeMap::new());
    let plan = world.phases.plan(&Arc::new(wanted), world.start + Duration::from_secs(100));
    assert!(plan.paths.nodes.contains_key("there") && plan.paths.has_tunnels());
}
