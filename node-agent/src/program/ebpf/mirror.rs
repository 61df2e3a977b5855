//! A map of the kernel, with what is wanted in it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::RangeBounds,
};

/// What can be done to a map of the kernel. The maps of aya do it, and one for tests that refuses what the kernel would.
pub(super) trait KernelMap {
    type Key: Copy + Ord;
    type Value: Copy + PartialEq;

    /// Entries that there is room for.
    fn capacity(&self) -> usize;
    /// Writes an entry over what there is.
    fn insert(&mut self, key: Self::Key, value: Self::Value) -> anyhow::Result<()>;
    /// Takes an entry away; that there is none is no error.
    fn remove(&mut self, key: Self::Key) -> anyhow::Result<()>;
    /// All entries.
    fn entries(&self) -> anyhow::Result<BTreeMap<Self::Key, Self::Value>>;
}

/// What a map is to hold, with what of it the kernel lacks.
#[derive(Debug)]
pub(super) struct Mirror<K, V> {
    wanted: BTreeMap<K, V>,
    /// What the kernel has of each entry that may differ; `None` when it is not known what it has at all.
    dirty: Option<BTreeMap<K, Option<V>>>,
}

impl<K, V> Default for Mirror<K, V> {
    fn default() -> Self {
        Self { wanted: BTreeMap::new(), dirty: None }
    }
}

impl<K: Copy + Ord, V: Copy + PartialEq> Mirror<K, V> {
    /// Wants an entry.
    pub(super) fn put(&mut self, key: K, value: V) {
        let before = self.wanted.insert(key, value);
        if before != Some(value) {
            self.touched(key, before);
        }
    }

    /// Wants an entry no longer.
    pub(super) fn remove(&mut self, key: &K) {
        if let Some(before) = self.wanted.remove(key) {
            self.touched(*key, Some(before));
        }
    }

    /// Wants no entries in a range of keys any longer.
    pub(super) fn remove_range(&mut self, range: impl RangeBounds<K>) {
        let keys: Vec<K> = self.wanted.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// Wants these entries and no others.
    pub(super) fn replace(&mut self, entries: impl IntoIterator<Item = (K, V)>) {
        let mut gone = self.wanted.clone();
        for (key, value) in entries {
            gone.remove(&key);
            self.put(key, value);
        }
        for key in gone.keys() {
            self.remove(key);
        }
    }

    /// What is wanted.
    pub(super) fn wanted(&self) -> &BTreeMap<K, V> {
        &self.wanted
    }

    /// Whether the kernel may lack something.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.as_ref().is_none_or(|dirty| !dirty.is_empty())
    }

    /// Takes note that nobody knows what the kernel holds.
    pub(super) fn lose(&mut self) {
        self.dirty = None;
    }

    /// Makes the kernel's map hold what is wanted, and says how many entries were written.
    ///
    /// # Errors
    /// When there is no room, in which case nothing was written, or when the kernel refuses.
    pub(super) fn write(
        &mut self,
        name: &str,
        map: &mut impl KernelMap<Key = K, Value = V>,
    ) -> anyhow::Result<usize> {
        anyhow::ensure!(
            self.wanted.len() <= map.capacity(),
            "the map {name} has room for {} entries, and {} are needed: make it larger (ebpf.{})",
            map.capacity(),
            self.wanted.len(),
            name.to_lowercase()
        );
        let dirty = match self.dirty.take() {
            Some(dirty) => dirty,
            None => self.differing(map.entries()?),
        };
        // What goes makes room for what comes. Whoever stops half way leaves `dirty` unknown.
        let (gone, news): (Vec<_>, Vec<_>) =
            dirty.into_iter().partition(|(key, _)| !self.wanted.contains_key(key));
        let mut written = 0;
        for (key, _) in gone.iter().filter(|(_, there)| there.is_some()) {
            map.remove(*key)?;
            written += 1;
        }
        for (key, there) in news {
            let Some(value) = self.wanted.get(&key).filter(|value| there != Some(**value)) else { continue };
            map.insert(key, *value)?;
            written += 1;
        }
        self.dirty = Some(BTreeMap::new());
        Ok(written)
    }

    fn touched(&mut self, key: K, before: Option<V>) {
        if let Some(dirty) = &mut self.dirty
            && let Entry::Vacant(entry) = dirty.entry(key)
        {
            entry.insert(before);
        }
    }

    /// What the kernel has of each entry that differs.
    fn differing(&self, there: BTreeMap<K, V>) -> BTreeMap<K, Option<V>> {
        let lacking = self.wanted.keys().filter(|key| !there.contains_key(key)).map(|key| (*key, None));
        let mut differing: BTreeMap<K, Option<V>> = lacking.collect();
        let others = there.into_iter().filter(|(key, value)| self.wanted.get(key) != Some(value));
        differing.extend(others.map(|(key, value)| (key, Some(value))));
        differing
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, option, prelude::*};

    use super::{KernelMap, Mirror};

    /// A map that holds so many entries, and counts what it is asked.
    #[derive(Debug)]
    pub(crate) struct Fake<K, V> {
        pub(crate) capacity: usize,
        pub(crate) held: BTreeMap<K, V>,
        pub(crate) calls: usize,
    }

    impl<K: Copy + Ord, V: Copy + PartialEq> KernelMap for Fake<K, V> {
        type Key = K;
        type Value = V;

        fn capacity(&self) -> usize {
            self.capacity
        }

        fn insert(&mut self, key: K, value: V) -> anyhow::Result<()> {
            self.calls += 1;
            anyhow::ensure!(self.held.len() < self.capacity || self.held.contains_key(&key), "E2BIG");
            self.held.insert(key, value);
            Ok(())
        }

        fn remove(&mut self, key: K) -> anyhow::Result<()> {
            self.calls += 1;
            self.held.remove(&key);
            Ok(())
        }

        fn entries(&self) -> anyhow::Result<BTreeMap<K, V>> {
            Ok(self.held.clone())
        }
    }

    /// Steps of wanting an entry or none, each with whether the kernel is brought up to date after it, or forgotten.
    fn steps() -> impl Strategy<Value = Vec<(u8, Option<u8>, u8)>> {
        vec((0_u8..6, option::of(0_u8..3), 0_u8..4), 0..40)
    }

    proptest! {
        #[test]
        fn the_kernel_holds_what_is_wanted_after_each_write(steps in steps(), found in vec((0_u8..6, 0_u8..3), 0..4)) {
            let mut map = Fake { capacity: 6, held: found.into_iter().collect(), calls: 0 };
            let mut mirror = Mirror::default();
            for (key, value, then) in steps {
                match value {
                    Some(value) => mirror.put(key, value),
                    None => mirror.remove(&key),
                }
                match then {
                    0 => {
                        mirror.write("TEST", &mut map).unwrap();
                        prop_assert_eq!(&map.held, mirror.wanted());
                        prop_assert!(!mirror.is_dirty());
                    }
                    1 => mirror.lose(),
                    _ => {}
                }
            }
            mirror.write("TEST", &mut map).unwrap();
            prop_assert_eq!(&map.held, mirror.wanted());
        }
    }

    #[test]
    fn what_is_put_back_as_it_was_is_not_written() {
        let mut map = Fake { capacity: 2, held: BTreeMap::new(), calls: 0 };
        let mut mirror = Mirror::default();
        mirror.put(1, 'a');
        assert_eq!(mirror.write("TEST", &mut map).unwrap(), 1);
        mirror.put(1, 'b');
        mirror.put(1, 'a');
        mirror.put(2, 'c');
        mirror.remove(&2);
        assert_eq!(mirror.write("TEST", &mut map).unwrap(), 0);
        assert_eq!(map.calls, 1);
    }

    #[test]
    fn more_than_there_is_room_for_is_refused_before_anything_is_written() {
        let mut map = Fake { capacity: 1, held: BTreeMap::new(), calls: 0 };
        let mut mirror = Mirror::default();
        mirror.replace([(1, 'a'), (2, 'b')]);
        let error = mirror.write("TEST", &mut map).unwrap_err().to_string();
        assert_eq!(
            error,
            "the map TEST has room for 1 entries, and 2 are needed: make it larger (ebpf.test)"
        );
        assert_eq!(map.calls, 0);
        mirror.replace([(2, 'b')]);
        assert_eq!(mirror.write("TEST", &mut map).unwrap(), 1);
    }
}
