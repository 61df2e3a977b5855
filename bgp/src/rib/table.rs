//! Prefixes with their paths, by slot number.

use std::collections::HashMap;

use super::intern::AttrId;
use super::state::PeerId;
use crate::prefix::Prefix;

/// The number of a prefix while anything refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotId(u32);

/// What one peer said about one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) peer: PeerId,
    pub(super) attr: AttrId,
    /// Said in a session that has ended, or before a refresh that has begun.
    pub(super) stale: bool,
}

/// A prefix and all that is known about it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) prefix: Prefix,
    /// Behind a decision, the best path is first and the `multipath - 1` paths equal to it follow.
    pub(super) paths: Vec<Path>,
    pub(super) multipath: u16,
    /// The best path at the last decision, holding a reference to its attributes.
    pub(super) selected: Option<Path>,
    /// Marks and Adj-RIB-Out entries that refer to the slot.
    pub(super) holds: u32,
    pub(super) undecided: bool,
    pub(super) fib_marked: bool,
}

/// All prefixes.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<SlotId>,
    ids: HashMap<Prefix, SlotId>,
}

impl SlotId {
    pub(super) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Table {
    /// The slot of a prefix, made if there is none.
    pub(super) fn slot_of(&mut self, prefix: Prefix) -> SlotId {
        if let Some(id) = self.ids.get(&prefix) {
            return *id;
        }
        let slot = Slot {
            prefix,
            paths: Vec::new(),
            multipath: 0,
            selected: None,
            holds: 0,
            undecided: false,
            fib_marked: false,
        };
        let id = if let Some(id) = self.free.pop() {
            self.slots[id.index()] = slot;
            id
        } else {
            self.slots.push(slot);
            SlotId(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
        };
        self.ids.insert(prefix, id);
        id
    }

    /// The slot of a prefix, if there is one.
    pub(super) fn find(&self, prefix: Prefix) -> Option<SlotId> {
        self.ids.get(&prefix).copied()
    }

    pub(super) fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.index()]
    }

    pub(super) fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.index()]
    }

    /// Frees the slot if nothing refers to it any more.
    pub(super) fn free_unused(&mut self, id: SlotId) {
        let slot = &self.slots[id.index()];
        if slot.holds == 0
            && slot.paths.is_empty()
            && slot.selected.is_none()
            && self.ids.get(&slot.prefix) == Some(&id)
        {
            self.ids.remove(&slot.prefix);
            self.free.push(id);
        }
    }

    /// All slot numbers ever used, free ones included (they have no path).
    pub(super) fn all(&self) -> impl Iterator<Item = SlotId> + use<> {
        (0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX)).map(SlotId)
    }

    /// Prefixes in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}
