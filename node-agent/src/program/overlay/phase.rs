//! How a node goes from no tunnels to tunnels, from one kind to another, or back, while the others do. Pure.
//!
//! When a kind of tunnel comes, every node has it before any sends through it; when one goes, none sends through it any more
//! before any takes it away; where one takes the place of another, these come one after the other.
//!
//! Nodes say how far they are (`margay.dev/tunnels-received`, `-sent`). That prolongs a phase, within bounds, and does no more: what a node
//! said that is gone, or has an older agent by now, keeps nobody from what is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    decide::Paths,
    tunnels::{Kind, Tunnels},
};

/// How long a phase takes at least: what a node says of itself is not of this very moment.
pub(super) const SPREAD: Duration = Duration::from_secs(5);
/// How long it takes at most: an agent may be on its way back.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// How far a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// An agent that starts knows of no change.
    #[default]
    Unknown,
    /// All nodes know which tunnels there are, with what was last wanted.
    Settled(Arc<Paths>),
    /// It is not certain that all do, since then.
    Changing { before: Arc<Paths>, since: Instant },
}

impl Phase {
    /// The one after it, when this is wanted now.
    pub(super) fn next(self, wanted: &Arc<Paths>, now: Instant) -> Self {
        match self {
            Self::Settled(before) if !same(&before.kinds, &wanted.kinds) => {
                Self::Changing { before, since: now }
            }
            Self::Changing { before, since } if !same(&before.kinds, &wanted.kinds) => {
                let (comes, goes) =
                    (!within(&wanted.kinds, &before.kinds), !within(&before.kinds, &wanted.kinds));
                let so_far = now.saturating_duration_since(since);
                if so_far < SPREAD || (so_far < PATIENCE && !behind(wanted, &before).is_empty()) {
                    return Self::Changing { before, since };
                }
                if !(comes && goes) {
                    return Self::Settled(Arc::clone(wanted));
                }
                // All have what is new; what was there before is used no more from here on.
                let mut both = Paths::clone(wanted);
                both.kinds.extend(before.kinds.clone());
                Self::Changing { before: Arc::new(both), since: now }
            }
            Self::Unknown | Self::Settled(_) | Self::Changing { .. } => Self::Settled(Arc::clone(wanted)),
        }
    }

    /// Whether it is on the way from one to another.
    pub(super) fn is_changing(&self) -> bool {
        matches!(self, Self::Changing { .. })
    }

    /// When it may end without anybody saying anything.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Unknown | Self::Settled(_) => None,
            Self::Changing { since, .. } => {
                let least = *since + SPREAD;
                Some(if now < least { least } else { *since + PATIENCE })
            }
        }
    }

    /// Who is waited for, once it is longer than it takes all to hear of a change.
    pub(super) fn waited_for<'a>(&self, wanted: &'a Paths, now: Instant) -> BTreeSet<&'a str> {
        match self {
            Self::Changing { before, since } if now >= *since + SPREAD => behind(wanted, before),
            Self::Unknown | Self::Settled(_) | Self::Changing { .. } => BTreeSet::new(),
        }
    }

    /// What is made of the wanted paths in it.
    pub(super) fn paths(&self, wanted: &Arc<Paths>) -> Arc<Paths> {
        match self {
            Self::Unknown | Self::Settled(_) => Arc::clone(wanted),
            Self::Changing { before, .. } => Arc::new(wanted.between(before)),
        }
    }
}

/// The nodes that do not have all tunnels that are wanted, where one comes, or still send through one that is not.
fn behind<'a>(wanted: &'a Paths, before: &Paths) -> BTreeSet<&'a str> {
    let comes = !within(&wanted.kinds, &before.kinds);
    // Others have no agent that would say anything.
    let with_pods: BTreeSet<&str> = wanted.blocks.values().map(|block| block.node.as_str()).collect();
    let has_all = |said: &Tunnels| wanted.kinds.keys().all(|kind| said.received.contains(kind));
    let is_behind = |(node, said): &(&String, &Option<Tunnels>)| match said {
        Some(said) if comes => with_pods.contains(node.as_str()) && !has_all(said),
        None if comes => with_pods.contains(node.as_str()),
        Some(said) => said.sent.iter().any(|kind| !wanted.kinds.contains_key(kind)),
        None => false,
    };
    wanted.said.iter().filter(is_behind).map(|(node, _)| node.as_str()).collect()
}

fn within(some: &BTreeMap<Kind, String>, all: &BTreeMap<Kind, String>) -> bool {
    some.keys().all(|kind| all.contains_key(kind))
}

fn same(one: &BTreeMap<Kind, String>, other: &BTreeMap<Kind, String>) -> bool {
    within(one, other) && within(other, one)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use margay_api::resource::Encapsulation;
    use tokio::time::Instant;

    use super::Phase;
    use crate::{
        decide::{Block, Paths},
        tunnels::{Kind, Tunnels},
    };

    /// A node with another one, of this name.
    fn paths(has_tunnels: bool, other: &str) -> Arc<Paths> {
        paths_of(if has_tunnels { Encapsulation::Vxlan } else { Encapsulation::None }, other)
    }

    fn paths_of(encapsulation: Encapsulation, other: &str) -> Arc<Paths> {
        let block = Block { node: other.into(), encapsulation };
        Arc::new(Paths {
            name: "here".into(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            own: Vec::new(),
            nodes: BTreeMap::from([(other.to_owned(), vec!["192.0.2.2".parse().unwrap()])]),
            blocks: BTreeMap::from([("10.0.2.0/24".parse().unwrap(), block)]),
            kinds: Kind::of(encapsulation).map(|kind| (kind, "a test".into())).into_iter().collect(),
            said: BTreeMap::new(),
        })
    }

    /// Whether there are devices in a phase, and whether anything is sent through them.
    fn seen(phase: &Phase, wanted: &Arc<Paths>) -> [bool; 2] {
        let paths = phase.paths(wanted);
        let sends = paths.blocks.values().any(|block| block.encapsulation != Encapsulation::None);
        [paths.has_tunnels(), sends]
    }

    /// Goes through what is wanted at these seconds, an attempt at each, and looks what is there after it.
    fn check(steps: &[(u64, &Arc<Paths>, [bool; 2])]) {
        let start = Instant::now();
        let mut phase = Phase::default();
        for (seconds, wanted, expected) in steps {
            phase = phase.next(wanted, start + Duration::from_secs(*seconds));
            assert_eq!(seen(&phase, wanted), *expected, "at {seconds} s: {phase:?}");
        }
    }

    const NONE: [bool; 2] = [false, false];
    const BETWEEN: [bool; 2] = [true, false];
    const TUNNELS: [bool; 2] = [true, true];

    #[test]
    fn tunnels_are_there_before_and_after_anything_is_sent_through_them() {
        let (none, tunnels) = (paths(false, "n2"), paths(true, "n2"));
        check(&[(0, &none, NONE), (9, &tunnels, BETWEEN), (13, &tunnels, BETWEEN), (14, &tunnels, TUNNELS)]);
        check(&[(0, &tunnels, TUNNELS), (9, &none, BETWEEN), (13, &none, BETWEEN), (14, &none, NONE)]);
    }

    #[test]
    fn a_phase_ends_in_time_and_for_good_however_many_attempts_fail() {
        let (none, tunnels) = (paths(false, "n2"), paths(true, "n2"));
        let begin = [(0, &none, NONE)];
        let attempts = (1..40).map(|at| (at, &tunnels, if at < 6 { BETWEEN } else { TUNNELS }));
        check(&begin.into_iter().chain(attempts).collect::<Vec<_>>());
    }

    #[test]
    fn what_else_changes_meanwhile_neither_prolongs_a_phase_nor_is_held_up_by_it() {
        let (none, tunnels, more) = (paths(false, "n2"), paths(true, "n2"), paths(true, "n3"));
        check(&[(0, &none, NONE), (1, &tunnels, BETWEEN), (5, &more, BETWEEN), (6, &more, TUNNELS)]);
        let changing = Phase::default().next(&none, Instant::now()).next(&more, Instant::now());
        assert!(changing.paths(&more).nodes.contains_key("n3"));
    }

    #[test]
    fn a_kind_that_takes_the_place_of_another_is_received_first_and_then_sent_and_the_other_goes_last() {
        let (vxlan, ipip) = (paths_of(Encapsulation::Vxlan, "n2"), paths_of(Encapsulation::Ipip, "n2"));
        let both = [Kind::Vxlan, Kind::Ipip];
        let start = Instant::now();
        let mut phase = Phase::default().next(&vxlan, start);
        for (seconds, kinds, sends) in [
            (10, &both[..], Kind::Vxlan),
            (14, &both, Kind::Vxlan),
            (15, &both, Kind::Ipip),
            (19, &both, Kind::Ipip),
            (20, &both[1..], Kind::Ipip),
        ] {
            phase = phase.next(&ipip, start + Duration::from_secs(seconds));
            let paths = phase.paths(&ipip);
            assert_eq!(paths.kinds.keys().copied().collect::<Vec<_>>(), kinds, "at {seconds} s");
            let sent = paths.blocks.values().map(|block| Kind::of(block.encapsulation));
            assert_eq!(sent.collect::<Vec<_>>(), [Some(sends)], "at {seconds} s");
        }
        assert_eq!(phase.until(Instant::now()), None);
    }

    /// The same, with what the other node says that it receives and sends.
    fn said(paths: &Arc<Paths>, received: &str, sent: &str) -> Arc<Paths> {
        let mut paths = Paths::clone(paths);
        let said = Tunnels::read([Some(received), Some(sent)]);
        paths.said = BTreeMap::from([("n2".to_owned(), said)]);
        Arc::new(paths)
    }

    #[test]
    fn a_node_that_says_that_it_has_no_tunnel_yet_is_waited_for_a_minute_at_most() {
        let (none, tunnels) = (paths(false, "n2"), paths(true, "n2"));
        let (without, with) = (said(&tunnels, "", ""), said(&tunnels, "VXLAN", ""));
        check(&[(0, &none, NONE), (9, &without, BETWEEN), (30, &without, BETWEEN), (31, &with, TUNNELS)]);
        check(&[(0, &none, NONE), (9, &with, BETWEEN), (13, &with, BETWEEN), (14, &with, TUNNELS)]);
        check(&[(0, &none, NONE), (9, &without, BETWEEN), (68, &without, BETWEEN), (69, &without, TUNNELS)]);
        // Nor is one that says nothing taken for one that has.
        let mut silent = Paths::clone(&tunnels);
        silent.said = BTreeMap::from([("n2".to_owned(), None), ("without pods".to_owned(), None)]);
        let silent = Arc::new(silent);
        check(&[(0, &none, NONE), (9, &silent, BETWEEN), (68, &silent, BETWEEN), (69, &silent, TUNNELS)]);
    }

    #[test]
    fn a_node_that_says_that_it_still_sends_is_waited_for_a_minute_at_most() {
        let (none, tunnels) = (paths(false, "n2"), paths(true, "n2"));
        let (sends, sends_not) = (said(&none, "VXLAN", "VXLAN"), said(&none, "VXLAN", ""));
        let begin = (0, &tunnels, TUNNELS);
        check(&[begin, (9, &sends, BETWEEN), (30, &sends, BETWEEN), (31, &sends_not, NONE)]);
        check(&[begin, (9, &sends_not, BETWEEN), (13, &sends_not, BETWEEN), (14, &sends_not, NONE)]);
        check(&[begin, (9, &sends, BETWEEN), (68, &sends, BETWEEN), (69, &sends, NONE)]);
    }

    #[test]
    fn pods_that_are_made_while_others_may_send_through_a_tunnel_have_room_for_it() {
        use Encapsulation::{Ipip, None, Vxlan};
        let check = |from, to, expected: &[(u64, u32)]| {
            let (from, to) = (paths_of(from, "n2"), paths_of(to, "n2"));
            let start = Instant::now();
            let mut phase = Phase::default().next(&from, start);
            for (seconds, octets) in expected {
                phase = phase.next(&to, start + Duration::from_secs(*seconds));
                assert_eq!(phase.paths(&to).overhead(), *octets, "at {seconds} s: {phase:?}");
            }
        };
        check(None, Vxlan, &[(9, 50), (13, 50), (14, 50)]);
        check(Vxlan, None, &[(9, 50), (13, 50), (14, 0)]);
        check(Vxlan, Ipip, &[(9, 50), (14, 50), (18, 50), (19, 20)]);
        check(Ipip, Vxlan, &[(9, 50), (14, 50), (19, 50)]);
    }

    #[test]
    fn what_a_node_said_long_ago_changes_nothing_while_nothing_changes() {
        let tunnels = paths(true, "n2");
        check(&[(0, &said(&tunnels, "", ""), TUNNELS), (99, &said(&tunnels, "", "VXLAN"), TUNNELS)]);
    }

    #[test]
    fn who_is_waited_for_is_known_once_it_is_longer_than_usual() {
        let (none, tunnels) = (paths(false, "n2"), said(&paths(true, "n2"), "", ""));
        let start = Instant::now();
        let phase = Phase::default().next(&none, start).next(&tunnels, start);
        assert!(phase.waited_for(&tunnels, start).is_empty());
        let later = start + Duration::from_secs(6);
        assert_eq!(phase.waited_for(&tunnels, later), ["n2"].into());
        assert_eq!(phase.until(later), Some(start + Duration::from_mins(1)));
    }

    #[test]
    fn an_agent_that_starts_and_one_that_goes_back_have_nothing_to_wait_for() {
        let (none, tunnels) = (paths(false, "n2"), paths(true, "n2"));
        check(&[(0, &tunnels, TUNNELS)]);
        check(&[(0, &none, NONE), (1, &tunnels, BETWEEN), (2, &none, NONE), (3, &tunnels, BETWEEN)]);
    }
}
