//! Prefixes gathered by what is said of them, so that messages are full.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::intern::{AttrId, Interner};
use super::log::{Audience, Draft};
use crate::family::Family;
use crate::prefix::Prefix;
use crate::wire::encode::{self, Announcement};
use crate::wire::{AsWidth, nlri};

/// What is said of a prefix, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Statement {
    pub(super) family: Family,
    /// The attributes it is announced with; `None` to withdraw it.
    pub(super) attr: Option<AttrId>,
    pub(super) audience: Audience,
}

/// The form of messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) width: AsWidth,
    pub(super) limit: usize,
}

#[derive(Debug)]
struct Bucket {
    statement: Statement,
    /// `None` for withdrawals.
    announcement: Option<Announcement>,
    room: usize,
    prefixes: Vec<u8>,
}

/// Messages that are not full yet, by statement, in the order in which they were begun.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    list: Vec<Bucket>,
    ids: HashTable<usize>,
    /// The one used last, which is mostly the next one too.
    last: usize,
}

fn hash(statement: &Statement) -> u64 {
    const STATE: FixedState = FixedState::with_seed(0x6d61_7267_6179);
    STATE.hash_one(statement)
}

impl Buckets {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a prefix; a message that is full is appended to the draft.
    pub(super) fn add(
        &mut self,
        statement: Statement,
        path_id: Option<u32>,
        prefix: Prefix,
        attributes: &Interner,
        form: Form,
        draft: &mut Draft,
    ) {
        let index = match self.list.get(self.last) {
            Some(bucket) if bucket.statement == statement => self.last,
            _ => self.bucket(statement, attributes, form),
        };
        self.last = index;
        let bucket = &mut self.list[index];
        let octets = nlri::encoded_len(prefix) + if path_id.is_some() { 4 } else { 0 };
        if bucket.prefixes.len() + octets > bucket.room {
            bucket.append(draft);
        }
        nlri::encode(path_id, prefix, &mut bucket.prefixes);
    }

    /// Appends what is left to the draft.
    pub(super) fn drain(&mut self, draft: &mut Draft) {
        for mut bucket in std::mem::take(self).list {
            if !bucket.prefixes.is_empty() {
                bucket.append(draft);
            }
        }
    }

    fn bucket(&mut self, statement: Statement, attributes: &Interner, form: Form) -> usize {
        let Self { list: buckets, ids, .. } = self;
        let entry = ids.entry(
            hash(&statement),
            |index| buckets[*index].statement == statement,
            |index| hash(&buckets[*index].statement),
        );
        let vacant = match entry {
            Entry::Occupied(entry) => return *entry.get(),
            Entry::Vacant(entry) => entry,
        };
        let announcement = statement.attr.and_then(|attr| {
            let attributes = attributes.attributes(attr);
            // Attributes that do not fit never get here: the export refuses them.
            Announcement::new(statement.family, attributes, form.width, form.limit)
                .inspect_err(|error| tracing::error!(%error, "announce"))
                .ok()
        });
        let room = announcement
            .as_ref()
            .map_or_else(|| encode::withdrawal_room(statement.family, form.limit), Announcement::room);
        let index = buckets.len();
        vacant.insert(index);
        buckets.push(Bucket { statement, announcement, room, prefixes: Vec::new() });
        index
    }
}

impl Bucket {
    fn append(&mut self, draft: &mut Draft) {
        let start = draft.octets.len();
        match &self.announcement {
            Some(announcement) => announcement.append(&self.prefixes, &mut draft.octets),
            None => encode::append_withdrawal(self.statement.family, &self.prefixes, &mut draft.octets),
        }
        draft.address(start, self.statement.audience);
        self.prefixes.clear();
    }
}
