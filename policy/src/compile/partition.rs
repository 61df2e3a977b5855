//! Members in parts by what is true of them, each part with a number that moves as few members as can be.
//!
//! A part is all members with the same key. When all members of a part come to have another key together, the part
//! keeps its number and takes the key: nothing has to be moved in the kernel, only what the number means there. When
//! a part splits and none of it keeps the old key, its largest piece keeps the number. A number that went out of use
//! is not given to something else: what still carries it somewhere stays harmless.

use std::collections::{BTreeMap, BTreeSet};

/// Members of type `M` by key.
#[derive(Debug)]
pub(super) struct Partition<M, K> {
    parts: BTreeMap<u32, Part<M, K>>,
    numbers: BTreeMap<K, u32>,
    of: BTreeMap<M, u32>,
    last: u32,
}

#[derive(Debug)]
struct Part<M, K> {
    key: K,
    members: BTreeSet<M>,
}

/// What an assignment has changed.
#[derive(Debug)]
pub(super) struct Moved<M> {
    /// Members that are in a part of another number than before, or in one or none at all.
    pub(super) members: BTreeMap<M, Move>,
    /// Parts that are new, or have another key, or are gone.
    pub(super) parts: BTreeSet<u32>,
}

/// From which part to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Move {
    pub(super) from: Option<u32>,
    pub(super) to: Option<u32>,
}

impl<M, K> Default for Partition<M, K> {
    fn default() -> Self {
        Self { parts: BTreeMap::new(), numbers: BTreeMap::new(), of: BTreeMap::new(), last: 0 }
    }
}

impl<M: Ord + Clone, K: Ord + Clone> Partition<M, K> {
    /// The part of a member.
    pub(super) fn of(&self, member: &M) -> Option<u32> {
        self.of.get(member).copied()
    }

    /// The key of the part of a member.
    pub(super) fn key_of(&self, member: &M) -> Option<&K> {
        self.key(self.of(member)?)
    }

    /// The key of a part.
    pub(super) fn key(&self, part: u32) -> Option<&K> {
        self.parts.get(&part).map(|part| &part.key)
    }

    /// The members of a part.
    pub(super) fn members(&self, part: u32) -> impl DoubleEndedIterator<Item = &M> {
        self.parts.get(&part).into_iter().flat_map(|part| &part.members)
    }

    /// All parts with their keys.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u32, &K)> {
        self.parts.iter().map(|(number, part)| (*number, &part.key))
    }

    /// All members with their parts, in order.
    pub(super) fn all(&self) -> &BTreeMap<M, u32> {
        &self.of
    }

    /// Gives members new keys; `None` takes one out.
    pub(super) fn assign(&mut self, wishes: BTreeMap<M, Option<K>>) -> Moved<M> {
        let mut groups: BTreeMap<Option<u32>, BTreeMap<Option<K>, Vec<M>>> = BTreeMap::new();
        for (member, key) in wishes {
            let from = self.of(&member);
            if from.and_then(|from| self.key(from)) != key.as_ref() {
                groups.entry(from).or_default().entry(key).or_default().push(member);
            }
        }
        let mut moved = Moved { members: BTreeMap::new(), parts: BTreeSet::new() };
        for (from, groups) in &mut groups {
            if let Some(from) = *from
                && let Some(key) = self.heir(from, groups)
            {
                groups.remove(&Some(key.clone()));
                self.rename(from, key);
                moved.parts.insert(from);
            }
        }
        for (from, groups) in groups {
            for (key, members) in groups {
                let to = key.map(|key| self.number(key, &mut moved.parts));
                for member in members {
                    self.place(&member, Move { from, to });
                    moved.members.insert(member, Move { from, to });
                }
            }
        }
        let emptied: Vec<u32> = moved.members.values().filter_map(|of| of.from).collect();
        for number in emptied {
            if self.parts.get(&number).is_some_and(|part| part.members.is_empty())
                && let Some(part) = self.parts.remove(&number)
            {
                self.numbers.remove(&part.key);
                moved.parts.insert(number);
            }
        }
        moved
    }

    /// The key that a part takes over, because all its members leave and the largest group of them has it first.
    fn heir(&self, from: u32, groups: &BTreeMap<Option<K>, Vec<M>>) -> Option<K> {
        let leaving: usize = groups.values().map(Vec::len).sum();
        if leaving < self.parts.get(&from)?.members.len() {
            return None;
        }
        let free = groups.iter().filter_map(|(key, members)| Some((key.as_ref()?, members.len())));
        let free = free.filter(|(key, _)| !self.numbers.contains_key(key));
        free.max_by_key(|(_, count)| *count).map(|(key, _)| key.clone())
    }

    fn rename(&mut self, number: u32, key: K) {
        let Some(part) = self.parts.get_mut(&number) else { return };
        let before = std::mem::replace(&mut part.key, key.clone());
        self.numbers.remove(&before);
        self.numbers.insert(key, number);
    }

    fn number(&mut self, key: K, changed: &mut BTreeSet<u32>) -> u32 {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        self.last += 1;
        self.numbers.insert(key.clone(), self.last);
        self.parts.insert(self.last, Part { key, members: BTreeSet::new() });
        changed.insert(self.last);
        self.last
    }

    fn place(&mut self, member: &M, Move { from, to }: Move) {
        if let Some(part) = from.and_then(|from| self.parts.get_mut(&from)) {
            part.members.remove(member);
        }
        match to {
            Some(to) => {
                self.of.insert(member.clone(), to);
                if let Some(part) = self.parts.get_mut(&to) {
                    part.members.insert(member.clone());
                }
            }
            None => drop(self.of.remove(member)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::{collection::vec, option, prelude::*};

    use super::{Move, Partition};

    fn assign(partition: &mut Partition<u8, char>, wishes: &[(u8, Option<char>)]) -> Vec<(u8, Move)> {
        partition.assign(wishes.iter().copied().collect()).members.into_iter().collect()
    }

    #[test]
    fn a_part_whose_members_all_change_alike_keeps_its_number_and_moves_nobody() {
        let mut partition = Partition::default();
        assign(&mut partition, &[(1, Some('a')), (2, Some('a'))]);
        let number = partition.of(&1);
        assert!(assign(&mut partition, &[(1, Some('b')), (2, Some('b'))]).is_empty());
        assert_eq!((partition.of(&2), partition.key_of(&2)), (number, Some(&'b')));
    }

    #[test]
    fn of_a_part_that_splits_the_largest_piece_keeps_the_number_unless_some_stay() {
        let mut partition = Partition::default();
        assign(&mut partition, &[(1, Some('a')), (2, Some('a')), (3, Some('a'))]);
        let number = partition.of(&1);
        let moved = assign(&mut partition, &[(1, Some('b')), (2, Some('c')), (3, Some('c'))]);
        assert_eq!(moved.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [1]);
        assert_eq!(partition.of(&2), number);
        let moved = assign(&mut partition, &[(2, Some('d'))]);
        assert_eq!(moved.iter().map(|(member, _)| *member).collect::<Vec<_>>(), [2]);
        assert_eq!(partition.of(&3), number);
    }

    proptest! {
        #[test]
        fn members_share_a_part_exactly_when_they_share_a_key(
            steps in vec(vec((0_u8..8, option::of(0_u8..4)), 0..6), 0..12),
        ) {
            let mut partition = Partition::default();
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            let mut used = BTreeSet::new();
            for step in steps {
                let wishes: BTreeMap<u8, Option<u8>> = step.into_iter().collect();
                let before = partition.all().clone();
                let keys: BTreeMap<u32, u8> = partition.parts().map(|(part, key)| (part, *key)).collect();
                for (member, key) in &wishes {
                    match key {
                        Some(key) => drop(model.insert(*member, *key)),
                        None => drop(model.remove(member)),
                    }
                }
                let moved = partition.assign(wishes);
                let seen: BTreeMap<u8, u8> =
                    partition.all().iter().map(|(member, part)| (*member, *partition.key(*part).unwrap())).collect();
                prop_assert_eq!(&seen, &model);
                for part in partition.parts().map(|(part, _)| part) {
                    prop_assert!(partition.members(part).count() > 0);
                    prop_assert!(keys.contains_key(&part) || used.insert(part), "a number that was given away");
                }
                prop_assert_eq!(partition.parts().count(), model.values().collect::<BTreeSet<_>>().len());
                // What is not reported has not changed.
                for member in 0..8 {
                    let reported = moved.members.get(&member).copied();
                    let change = Move { from: before.get(&member).copied(), to: partition.of(&member) };
                    prop_assert_eq!(reported, (change.from != change.to).then_some(change));
                }
                let now: BTreeMap<u32, u8> = partition.parts().map(|(part, key)| (part, *key)).collect();
                for part in keys.keys().chain(now.keys()) {
                    prop_assert_eq!(moved.parts.contains(part), keys.get(part) != now.get(part));
                }
            }
        }
    }
}
