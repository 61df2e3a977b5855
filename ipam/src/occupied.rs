//! Which ranges are taken.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

/// Blocks of any sizes, asked what overlaps them in a few look-ups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Occupied {
    blocks: BTreeSet<IpNetwork>,
    /// The prefix lengths that there are: (IPv6, length).
    lengths: BTreeSet<(bool, u8)>,
}

impl Occupied {
    pub(crate) fn of(blocks: impl IntoIterator<Item = IpNetwork>) -> Self {
        let blocks: BTreeSet<IpNetwork> = blocks.into_iter().collect();
        let lengths = blocks.iter().map(|block| (block.is_ipv6(), block.prefix())).collect();
        Self { blocks, lengths }
    }

    /// Whether one of the blocks overlaps this network.
    pub(crate) fn overlaps(&self, network: IpNetwork) -> bool {
        self.overlapping(network).next().is_some()
    }

    /// Whether one of the blocks that is not this network itself overlaps it.
    pub(crate) fn others_overlap(&self, network: IpNetwork) -> bool {
        self.overlapping(network).any(|block| block != network)
    }

    fn overlapping(&self, network: IpNetwork) -> impl Iterator<Item = IpNetwork> {
        let lengths = self.lengths.range((network.is_ipv6(), 0)..(network.is_ipv6(), network.prefix()));
        let around = lengths.filter_map(move |(_, length)| {
            let around = IpNetwork::new(network.network(), *length).ok()?;
            let around = IpNetwork::new(around.network(), *length).ok()?;
            self.blocks.get(&around).copied()
        });
        // Ordered by address, then length: all that begin inside follow each other.
        let first = IpNetwork::new(network.network(), network.prefix()).unwrap_or(network);
        let inside = self.blocks.range(first..).copied();
        around.chain(inside.take_while(move |block| network.contains(block.network())))
    }
}

#[cfg(test)]
mod tests {
    use ipnetwork::IpNetwork;
    use proptest::prelude::*;

    use super::Occupied;
    use crate::pool::overlap;

    fn network() -> impl Strategy<Value = IpNetwork> {
        (0_u8..32, 26_u8..=30, any::<bool>()).prop_map(|(octet, length, is_ipv6)| {
            let text = if is_ipv6 {
                format!("2001:db8::{octet:x}/{}", length + 96)
            } else {
                format!("192.0.2.{}/{length}", octet * 8)
            };
            let network: IpNetwork = text.parse().unwrap();
            IpNetwork::new(network.network(), network.prefix()).unwrap()
        })
    }

    proptest! {
        #[test]
        fn what_overlaps_is_what_a_look_at_each_finds(blocks in prop::collection::vec(network(), 0..12), asked in network()) {
            let occupied = Occupied::of(blocks.iter().copied());
            prop_assert_eq!(occupied.overlaps(asked), blocks.iter().any(|block| overlap(*block, asked)));
            let others = blocks.iter().any(|block| *block != asked && overlap(*block, asked));
            prop_assert_eq!(occupied.others_overlap(asked), others);
        }
    }
}
