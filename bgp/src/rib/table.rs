//! Prefixes with their paths, by slot number.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::intern::AttrId;
use super::peer::PeerId;
use crate::prefix::Prefix;

/// The number of a prefix while it has paths, or marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotId(pub(super) u32);

impl SlotId {
    pub(super) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    pub(super) fn of(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }
}

/// What one peer said about one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) peer: PeerId,
    pub(super) attr: AttrId,
    /// The peer's number for the path; 0 where the session has none.
    pub(super) remote_id: u32,
    /// Our number for the path among those of the prefix, which other peers are told.
    pub(super) local_id: u16,
    /// Said in a session that has ended, or before a refresh that has begun.
    pub(super) stale: bool,
}

/// The paths of a prefix; the usual one lies in the slot itself.
#[derive(Clone, Debug, Default)]
pub(super) enum Paths {
    #[default]
    None,
    One(Path),
    #[expect(clippy::box_collection, reason = "a thin pointer keeps the slot small for those with one path")]
    Many(Box<Vec<Path>>),
}

/// A prefix and all that is known about it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) prefix: Prefix,
    /// Paths at the front that are used, the best one first, as of the last decision.
    pub(super) used: u8,
    pub(super) undecided: bool,
    pub(super) fib_marked: bool,
    pub(super) paths: Paths,
}

// A million prefixes is a million of these: no field without need.
const _: () = assert!(size_of::<Path>() == 16 && size_of::<Paths>() == 16 && size_of::<Slot>() == 40);

impl Paths {
    pub(super) fn as_slice(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(paths) => paths,
        }
    }

    /// Adds a path under the lowest number that none of the others has.
    pub(super) fn push(&mut self, mut path: Path) {
        let others = self.as_slice();
        let is_free = |id: &u16| others.iter().all(|other| other.local_id != *id);
        path.local_id = (1..=u16::MAX).find(is_free).unwrap_or(u16::MAX);
        *self = match std::mem::take(self) {
            Self::None => Self::One(path),
            Self::One(first) => Self::Many(Box::new(vec![first, path])),
            Self::Many(mut paths) => {
                paths.push(path);
                Self::Many(paths)
            }
        };
    }

    pub(super) fn remove(&mut self, position: usize) {
        *self = match std::mem::take(self) {
            Self::None | Self::One(_) => Self::None,
            Self::Many(mut paths) => {
                paths.remove(position);
                match paths[..] {
                    [only] => Self::One(only),
                    _ => Self::Many(paths),
                }
            }
        };
    }
}

/// All prefixes: slots in a flat vector, found by an open-addressed table of their numbers.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<SlotId>,
    ids: HashTable<SlotId>,
}

/// The hash of a prefix, to be had before the table is touched.
pub(super) fn hash(prefix: Prefix) -> u64 {
    const STATE: FixedState = FixedState::with_seed(0x6d61_7267_6179);
    match prefix.address() {
        IpAddr::V4(address) => STATE.hash_one(u64::from(address.to_bits()) << 8 | u64::from(prefix.length())),
        IpAddr::V6(address) => STATE.hash_one((address.to_bits(), prefix.length())),
    }
}

impl Table {
    /// The slot of a prefix, made if there is none.
    pub(super) fn slot_of(&mut self, prefix: Prefix, hash: u64) -> SlotId {
        let Self { slots, free, ids } = self;
        let entry = ids.entry(
            hash,
            |id| slots[id.index()].prefix == prefix,
            |id| self::hash(slots[id.index()].prefix),
        );
        let vacant = match entry {
            Entry::Occupied(entry) => return *entry.get(),
            Entry::Vacant(entry) => entry,
        };
        let slot = Slot { prefix, used: 0, undecided: false, fib_marked: false, paths: Paths::None };
        let id = free.pop().unwrap_or(SlotId::of(slots.len()));
        vacant.insert(id);
        match slots.get_mut(id.index()) {
            Some(place) => *place = slot,
            None => slots.push(slot),
        }
        id
    }

    /// The slot of a prefix, if there is one.
    pub(super) fn find(&self, prefix: Prefix, hash: u64) -> Option<SlotId> {
        self.ids.find(hash, |id| self.slots[id.index()].prefix == prefix).copied()
    }

    pub(super) fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.index()]
    }

    pub(super) fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.index()]
    }

    /// Frees the numbers of those prefixes that nothing is left of; each is named once. In a loop of its own, whose waits
    /// for memory overlap.
    pub(super) fn free_unused(&mut self, ids: &[SlotId]) {
        let Self { slots, free, ids: numbers } = self;
        let is_unused =
            |slot: &Slot| !slot.undecided && !slot.fib_marked && matches!(slot.paths, Paths::None);
        let unused = ids.iter().map(|id| (*id, &slots[id.index()])).filter(|(_, slot)| is_unused(slot));
        for (id, slot) in unused {
            if let Ok(entry) = numbers.find_entry(hash(slot.prefix), |other| *other == id) {
                entry.remove();
                free.push(id);
            }
        }
        if numbers.is_empty() {
            // The memory of a table that was large goes back.
            *self = Self::default();
        }
    }

    /// All slot numbers ever used, free ones included (they have no path).
    pub(super) fn all(&self) -> impl Iterator<Item = SlotId> + use<> {
        (0..self.slots.len()).map(SlotId::of)
    }

    /// Slot numbers ever used.
    pub(super) fn end(&self) -> usize {
        self.slots.len()
    }

    /// Prefixes in use.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}
