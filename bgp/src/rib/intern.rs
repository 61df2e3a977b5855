//! Each set of attributes once, under a number.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::export::ExportKey;
use crate::wire::Attributes;

/// The number of an interned set of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AttrId(NonZeroU32);

/// What the interner knows about the export of some attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exported {
    /// Nothing yet.
    NotWorkedOut,
    /// They go out as these, or not at all.
    As(Option<AttrId>),
}

#[derive(Debug)]
struct Entry {
    attributes: Arc<Attributes>,
    references: u32,
    /// What each group of peers is told in place of these attributes; holds a reference to the result.
    exports: Vec<(ExportKey, Option<AttrId>)>,
}

/// All attribute sets in use, counted by reference.
#[derive(Debug, Default)]
pub(super) struct Interner {
    entries: Vec<Option<Entry>>,
    free: Vec<AttrId>,
    ids: HashMap<Arc<Attributes>, AttrId>,
}

impl AttrId {
    fn index(self) -> usize {
        usize::try_from(self.0.get() - 1).unwrap_or(usize::MAX)
    }
}

impl Interner {
    /// The number of these attributes, with one more reference to it.
    pub(super) fn intern(&mut self, attributes: Attributes) -> AttrId {
        if let Some(id) = self.ids.get(&attributes) {
            let id = *id;
            self.acquire(id);
            return id;
        }
        let attributes = Arc::new(attributes);
        let entry = Entry { attributes: Arc::clone(&attributes), references: 1, exports: Vec::new() };
        let id = if let Some(id) = self.free.pop() {
            self.entries[id.index()] = Some(entry);
            id
        } else {
            self.entries.push(Some(entry));
            let number = u32::try_from(self.entries.len()).ok().and_then(NonZeroU32::new);
            AttrId(number.unwrap_or(NonZeroU32::MAX))
        };
        self.ids.insert(attributes, id);
        id
    }

    /// One more reference.
    pub(super) fn acquire(&mut self, id: AttrId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.references += 1;
        }
    }

    /// One reference less; the last one frees the number.
    pub(super) fn release(&mut self, id: AttrId) {
        let Some(entry) = self.entry_mut(id) else { return };
        entry.references -= 1;
        if entry.references > 0 {
            return;
        }
        if let Some(entry) = self.entries[id.index()].take() {
            self.ids.remove(&entry.attributes);
            self.free.push(id);
            for (_, exported) in entry.exports {
                if let Some(exported) = exported {
                    self.release(exported);
                }
            }
        }
    }

    /// The attributes with this number.
    pub(super) fn attributes(&self, id: AttrId) -> &Attributes {
        static NONE: std::sync::LazyLock<Attributes> = std::sync::LazyLock::new(Attributes::default);
        self.entries.get(id.index()).and_then(Option::as_ref).map_or(&NONE, |entry| &entry.attributes)
    }

    /// What is told in place of `id` under `key`.
    pub(super) fn exported(&self, id: AttrId, key: ExportKey) -> Exported {
        let entry = self.entries.get(id.index()).and_then(Option::as_ref);
        let known = entry.and_then(|entry| entry.exports.iter().find(|(known, _)| *known == key));
        match known {
            None => Exported::NotWorkedOut,
            Some((_, exported)) => Exported::As(*exported),
        }
    }

    /// Remembers what is told in place of `id` under `key`.
    pub(super) fn remember(
        &mut self,
        id: AttrId,
        key: ExportKey,
        exported: Option<Attributes>,
    ) -> Option<AttrId> {
        let exported = exported.map(|attributes| self.intern(attributes));
        if let Some(entry) = self.entry_mut(id) {
            entry.exports.push((key, exported));
        }
        exported
    }

    /// Attribute sets in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    fn entry_mut(&mut self, id: AttrId) -> Option<&mut Entry> {
        self.entries.get_mut(id.index())?.as_mut()
    }
}
