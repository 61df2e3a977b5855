//! Pods by name, as two watches tell of them: that of this node's, and that of the others'.
//!
//! Neither waits for the other. When a pod is deleted and another of its name begins on another node, what is said of the
//! two may come in either order; each watch has a map of its own, so that in the end both orders come to the same.

use std::{collections::BTreeMap, sync::Arc};

use margay_policy::PodName;

use crate::watch::{Change, PodFacts};

#[derive(Debug, Default)]
pub(super) struct Pods {
    /// Those of this node.
    pub(super) own: BTreeMap<PodName, PodFacts>,
    /// Those of other nodes, without the finished ones.
    pub(super) others: BTreeMap<PodName, PodFacts>,
}

/// Has a pod that is known already be called by the text that all who know it have, not by another of the same words.
pub(super) fn call_as_before(known: &BTreeMap<PodName, PodFacts>, change: &mut Change<PodName, PodFacts>) {
    if let Change::Applied(name, facts) = change
        && let Some((known, _)) = known.get_key_value(name)
    {
        name.clone_from(known);
        Arc::make_mut(&mut facts.pod).name.clone_from(known);
    }
}

impl Pods {
    /// The pod of this name: as long as there seem to be two, the younger, as the other is gone; this node's when both are of the same second.
    pub(super) fn get(&self, name: &PodName) -> Option<&PodFacts> {
        match (self.own.get(name), self.others.get(name)) {
            (Some(own), Some(other)) if own.pod.created < other.pod.created => Some(other),
            (Some(own), _) => Some(own),
            (None, other) => other,
        }
    }
}
