//! What the node must hold: state in, wanted state out. Pure.

mod bgp;
mod doubles;
mod masquerade;
mod overlay;
mod peers;
mod pods;
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

pub(crate) use bgp::{PeerNode, Topology};
pub(crate) use doubles::Doubles;
pub(crate) use masquerade::Masquerade;
#[cfg(test)]
pub(crate) use overlay::{Block, Frames};
pub(crate) use overlay::{Carrier, Conditions, Hop, Paths, Tunnel, TunnelEnds, Uplink, Ways};
pub(crate) use peers::Peers;
pub(crate) use state::{Announcement, State};

use crate::{config::Bgp, traffic::Traffic};

/// Everything that the drivers make so; classes and verdicts the [`Decider`] has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The endpoints that may talk, each with the policies that apply to it.
    pub(crate) endpoints: Arc<BTreeMap<EndpointId, Admitted>>,
    /// Endpoints that may not talk, and why.
    pub(crate) waiting: BTreeMap<EndpointId, String>,
    /// The blocks that addresses of this node come from.
    pub(crate) blocks: Vec<IpNetwork>,
    /// Where the addresses of all pods of the cluster are from.
    pub(crate) pod_blocks: Arc<BTreeSet<IpNetwork>>,
    /// The nodes as BGP knows them; `None` as long as the own one is not there, or without BGP.
    pub(crate) bgp: Option<Arc<Topology>>,
    /// What the ways to other nodes' pods follow; `None` as long as the own node is not there.
    pub(crate) paths: Option<Arc<Paths>>,
    /// What is masqueraded, if anything is.
    pub(crate) masquerade: Option<Arc<Masquerade>>,
    /// The nodes between which ways are tested; `None` as long as the own one is not there.
    pub(crate) peers: Option<Arc<Peers>>,
    /// Who may send to the tunnels; `None` where there never was to be one.
    pub(crate) tunnel_ends: Option<Arc<TunnelEnds>>,
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
    /// The endpoints that may talk, shared with who was told of them.
    admitted: Arc<BTreeMap<EndpointId, Admitted>>,
    waiting: BTreeMap<EndpointId, String>,
    pod_blocks: Arc<BTreeSet<IpNetwork>>,
    bgp: Option<Arc<Topology>>,
    paths: Option<Arc<Paths>>,
    masquerade: Option<Arc<Masquerade>>,
    peers: Option<Arc<Peers>>,
    /// Once there, they stay as long as the agent runs: tunnels go a while after they are not wanted any more.
    tunnel_ends: Option<Arc<TunnelEnds>>,
}

impl Decider {
    /// Classes and verdicts, as of the last decision.
    pub(crate) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Decides about what has changed. `None` until the state is complete once: nothing may be written before.
    pub(crate) fn decide(
        &mut self,
        state: &mut State,
        settings: &Bgp,
        traffic: &Traffic,
    ) -> Option<Decision> {
        if state.missing().is_some() {
            return None;
        }
        let mut touched = state.take_touched();
        let is_first = !std::mem::replace(&mut self.begun, true);
        if is_first {
            touched.endpoints.extend(state.endpoints().map(|(id, _)| id.clone()));
        }
        let is_local = |pod: &PodName| state.is_local(pod);
        let mut changes = self.compiler.update(state.objects(), is_local, &touched.policy);
        if is_first {
            // Nobody knows what these pods were allowed before.
            changes.tightened.pods.extend(changes.pods.iter().cloned());
        }
        self.admit(state, touched.endpoints, &changes);
        if touched.nodes || is_first {
            self.bgp = bgp::topology(state, settings).map(Arc::new);
        }
        if touched.nodes || touched.blocks || is_first {
            self.pod_blocks = Arc::new(state.pod_blocks());
            let paths = overlay::paths(state, traffic, settings.enabled);
            if self.paths.as_deref() != paths.as_ref() {
                self.paths = paths.map(Arc::new);
            }
            let peers = peers::peers(state);
            if self.peers.as_deref() != peers.as_ref() {
                self.peers = peers.map(Arc::new);
            }
            let ends = overlay::tunnel_ends(state, traffic, self.tunnel_ends.as_deref());
            if self.tunnel_ends.as_deref() != ends.as_ref() {
                self.tunnel_ends = ends.map(Arc::new);
            }
            let masquerade = masquerade::masquerade(state, &traffic.nat);
            if self.masquerade.as_deref() != masquerade.as_ref() {
                self.masquerade = masquerade.map(Arc::new);
            }
        }
        let wanted = Wanted {
            endpoints: Arc::clone(&self.admitted),
            waiting: self.waiting.clone(),
            blocks: state.blocks().to_vec(),
            pod_blocks: Arc::clone(&self.pod_blocks),
            bgp: self.bgp.clone(),
            paths: self.paths.clone(),
            masquerade: self.masquerade.clone(),
            peers: self.peers.clone(),
            tunnel_ends: self.tunnel_ends.clone(),
        };
        Some(Decision { wanted, changes })
    }

    /// Brings up to date which endpoints may talk and which have to wait: those that were touched, and those whose
    /// policies are others or are about other directions.
    fn admit(&mut self, state: &State, touched: BTreeSet<EndpointId>, changes: &Changes) {
        let mut concerned = touched;
        for pod in &changes.pods {
            concerned.extend(state.ids_of(pod).cloned());
        }
        let says_else = |set: &PolicySetId| {
            let change = changes.sets.get(set);
            change.is_some_and(|change| Way::ALL.into_iter().any(|way| change.way(way).any))
        };
        let of_sets =
            self.admitted.iter().filter(|(_, admitted)| admitted.set.as_ref().is_some_and(says_else));
        concerned.extend(of_sets.map(|(id, _)| id.clone()));
        for id in concerned {
            self.waiting.remove(&id);
            let now = match state.shared_endpoint(&id).map(|endpoint| (endpoint, state.pod_of(endpoint))) {
                None => None,
                Some((_, Err(reason))) => {
                    self.waiting.insert(id.clone(), reason);
                    None
                }
                Some((endpoint, Ok(pod))) => Some(self.admitted(endpoint, pod.as_ref())),
            };
            // What did not change stays shared.
            if self.admitted.get(&id) == now.as_ref() {
                continue;
            }
            let admitted = Arc::make_mut(&mut self.admitted);
            match now {
                Some(now) => drop(admitted.insert(id, now)),
                None => drop(admitted.remove(&id)),
            }
        }
    }

    /// An endpoint of a pod, or of none, with the policies that apply to it.
    fn admitted(&self, endpoint: &Arc<Endpoint>, pod: Option<&PodName>) -> Admitted {
        let set = pod.and_then(|pod| self.compiler.set_of(pod));
        let said = set.and_then(|set| self.compiler.set(set));
        let ways = Way::ALL.into_iter().filter(|way| said.is_some_and(|set| set.way(*way).is_some()));
        Admitted { endpoint: Arc::clone(endpoint), set, ways: ways.collect() }
    }
}

#[cfg(test)]
mod tests;
