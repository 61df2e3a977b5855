//! Overlapping blocks to disjoint ranges of addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;

use crate::Block;

/// Addresses from `first` to `last`, both included, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl AddressRange {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// The addresses that are in any of some networks: disjoint, in order, as long as can be.
pub fn covered(networks: impl IntoIterator<Item = IpNetwork>) -> Vec<AddressRange> {
    let blocks: Vec<Block> = networks.into_iter().map(|cidr| Block { cidr, except: Vec::new() }).collect();
    let keyed: Vec<((), &Block)> = blocks.iter().map(|block| ((), block)).collect();
    disjoint(&keyed).into_iter().map(|(range, _)| range).collect()
}

/// Cuts blocks into ranges so that each address of a range is in the same blocks, and says in which. Ranges are
/// disjoint, in order, as long as can be, and only where there is a block.
pub(crate) fn disjoint<K: Copy + Ord>(blocks: &[(K, &Block)]) -> Vec<(AddressRange, BTreeSet<K>)> {
    let mut found = Vec::new();
    for is_ipv4 in [true, false] {
        // Where a block begins (or an except ends) its key's depth rises by one; where it ends, it falls.
        let mut edges: BTreeMap<u128, Vec<(K, i32)>> = BTreeMap::new();
        let mut edge = |network: &IpNetwork, key: K, rise: i32| {
            let (first, last) = bounds(network);
            edges.entry(first).or_default().push((key, rise));
            if last != limit(is_ipv4) {
                edges.entry(last + 1).or_default().push((key, -rise));
            }
        };
        for (key, block) in blocks.iter().filter(|(_, block)| block.cidr.is_ipv4() == is_ipv4) {
            edge(&block.cidr, *key, 1);
            for except in outermost(&block.except) {
                edge(except, *key, -1);
            }
        }
        let mut depths: BTreeMap<K, i32> = BTreeMap::new();
        let mut starts = edges.into_iter().peekable();
        while let Some((first, changes)) = starts.next() {
            for (key, change) in changes {
                *depths.entry(key).or_default() += change;
            }
            depths.retain(|_, depth| *depth != 0);
            let keys: BTreeSet<K> = depths.keys().copied().collect();
            let last = starts.peek().map_or(limit(is_ipv4), |(next, _)| next - 1);
            push(&mut found, address(first, is_ipv4), address(last, is_ipv4), keys);
        }
    }
    found
}

fn push<K: Ord>(
    found: &mut Vec<(AddressRange, BTreeSet<K>)>,
    first: IpAddr,
    last: IpAddr,
    keys: BTreeSet<K>,
) {
    if keys.is_empty() {
        return;
    }
    if let Some((before, same)) = found.last_mut()
        && *same == keys
        && before.last.is_ipv4() == first.is_ipv4()
        && number(before.last).checked_add(1) == Some(number(first))
    {
        before.last = last;
        return;
    }
    found.push((AddressRange { first, last }, keys));
}

/// Excepts inside others would be subtracted twice.
fn outermost(networks: &[IpNetwork]) -> impl Iterator<Item = &IpNetwork> {
    networks
        .iter()
        .enumerate()
        .filter(|(index, network)| {
            !networks.iter().enumerate().any(|(other_index, other)| {
                other.is_ipv4() == network.is_ipv4()
                    && other.contains(network.ip())
                    && (other.prefix() < network.prefix()
                        || (other.prefix() == network.prefix() && other_index < *index))
            })
        })
        .map(|(_, network)| network)
}

fn bounds(network: &IpNetwork) -> (u128, u128) {
    let width: u32 = if network.is_ipv4() { 32 } else { 128 };
    let free = width - u32::from(network.prefix());
    let first = number(network.network());
    (first, first | 1_u128.checked_shl(free).map_or(u128::MAX, |size| size - 1))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn limit(is_ipv4: bool) -> u128 {
    if is_ipv4 { u128::from(u32::MAX) } else { u128::MAX }
}

fn address(number: u128, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        // Bounds of IPv4 networks have 32 bits.
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use ipnetwork::{IpNetwork, Ipv4Network};
    use proptest::prelude::*;

    use super::disjoint;
    use crate::Block;

    fn block(cidr: &str, except: &[&str]) -> Block {
        Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn check(blocks: &[Block], expected: &[(&str, &str, &[usize])]) {
        let keyed: Vec<_> = blocks.iter().enumerate().collect();
        let found: Vec<_> = disjoint(&keyed)
            .into_iter()
            .map(|(range, keys)| {
                (range.first.to_string(), range.last.to_string(), keys.into_iter().collect::<Vec<_>>())
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(first, last, keys)| ((*first).to_owned(), (*last).to_owned(), keys.to_vec()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn nested_and_adjacent_blocks_are_cut_and_joined() {
        check(
            &[block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.2.0/24", &[])],
            &[
                ("10.0.0.0", "10.0.255.255", &[0]),
                ("10.1.2.0", "10.1.2.255", &[1]),
                ("10.2.0.0", "10.255.255.255", &[0]),
            ],
        );
    }

    #[test]
    fn everything_reaches_both_ends_of_both_families() {
        check(
            &[block("0.0.0.0/0", &["255.255.255.255/32"]), block("::/0", &[])],
            &[("0.0.0.0", "255.255.255.254", &[0]), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &[1])],
        );
    }

    #[test]
    fn what_networks_cover_is_each_address_once() {
        let networks = ["10.0.1.0/24", "10.0.0.0/24", "10.0.1.7/32", "fd00::/64"];
        let found = super::covered(networks.map(|text| text.parse().unwrap()));
        let texts: Vec<_> = found.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
        assert_eq!(texts, ["10.0.0.0-10.0.1.255", "fd00::-fd00::ffff:ffff:ffff:ffff"]);
    }

    #[test]
    fn an_except_inside_another_is_taken_away_once() {
        check(
            &[block("192.0.2.0/24", &["192.0.2.0/25", "192.0.2.0/26", "192.0.2.0/25"])],
            &[("192.0.2.128", "192.0.2.255", &[0])],
        );
    }

    fn network() -> impl Strategy<Value = IpNetwork> {
        (any::<u8>(), 24_u8..=32).prop_map(|(host, prefix)| {
            let network = Ipv4Network::new(Ipv4Addr::new(192, 0, 2, host), prefix).unwrap();
            IpNetwork::V4(Ipv4Network::new(network.network(), prefix).unwrap())
        })
    }

    proptest! {
        #[test]
        fn each_address_is_in_the_blocks_that_its_range_says(
            raw in prop::collection::vec((network(), prop::collection::vec(network(), 0..4)), 0..6),
        ) {
            let blocks: Vec<Block> = raw
                .into_iter()
                .map(|(cidr, except)| {
                    let inside = |part: &IpNetwork| part.prefix() >= cidr.prefix() && cidr.contains(part.ip());
                    Block { cidr, except: except.into_iter().filter(inside).collect() }
                })
                .collect();
            let keyed: Vec<_> = blocks.iter().enumerate().collect();
            let ranges = disjoint(&keyed);
            for host in 0..=255 {
                let address = Ipv4Addr::new(192, 0, 2, host).into();
                let expected: BTreeSet<usize> =
                    keyed.iter().filter(|(_, block)| block.contains(address)).map(|(key, _)| *key).collect();
                let hits: Vec<_> = ranges.iter().filter(|(range, _)| range.contains(address)).collect();
                prop_assert!(hits.len() <= 1);
                prop_assert_eq!(hits.first().map(|(_, keys)| keys.clone()).unwrap_or_default(), expected);
            }
        }
    }
}
