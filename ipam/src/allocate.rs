//! Which address comes next.

use ipnetwork::IpNetwork;

use crate::{Block, Offset, Owner, Slot};

/// The answer to a wish for a certain address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Free,
    HeldBy(Owner),
    Damaged,
}

impl Block {
    /// The free address that has been free longest, the lowest of those: a freed address is reused last, so
    /// that whoever still has it in a cache has time to notice. `None` when the block is full.
    pub fn next_free(&self) -> Option<Offset> {
        self.next_free_but(&[])
    }

    /// As [`Self::next_free`], without the addresses in some ranges.
    pub fn next_free_but(&self, excluded: &[IpNetwork]) -> Option<Offset> {
        let is_excluded = |offset| {
            let address = self.window().address(offset);
            excluded.iter().any(|range| range.contains(address))
        };
        (0..self.window().len())
            .map(Offset)
            .filter(|offset| self.window().usable(*offset))
            .filter_map(|offset| match self.written(offset) {
                None => Some((0, offset)),
                Some(Slot::Free { freed }) => Some((*freed, offset)),
                Some(_) => None,
            })
            .filter(|(_, offset)| excluded.is_empty() || !is_excluded(*offset))
            .min()
            .map(|(_, offset)| offset)
    }

    /// The address that an owner holds here.
    pub fn held_by(&self, owner: &Owner) -> Option<Offset> {
        self.slots().find_map(|(offset, slot)| match slot {
            Slot::Held { owner: holder } if holder == owner => Some(offset),
            _ => None,
        })
    }

    pub(crate) fn wish(&self, offset: Offset) -> Wish {
        match self.slot(offset) {
            Slot::Free { .. } => Wish::Free,
            Slot::Held { owner } => Wish::HeldBy(owner),
            Slot::Damaged => Wish::Damaged,
        }
    }

    /// The count to note on the next address that is freed: above that of all freed before.
    pub(crate) fn next_freed(&self) -> u64 {
        let last = self.slots().filter_map(|(_, slot)| match slot {
            Slot::Free { freed } => Some(*freed),
            _ => None,
        });
        last.max().unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use crate::{Block, Offset, Owner, Slot, Window};

    fn owner(number: u32) -> Owner {
        Owner::new(&format!("c{number}"), "eth0").unwrap()
    }

    proptest! {
        /// Against a queue, which is what "freed addresses are reused last" means.
        #[test]
        fn freed_addresses_are_reused_in_the_order_of_their_freeing(steps in prop::collection::vec(0_u32..12, 1..200)) {
            let window = Window::of("192.0.2.0/29".parse().unwrap()).unwrap();
            let mut block = Block::new(window, vec![]);
            let mut queue: VecDeque<Offset> = (1..7).map(Offset).collect();
            let mut held = BTreeMap::new();
            for step in steps {
                let owner = owner(step);
                if let Some(offset) = held.remove(&owner) {
                    prop_assert_eq!(block.held_by(&owner), Some(offset));
                    let freed = block.next_freed();
                    block.put(offset, Slot::Free { freed });
                    queue.push_back(offset);
                } else {
                    let expected = queue.pop_front();
                    prop_assert_eq!(block.next_free(), expected);
                    if let Some(offset) = expected {
                        block.put(offset, Slot::Held { owner: owner.clone() });
                        held.insert(owner, offset);
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_slot_is_not_handed_out() {
        let window = Window::of("192.0.2.0/30".parse().unwrap()).unwrap();
        let block = Block::new(window, vec![Slot::Free { freed: 0 }, Slot::Damaged, Slot::Damaged]);
        assert_eq!(block.next_free(), None);
    }
}
