//! The decision process: RFC 4271 section 9.1.2.2 with RFC 4456 section 9 and RFC 9494 section 4.3.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

use super::peer::Source;
use crate::identifier::BgpIdentifier;
use crate::wire::Attributes;
use crate::wire::attr::Community;

/// A path with what the decision looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) attributes: &'a Attributes,
    pub(super) source: Source,
    /// The peer's identifier and address; `None` for a local path.
    pub(super) peer: Option<(BgpIdentifier, IpAddr)>,
    /// The peer's number for the path.
    pub(super) path_id: u32,
    /// The interior cost to the next hop; `None` when it cannot be reached.
    pub(super) metric: Option<u32>,
}

/// What an operator decides about the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionOptions {
    /// Whether MEDs of different neighbouring ASes are compared.
    pub always_compare_med: bool,
    /// Paths of external peers used at once.
    pub external_paths: u8,
    /// Paths of internal peers used at once.
    pub internal_paths: u8,
}

impl Default for DecisionOptions {
    fn default() -> Self {
        Self { always_compare_med: false, external_paths: 64, internal_paths: 64 }
    }
}

/// A comparison, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The next hop cannot be reached.
    NextHop,
    /// The path is of a peer that has been away for long.
    LongLivedStale,
    /// Originated by this speaker before learned.
    Local,
    /// The highest `LOCAL_PREF`.
    LocalPref,
    /// The shortest `AS_PATH`.
    AsPathLength,
    /// The lowest ORIGIN.
    Origin,
    /// The lowest `MULTI_EXIT_DISC`.
    Med,
    /// External before internal.
    External,
    /// The lowest cost to the next hop.
    Metric,
    /// The lowest `ORIGINATOR_ID` or BGP identifier.
    Identifier,
    /// The shortest `CLUSTER_LIST`.
    ClusterList,
    /// The lowest peer address.
    Address,
    /// The lowest path identifier.
    PathId,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NextHop => "the next hop cannot be reached",
            Self::LongLivedStale => "stale for long",
            Self::Local => "not originated here",
            Self::LocalPref => "lower LOCAL_PREF",
            Self::AsPathLength => "longer AS_PATH",
            Self::Origin => "higher ORIGIN",
            Self::Med => "higher MED",
            Self::External => "internal, not external",
            Self::Metric => "higher cost to the next hop",
            Self::Identifier => "higher identifier",
            Self::ClusterList => "longer CLUSTER_LIST",
            Self::Address => "higher neighbour address",
            Self::PathId => "higher path identifier",
        })
    }
}

/// Where a path lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The first comparison that it did not pass.
    pub step: Step,
    /// The index of a path that was better there.
    pub to: Option<usize>,
}

/// What a decision came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// The indices of paths to use, the best one first; empty when none can be used.
    pub(super) used: Vec<usize>,
    /// Where each path lost; `None` for the best one.
    pub(super) losses: Vec<Option<Loss>>,
}

/// The degree of preference of a path that carries none.
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

struct Contest<'a, 'c> {
    candidates: &'c [Candidate<'a>],
    alive: Vec<usize>,
    losses: Vec<Option<Loss>>,
}

/// Decides between paths; the result does not depend on their order.
pub(super) fn decide(candidates: &[Candidate<'_>], options: DecisionOptions) -> Decision {
    let alive = (0..candidates.len()).collect();
    let mut contest = Contest { candidates, alive, losses: vec![None; candidates.len()] };
    contest.exclude_unreachable();
    contest.least(Step::LongLivedStale, |path| path.attributes.communities.contains(&Community::LLGR_STALE));
    // Section 9.1.1: a local route before all others, then the degree of preference.
    contest.least(Step::Local, |path| path.source != Source::Local);
    contest.least(Step::LocalPref, |path| Reverse(path.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)));
    contest.least(Step::AsPathLength, |path| path.attributes.as_path.path_length());
    contest.least(Step::Origin, |path| path.attributes.origin);
    contest.med(options);
    contest.least(Step::External, |path| matches!(path.source, Source::Internal | Source::Client));
    contest.least(Step::Metric, |path| path.metric);
    let mut used = contest.alive.clone();
    // RFC 4456 section 9: the originator speaks for the path, then the shorter way through reflectors.
    contest.least(Step::Identifier, identifier);
    contest.least(Step::ClusterList, |path| path.attributes.cluster_list.len());
    contest.least(Step::Address, |path| path.peer.map(|(_, address)| address));
    contest.least(Step::PathId, |path| path.path_id);
    let order = |index: &usize| {
        let path = &candidates[*index];
        (
            identifier(path),
            path.attributes.cluster_list.len(),
            path.peer.map(|(_, address)| address),
            path.path_id,
        )
    };
    used.sort_by_key(order);
    let limit = match used.first().map(|best| candidates[*best].source) {
        Some(Source::External) => options.external_paths,
        Some(Source::Internal | Source::Client) => options.internal_paths,
        Some(Source::Local) | None => 1,
    };
    used.truncate(limit.max(1).into());
    Decision { used, losses: contest.losses }
}

fn identifier(path: &Candidate<'_>) -> Option<std::net::Ipv4Addr> {
    let own = path.peer.map(|(identifier, _)| std::net::Ipv4Addr::from(identifier.octets()));
    path.attributes.originator_id.or(own)
}

impl Contest<'_, '_> {
    fn exclude_unreachable(&mut self) {
        let candidates = self.candidates;
        let better = self.alive.iter().copied().find(|index| candidates[*index].metric.is_some());
        self.alive.retain(|&index| {
            let reachable = candidates[index].metric.is_some();
            if !reachable {
                self.losses[index] = Some(Loss { step: Step::NextHop, to: better });
            }
            reachable
        });
    }

    /// Keeps the paths whose key is the least.
    fn least<K: Ord>(&mut self, step: Step, key: impl Fn(&Candidate<'_>) -> K) {
        let candidates = self.candidates;
        let key = |index: usize| key(&candidates[index]);
        let Some(best) = self.alive.iter().copied().min_by_key(|index| key(*index)) else { return };
        let least = key(best);
        self.alive.retain(|&index| {
            let stays = key(index) == least;
            if !stays {
                self.losses[index] = Some(Loss { step, to: Some(best) });
            }
            stays
        });
    }

    /// Section 9.1.2.2 c: among paths of one neighbouring AS, unless told otherwise; none counts as the lowest.
    fn med(&mut self, options: DecisionOptions) {
        let candidates = self.candidates;
        let med = |index: usize| candidates[index].attributes.med.unwrap_or(0);
        let neighbor = |index: usize| candidates[index].attributes.as_path.neighbor_as();
        let before = self.alive.clone();
        self.alive.retain(|&index| {
            let better = before.iter().copied().find(|&other| {
                (options.always_compare_med || neighbor(other) == neighbor(index)) && med(other) < med(index)
            });
            if better.is_some() {
                self.losses[index] = Some(Loss { step: Step::Med, to: better });
            }
            better.is_none()
        });
    }
}
