//! Why a path was chosen, and why it is told to a peer or is not.

use super::decision::Step;
use super::export::{Withheld, export};
use super::group::GroupKey;
use super::peer::{PeerId, PeerInfo, Policy};
use super::state::Rib;
use super::table::{Path, hash};
use crate::prefix::Prefix;

/// A path by who said it, and under what number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathKey {
    /// Who said so; [`PeerId::LOCAL`] for our own.
    pub peer: PeerId,
    /// The peer's number for the path.
    pub path_id: u32,
}

/// What became of a path in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which path.
    pub path: PathKey,
    /// The comparison at which it lost; `None` for the best one.
    pub lost_at: Option<Step>,
    /// The path that was better there.
    pub lost_to: Option<PathKey>,
    /// Whether it is used, as the best path or beside it.
    pub used: bool,
}

/// Whether a peer is told of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Which path.
    pub path: PathKey,
    /// Why it is not told; `None` when it is.
    pub withheld: Option<Withheld>,
    /// Which term of the export policy decided, where it was asked.
    pub decided: Option<String>,
}

fn key(path: &Path) -> PathKey {
    PathKey { peer: path.peer, path_id: path.remote_id }
}

impl Rib {
    /// What became of each path of a prefix, in order of preference.
    pub fn explain(&mut self, prefix: Prefix) -> Vec<Explanation> {
        self.decide();
        let Some(id) = self.table.find(prefix, hash(prefix)) else { return Vec::new() };
        let slot = self.table.slot(id);
        let paths = slot.paths.as_slice();
        let decision = self.decision(slot);
        let explained = paths.iter().zip(&decision.losses).enumerate();
        explained
            .map(|(index, (path, loss))| Explanation {
                path: key(path),
                lost_at: loss.map(|loss| loss.step),
                lost_to: loss.and_then(|loss| loss.to).map(|to| key(&paths[to])),
                used: index < usize::from(slot.used),
            })
            .collect()
    }

    /// Whether a peer is told of each path of a prefix, in order of preference, and if not, why.
    pub fn advertisements(&mut self, prefix: Prefix, to: PeerId) -> Vec<Advertisement> {
        self.decide();
        let Some(id) = self.table.find(prefix, hash(prefix)) else { return Vec::new() };
        let paths = self.table.slot(id).paths.as_slice();
        let peer = self.peers.find(to).filter(|peer| peer.up);
        let mut told = 0;
        paths
            .iter()
            .map(|path| {
                let withheld = match peer {
                    None => Some(Withheld::Down),
                    Some(peer) => self.withheld(path, prefix, to, &peer.info, &mut told),
                };
                let asked = withheld.is_none() || withheld == Some(Withheld::Policy);
                let decided = peer.filter(|_| asked).and_then(|peer| {
                    let export = &peer.info.policy.export;
                    let attributes = self.interners.received.attributes(path.attr);
                    matches!(export, Policy::Terms(_))
                        .then(|| export.explain(prefix, self.announcer(path.peer), attributes))
                });
                Advertisement { path: key(path), withheld, decided }
            })
            .collect()
    }

    /// Why a path is not told to a peer; `told` counts the paths before it that were looked at.
    fn withheld(
        &self,
        path: &Path,
        prefix: Prefix,
        to: PeerId,
        info: &PeerInfo,
        told: &mut usize,
    ) -> Option<Withheld> {
        let family = prefix.family();
        if !info.families.contains(family) {
            return Some(Withheld::Family);
        }
        if !self.is_reachable(path) {
            return Some(Withheld::Unreachable);
        }
        let key = GroupKey::of(info);
        if *told >= key.limit(family) {
            return Some(Withheld::NotBest);
        }
        *told += 1;
        if path.peer == to {
            return Some(Withheld::OwnPath);
        }
        let offer = self.offer(path, prefix, &key.policy);
        let attributes = self.interners.received.attributes(path.attr);
        let told_to = key.told(self.speaker().cluster_id, family);
        export(attributes, offer.source, offer.originator, family, &told_to, offer.signature).err()
    }
}
