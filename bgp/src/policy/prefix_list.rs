//! Prefixes with lengths, looked up by prefix.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::family::Family;
use crate::prefix::Prefix;

/// Least and greatest lengths within each prefix.
type Ranges = HashMap<Prefix, Vec<(u8, u8)>, FixedState>;

/// A named list of prefixes, each with the lengths that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixList {
    /// By the length of the entries: a prefix is looked up once for each length that there is.
    lengths: BTreeMap<(Family, u8), Ranges>,
}

impl PrefixList {
    /// Adds the prefixes within `prefix` whose lengths are from `ge` to `le`.
    pub fn insert(&mut self, prefix: Prefix, ge: u8, le: u8) {
        let of_length = self.lengths.entry((prefix.family(), prefix.length())).or_default();
        of_length.entry(prefix).or_default().push((ge, le));
    }

    /// Whether the list has the prefix.
    pub fn contains(&self, prefix: Prefix) -> bool {
        let family = prefix.family();
        self.lengths.range((family, 0)..=(family, prefix.length())).any(|((_, length), entries)| {
            let covering = Prefix::masked(prefix.address(), *length);
            let ranges = covering.and_then(|covering| entries.get(&covering));
            let lengths = ranges.into_iter().flatten();
            lengths.into_iter().any(|(ge, le)| (*ge..=*le).contains(&prefix.length()))
        })
    }
}
