//! What happened to the objects of one kind.

use std::collections::{BTreeMap, BTreeSet};

/// What happened to the objects of one kind.
#[derive(Debug)]
pub(crate) enum Change<K, V> {
    /// These are all there are.
    Replaced(BTreeMap<K, V>),
    /// One is there, or has changed.
    Applied(K, V),
    /// One is gone.
    Deleted(K),
}

impl<K: Ord, V> Change<K, V> {
    /// Whether it is all there are.
    pub(crate) fn is_listing(&self) -> bool {
        matches!(self, Self::Replaced(_))
    }

    /// Does this to each value that it has.
    pub(crate) fn each(&mut self, mut change: impl FnMut(&K, &mut V)) {
        match self {
            Self::Replaced(all) => all.iter_mut().for_each(|(key, value)| change(key, value)),
            Self::Applied(key, value) => change(key, value),
            Self::Deleted(_) => {}
        }
    }

    /// Makes a map so; true when anything in it is other than before.
    pub(crate) fn changes(self, map: &mut BTreeMap<K, V>) -> bool
    where
        K: Clone,
        V: PartialEq,
    {
        !self.touches(map).is_empty()
    }

    /// Makes a map so, and says which keys have another value than before, or a value only before or after.
    pub(crate) fn touches(self, map: &mut BTreeMap<K, V>) -> BTreeSet<K>
    where
        K: Clone,
        V: PartialEq,
    {
        match self {
            Self::Replaced(all) => {
                let before = std::mem::replace(map, all);
                let gone = before.keys().filter(|key| !map.contains_key(*key)).cloned();
                let come = map.iter().filter(|(key, value)| before.get(*key) != Some(*value));
                gone.chain(come.map(|(key, _)| key.clone())).collect()
            }
            Self::Applied(key, value) => {
                if map.get(&key) == Some(&value) {
                    return BTreeSet::new();
                }
                map.insert(key.clone(), value);
                [key].into()
            }
            Self::Deleted(key) => map.remove(&key).map(|_| key).into_iter().collect(),
        }
    }

    /// The same about a part of each value, and about the rest of it.
    pub(crate) fn split<A, B>(self, parts: impl Fn(V) -> (A, B)) -> (Change<K, A>, Change<K, B>)
    where
        K: Clone,
    {
        match self {
            Self::Replaced(all) => {
                let parts = all.into_iter().map(|(key, value)| {
                    let (a, b) = parts(value);
                    ((key.clone(), a), (key, b))
                });
                let (one, other) = parts.unzip();
                (Change::Replaced(one), Change::Replaced(other))
            }
            Self::Applied(key, value) => {
                let (a, b) = parts(value);
                (Change::Applied(key.clone(), a), Change::Applied(key, b))
            }
            Self::Deleted(key) => (Change::Deleted(key.clone()), Change::Deleted(key)),
        }
    }
}
