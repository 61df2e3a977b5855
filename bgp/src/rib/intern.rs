//! Each set of attributes once, under a number.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::wire::Attributes;

/// The number of an interned set of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AttrId(NonZeroU32);

#[derive(Debug)]
struct Entry {
    attributes: Box<Attributes>,
    hash: u64,
}

/// All attribute sets in use, counted by reference.
#[derive(Debug, Default)]
pub(super) struct Interner {
    entries: Vec<Option<Entry>>,
    /// References by number. Every path that comes or goes counts one, in no order: apart from the entries, the counts
    /// of tens of thousands of sets stay in the processor's cache.
    references: Vec<u32>,
    free: Vec<AttrId>,
    /// Numbers without a meaning that somebody may still remember.
    forgotten: Vec<AttrId>,
    ids: HashTable<AttrId>,
}

impl AttrId {
    pub(super) fn index(self) -> usize {
        usize::try_from(self.0.get() - 1).unwrap_or(usize::MAX)
    }

    fn of(index: usize) -> Self {
        Self(u32::try_from(index + 1).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX))
    }
}

impl Interner {
    /// The number of these attributes, with one more reference to it, and whether they are new.
    pub(super) fn intern(&mut self, attributes: Attributes) -> (AttrId, bool) {
        const STATE: FixedState = FixedState::with_seed(0x6d61_7267_6179);
        let hash = STATE.hash_one(&attributes);
        let Self { entries, references, free, ids, .. } = self;
        let place = ids.entry(
            hash,
            |id| {
                let entry = entries[id.index()].as_ref();
                entry.is_some_and(|entry| entry.hash == hash && *entry.attributes == attributes)
            },
            |id| entries[id.index()].as_ref().map_or(0, |entry| entry.hash),
        );
        let vacant = match place {
            Place::Occupied(place) => {
                let id = *place.get();
                self.acquire(id, 1);
                return (id, false);
            }
            Place::Vacant(place) => place,
        };
        let entry = Entry { attributes: Box::new(attributes), hash };
        let id = free.pop().unwrap_or(AttrId::of(entries.len()));
        vacant.insert(id);
        if let Some(place) = entries.get_mut(id.index()) {
            *place = Some(entry);
        } else {
            entries.push(Some(entry));
            references.push(0);
        }
        self.acquire(id, 1);
        (id, true)
    }

    /// More references.
    pub(super) fn acquire(&mut self, id: AttrId, count: u32) {
        if let Some(references) = self.references.get_mut(id.index()) {
            *references += count;
        }
    }

    /// One reference less; gives the attributes back when it was the last one.
    ///
    /// The number gets no new meaning before [`Interner::take_forgotten`].
    pub(super) fn release(&mut self, id: AttrId) -> Option<Box<Attributes>> {
        let references = self.references.get_mut(id.index())?;
        *references = references.checked_sub(1)?;
        if *references > 0 {
            return None;
        }
        let entry = self.entries.get_mut(id.index())?.take()?;
        if let Ok(found) = self.ids.find_entry(entry.hash, |other| *other == id) {
            found.remove();
        }
        self.forgotten.push(id);
        Some(entry.attributes)
    }

    /// Numbers that lost their meaning; the caller forgets them, after which they are given again.
    pub(super) fn take_forgotten(&mut self) -> Vec<AttrId> {
        let forgotten = std::mem::take(&mut self.forgotten);
        self.free.extend_from_slice(&forgotten);
        if self.ids.is_empty() {
            *self = Self::default();
        }
        forgotten
    }

    /// The attributes with this number.
    pub(super) fn attributes(&self, id: AttrId) -> &Attributes {
        static NONE: std::sync::LazyLock<Attributes> = std::sync::LazyLock::new(Attributes::default);
        self.entries.get(id.index()).and_then(Option::as_ref).map_or(&NONE, |entry| &entry.attributes)
    }

    /// Every set of attributes in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (AttrId, &Attributes)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| Some((AttrId::of(index), &*entry.as_ref()?.attributes)))
    }

    /// Attribute sets in use.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}
