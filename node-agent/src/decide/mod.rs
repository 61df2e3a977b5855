//! What the node must hold: state in, wanted state out. Pure.

mod bgp;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use margay_api::endpoint::{Endpoint, EndpointId};
use margay_policy::{
    PodName,
    compile::{Changes, Compiler, PolicySetId, Way},
};

pub(crate) use state::{Announcement, State};

use crate::config::Bgp;

/// Everything that the drivers make so; classes and verdicts the [`Decider`] has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The endpoints that may talk, each with the policies that apply to it.
    pub(crate) endpoints: BTreeMap<EndpointId, Admitted>,
    /// Endpoints that may not talk, and why.
    pub(crate) waiting: BTreeMap<EndpointId, String>,
    /// The blocks that addresses of this node come from.
    pub(crate) blocks: Vec<IpNetwork>,
    /// The speaker's configuration; `None` as long as the node has no address, or without BGP.
    pub(crate) bgp: Option<Arc<margay_bgp::config::Config>>,
}

/// An endpoint whose policy is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) endpoint: Arc<Endpoint>,
    /// `None`: no policy selects it.
    pub(crate) set: Option<PolicySetId>,
    /// The directions that the policy set is about.
    pub(crate) ways: Vec<Way>,
}

/// What a decision is.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) wanted: Wanted,
    /// Of classes and verdicts, what has changed.
    pub(crate) changes: Changes,
}

/// Decides, and keeps what it derived.
#[derive(Debug, Default)]
pub(crate) struct Decider {
    compiler: Compiler,
    /// Has decided once.
    begun: bool,
    bgp: Option<Arc<margay_bgp::config::Config>>,
}

impl Decider {
    /// Classes and verdicts, as of the last decision.
    pub(crate) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Decides about what has changed. `None` until the state is complete once: nothing may be written before.
    pub(crate) fn decide(&mut self, state: &mut State, settings: &Bgp) -> Option<Decision> {
        if state.missing().is_some() {
            return None;
        }
        let touched = state.take_touched();
        let mut local = BTreeSet::new();
        let mut known: Vec<(&EndpointId, &Arc<Endpoint>, Option<PodName>)> = Vec::new();
        let mut waiting = BTreeMap::new();
        for (id, endpoint) in state.endpoints() {
            match state.pod_of(endpoint) {
                Ok(pod) => {
                    local.extend(pod.clone());
                    known.push((id, endpoint, pod));
                }
                Err(reason) => {
                    waiting.insert(id.clone(), reason);
                }
            }
        }
        let is_local = |pod: &PodName| local.contains(pod);
        let mut changes = self.compiler.update(state.objects(), is_local, &touched.policy);
        let is_first = !std::mem::replace(&mut self.begun, true);
        if is_first {
            // Nobody knows what these pods were allowed before.
            changes.tightened.pods.extend(changes.pods.iter().cloned());
        }
        let endpoints = known.into_iter().map(|(id, endpoint, pod)| {
            let set = pod.and_then(|pod| self.compiler.set_of(&pod));
            let said = set.and_then(|set| self.compiler.set(set));
            let ways = Way::ALL.into_iter().filter(|way| said.is_some_and(|set| set.way(*way).is_some()));
            (id.clone(), Admitted { endpoint: Arc::clone(endpoint), set, ways: ways.collect() })
        });
        let endpoints = endpoints.collect();
        if touched.nodes || is_first {
            self.bgp = bgp::speaker(state, settings).map(Arc::new);
        }
        let wanted = Wanted { endpoints, waiting, blocks: state.blocks().to_vec(), bgp: self.bgp.clone() };
        Some(Decision { wanted, changes })
    }
}

#[cfg(test)]
mod tests;
