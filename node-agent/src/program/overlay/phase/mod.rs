//! How a node goes from no tunnels to tunnels, from one kind to another, or back, while the others do. Pure.
//!
//! Every node says which kinds of tunnels it has and which it sends through (`margay.dev/tunnels-received`, `-sent`). Nothing is sent
//! to a node through a tunnel before it says that it has one, and a tunnel is there for as long as somebody says
//! that he sends through it. Nodes that say nothing have an older agent, or one that has just begun: they are given some seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ipnetwork::IpNetwork;
use margay_api::{
    annotation::{TUNNELS_RECEIVED, TUNNELS_SENT},
    resource::Encapsulation,
};
use tokio::time::Instant;

use crate::decide::{Kind, Paths, Tunnels};

/// How long after a pool's encapsulation has changed those have heard of it who say nothing. Watches tell within milliseconds; this
/// is for an API server that has much to do.
pub(super) const SPREAD: Duration = Duration::from_secs(5);
/// After how long it is told who is waited for that says that it is not so far. An agent may be on its way back.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// What is made of the wanted paths at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) paths: Arc<Paths>,
    /// Who is waited for, and has been for long.
    pub(super) problems: Vec<String>,
    /// When there is another without anybody saying anything.
    pub(super) until: Option<Instant>,
}

/// How far a node is.
#[derive(Debug, Default)]
pub(super) struct Phases {
    /// What was planned last. An agent that starts knows of no change.
    planned: Option<Arc<Paths>>,
    /// Since when kinds are wanted that were not.
    begun: BTreeMap<Kind, Instant>,
    /// Since when kinds that are there are not wanted any more.
    ended: BTreeMap<Kind, Instant>,
    /// Since when a node that has no tunnel of a kind is to be sent to through one.
    late: BTreeMap<(String, Kind), Instant>,
}

impl Phases {
    /// The next, when this is wanted now.
    pub(super) fn plan(&mut self, wanted: &Arc<Paths>, now: Instant) -> Plan {
        let before = self.planned.take().unwrap_or_else(|| Arc::new(found(wanted)));
        for kind in wanted.kinds.keys().filter(|kind| !before.kinds.contains_key(kind)) {
            self.begun.insert(*kind, now);
        }
        self.begun.retain(|kind, _| wanted.kinds.contains_key(kind));
        for kind in before.kinds.keys() {
            self.ended.entry(*kind).or_insert(now);
        }
        self.ended.retain(|kind, _| before.kinds.contains_key(kind) && !wanted.kinds.contains_key(kind));

        let mut waits = Waits { now, until: None };
        let mut paths = Paths::clone(wanted);
        let mut problems = self.hold_back(&mut paths, &before, &mut waits);
        let used: BTreeSet<Kind> =
            paths.blocks.values().filter_map(|block| Kind::of(block.encapsulation)).collect();
        for (kind, since) in &self.ended {
            let mut is_used = used.contains(kind);
            for (node, said) in &wanted.said {
                match said {
                    None => is_used |= waits.is_before(*since + SPREAD),
                    Some(said) if said.sent.contains(kind) => {
                        is_used = true;
                        if !waits.is_before(*since + PATIENCE) {
                            problems.push(told(node, "sends through", *kind, TUNNELS_SENT, "kept for it"));
                        }
                    }
                    Some(_) => {}
                }
            }
            if is_used && let Some(who) = before.kinds.get(kind) {
                paths.kinds.insert(*kind, who.clone());
            }
        }
        // Where all is the speaker's, the nodes do not matter, but they say which tunnels there were.
        if paths.nodes.is_empty() && !paths.kinds.is_empty() {
            paths.nodes.clone_from(&before.nodes);
        }
        let paths = if paths == **wanted { Arc::clone(wanted) } else { Arc::new(paths) };
        self.planned = Some(Arc::clone(&paths));
        Plan { paths, problems, until: waits.until }
    }

    /// Has nothing sent to nodes that could not take it yet; says of which of them that is so for long.
    fn hold_back(&mut self, paths: &mut Paths, before: &Paths, waits: &mut Waits) -> Vec<String> {
        let (mut late, mut long) = (BTreeMap::new(), BTreeSet::new());
        let Paths { blocks, said, kinds, .. } = paths;
        for (range, block) in blocks {
            let Some(kind) = Kind::of(block.encapsulation) else { continue };
            // One that is gone from the API is sent nothing anyway.
            let Some(said) = said.get(&block.node) else { continue };
            let is_held_back = match said {
                None => self.begun.get(&kind).is_some_and(|since| waits.is_before(*since + SPREAD)),
                Some(said) if said.received.contains(&kind) => false,
                Some(_) => {
                    let id = (block.node.clone(), kind);
                    let since = *late
                        .entry(id.clone())
                        .or_insert_with(|| self.late.get(&id).copied().unwrap_or(waits.now));
                    if !waits.is_before(since + PATIENCE) {
                        long.insert(told(&block.node, "has none", kind, TUNNELS_RECEIVED, "not used to it"));
                    }
                    true
                }
            };
            if is_held_back {
                let has = |kind: Kind| kinds.contains_key(&kind) || before.kinds.contains_key(&kind);
                block.encapsulation = meanwhile(*range, before, said.as_ref(), has);
            }
        }
        self.late = late;
        long.into_iter().collect()
    }
}

/// That a node is waited for.
fn told(node: &str, says: &str, kind: Kind, annotation: &str, so: &str) -> String {
    format!(
        "tunnels of {}: node {node} {says}, by its annotation {annotation}, so they are {so}; see the log of its agent, or delete \
         the annotation of a node whose agent does not write it",
        kind.word()
    )
}

/// What an agent takes over that starts.
fn found(wanted: &Paths) -> Paths {
    let mut found = wanted.clone();
    for kind in &wanted.had {
        found.kinds.entry(*kind).or_insert_with(|| "an earlier agent".to_owned());
    }
    found
}

/// How packets are sent to a block as long as they cannot be as wanted: as before, if the node takes that, else as it
/// does. Of the kinds that there are here.
fn meanwhile(
    range: IpNetwork,
    before: &Paths,
    said: Option<&Tunnels>,
    has: impl Fn(Kind) -> bool,
) -> Encapsulation {
    let takes = |kind: Kind| said.is_none_or(|said| said.received.contains(&kind));
    let as_before = before.blocks.get(&range).map(|block| block.encapsulation);
    if let Some(encapsulation) = as_before
        && Kind::of(encapsulation).is_none_or(|kind| has(kind) && takes(kind))
    {
        return encapsulation;
    }
    let received = said.into_iter().flat_map(|said| &said.received).copied();
    received.filter(|kind| has(*kind)).map(Kind::encapsulation).next().unwrap_or(Encapsulation::None)
}

/// When the first of several waits ends.
struct Waits {
    now: Instant,
    until: Option<Instant>,
}

impl Waits {
    /// Whether it is not that late yet; if so, it is waited for.
    fn is_before(&mut self, end: Instant) -> bool {
        let is_before = self.now < end;
        if is_before {
            self.until = Some(self.until.map_or(end, |until| until.min(end)));
        }
        is_before
    }
}

#[cfg(test)]
mod tests;
