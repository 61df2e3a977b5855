//! What one peer was told, and what it must still be told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::intern::{AttrId, Interner};
use super::table::SlotId;
use crate::family::{Family, FamilySet};
use crate::prefix::Prefix;
use crate::wire::{AsWidth, encode};

/// Encoded messages, shared by all peers that get the same.
pub type Batch = Arc<[u8]>;

/// Why a slot is to be looked at for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// The selected path changed: tell the difference, if there is one.
    Changed,
    /// The peer asked: tell what it should know even if it was told before.
    Refresh,
}

/// Adj-RIB-Out of one peer: a number per slot, and marks on slots to look at.
#[derive(Debug, Default)]
pub(super) struct AdjRibOut {
    told: Vec<Option<AttrId>>,
    marked: Vec<Option<Mark>>,
    marks: Vec<SlotId>,
    /// Families whose End-of-RIB is due once no mark is left.
    pub(super) end_of_rib: FamilySet,
    /// Prefixes the peer currently knows from us.
    pub(super) count: usize,
}

impl AdjRibOut {
    /// Marks a slot; whether it was not marked before.
    pub(super) fn mark(&mut self, slot: SlotId, mark: Mark) -> bool {
        let index = slot.index();
        if self.marked.len() <= index {
            self.marked.resize(index + 1, None);
            self.told.resize(index + 1, None);
        }
        let before = self.marked[index];
        self.marked[index] = before.max(Some(mark));
        if before.is_none() {
            self.marks.push(slot);
        }
        before.is_none()
    }

    /// Takes up to `limit` marks off, in the order in which they were put on.
    pub(super) fn take_marks(&mut self, limit: usize) -> Vec<(SlotId, Mark)> {
        let taken: Vec<SlotId> = if self.marks.len() <= limit {
            std::mem::take(&mut self.marks)
        } else {
            self.marks.drain(..limit).collect()
        };
        taken.into_iter().filter_map(|slot| Some((slot, self.marked[slot.index()].take()?))).collect()
    }

    pub(super) fn is_marked(&self) -> bool {
        !self.marks.is_empty()
    }

    pub(super) fn told(&self, slot: SlotId) -> Option<AttrId> {
        self.told.get(slot.index()).copied().flatten()
    }

    /// Records what the peer is told; gives what it was told before.
    pub(super) fn tell(&mut self, slot: SlotId, attr: Option<AttrId>) -> Option<AttrId> {
        let before = std::mem::replace(&mut self.told[slot.index()], attr);
        self.count = self.count + usize::from(attr.is_some()) - usize::from(before.is_some());
        before
    }

    /// Every slot the peer was told about or that is marked, for tearing down: marks and entries.
    pub(super) fn into_holds(self) -> (Vec<SlotId>, Vec<(usize, AttrId)>) {
        let told = self.told.into_iter().enumerate();
        (self.marks, told.filter_map(|(index, attr)| attr.map(|attr| (index, attr))).collect())
    }
}

/// The difference between what a peer was told and what it should know.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) withdrawn: BTreeMap<Family, Vec<Prefix>>,
    pub(super) announced: BTreeMap<(Family, AttrId), Vec<Prefix>>,
    pub(super) end_of_rib: FamilySet,
}

impl Delta {
    pub(super) fn is_empty(&self) -> bool {
        self.withdrawn.is_empty() && self.announced.is_empty() && self.end_of_rib.is_empty()
    }

    /// The messages: withdrawals, then announcements packed by attributes, then End-of-RIB.
    pub(super) fn encode(&self, interner: &Interner, width: AsWidth) -> Batch {
        let mut out = Vec::new();
        for (family, prefixes) in &self.withdrawn {
            encode::encode_withdrawals(*family, prefixes, &mut out);
        }
        for ((family, attr), prefixes) in &self.announced {
            // Attributes that do not fit never get here: the export refuses them.
            if let Err(error) =
                encode::encode_announcements(*family, interner.attributes(*attr), width, prefixes, &mut out)
            {
                tracing::error!(%error, "announce {} prefixes", prefixes.len());
            }
        }
        for family in self.end_of_rib.iter() {
            encode::encode_end_of_rib(family, &mut out);
        }
        out.into()
    }
}
