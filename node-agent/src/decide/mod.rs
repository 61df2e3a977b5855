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
    Interner, PodName, PolicySetId,
    compile::{Compiled, compile},
};

pub(crate) use state::{Announcement, State};

use crate::config::Bgp;

/// Everything that the drivers make so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Classes and verdicts.
    pub(crate) compiled: Compiled,
    /// The endpoints that may talk, each with the policies that apply to it.
    pub(crate) endpoints: BTreeMap<EndpointId, Admitted>,
    /// Endpoints that may not talk, and why.
    pub(crate) waiting: BTreeMap<EndpointId, String>,
    /// The blocks that addresses of this node come from.
    pub(crate) blocks: Vec<IpNetwork>,
    /// The speaker's configuration; `None` as long as the node has no address, or without BGP.
    pub(crate) bgp: Option<margay_bgp::config::Config>,
}

/// An endpoint whose policy is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) endpoint: Arc<Endpoint>,
    /// `None`: no policy selects it.
    pub(crate) set: Option<PolicySetId>,
}

/// Decides. `None` until the state is complete once: nothing may be written before.
pub(crate) fn decide(state: &State, settings: &Bgp, interner: &mut Interner) -> Option<Wanted> {
    if state.missing().is_some() {
        return None;
    }
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
    let compiled = compile(state.objects(), &local, interner);
    let endpoints = known.into_iter().map(|(id, endpoint, pod)| {
        let set = pod.and_then(|pod| compiled.endpoints.get(&pod).copied());
        (id.clone(), Admitted { endpoint: Arc::clone(endpoint), set })
    });
    Some(Wanted {
        endpoints: endpoints.collect(),
        waiting,
        blocks: state.blocks().to_vec(),
        bgp: bgp::speaker(state, settings),
        compiled,
    })
}

#[cfg(test)]
mod tests;
