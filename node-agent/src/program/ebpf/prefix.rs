//! Ranges as the prefixes that a trie has.

use std::net::IpAddr;

use margay_ebpf_common::{
    address::{Address, IPV4_PREFIX_LEN},
    verdict::VerdictKey,
};
use margay_policy::{AddressRange, PortRange};

/// A key of a trie: the first `len` bits of `data`, whose other bits are zero. In the order of `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix<T> {
    pub(super) data: T,
    pub(super) len: u32,
}

/// The fewest prefixes that together are a range of numbers of so many bits: first numbers and lengths.
fn cover(first: u128, last: u128, bits: u32) -> impl Iterator<Item = (u128, u32)> {
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let start = next.filter(|start| *start <= last)?;
        // As large as the start allows, and then as the end does.
        let mut free = start.trailing_zeros().min(bits);
        let end = |free: u32| if free == 128 { u128::MAX } else { start | ((1 << free) - 1) };
        while end(free) > last {
            free -= 1;
        }
        next = end(free).checked_add(1);
        Some((start, bits - free))
    })
}

/// The prefixes of a range of addresses.
pub(super) fn of_addresses(range: &AddressRange) -> impl Iterator<Item = Prefix<Address>> {
    let [first, last] =
        [range.first, range.last].map(|address| u128::from_be_bytes(Address::from(address).0));
    // A range has one family, and within that of IPv4 no prefix is shorter than what comes before the addresses, but
    // when the whole family is meant.
    let is_ipv4 = range.first.is_ipv4();
    let prefixes =
        cover(first, last, 128).map(|(start, len)| Prefix { data: Address(start.to_be_bytes()), len });
    // What of IPv6 is within the mapped addresses would be of IPv4.
    prefixes.filter(move |it| is_ipv4 || it.len < IPV4_PREFIX_LEN || IpAddr::from(it.data).is_ipv6())
}

/// The prefix of a network.
pub(super) fn of_network(network: ipnetwork::IpNetwork) -> Prefix<Address> {
    let before = if network.is_ipv4() { IPV4_PREFIX_LEN } else { 0 };
    Prefix { data: network.network().into(), len: before + u32::from(network.prefix()) }
}

/// The keys of some ports of what `rest` is of.
pub(super) fn of_ports(
    rest: VerdictKey,
    protocol: u8,
    ports: PortRange,
) -> impl Iterator<Item = Prefix<VerdictKey>> {
    cover(ports.first.into(), ports.last.into(), 16).map(move |(start, len)| {
        let [.., high, low] = start.to_be_bytes();
        let data = VerdictKey { protocol, port: [high, low], ..rest };
        Prefix { data, len: VerdictKey::PORT - 16 + len }
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use margay_policy::AddressRange;
    use proptest::prelude::*;

    use super::{cover, of_addresses, of_network};

    #[test]
    fn a_network_is_one_prefix() {
        for (first, last, network) in [
            ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),
            ("192.0.2.0", "192.0.2.255", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7/32"),
            ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"),
            ("2001:db8::", "2001:db8::ffff", "2001:db8::/112"),
        ] {
            let [first, last] = [first, last].map(|text| text.parse::<IpAddr>().unwrap());
            let prefixes: Vec<_> = of_addresses(&AddressRange { first, last }).collect();
            assert_eq!(prefixes, [of_network(network.parse().unwrap())], "{network}");
        }
    }

    #[test]
    fn a_range_of_ipv6_says_nothing_of_ipv4() {
        let range = |first: &str, last: &str| AddressRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
        };
        assert_eq!(of_addresses(&range("::ffff:10.0.0.0", "::ffff:10.255.255.255")).count(), 0);
        assert_eq!(
            of_addresses(&range("::", "::1:0:0:0")).filter(|it| it.len >= 96).count(),
            1,
            "its last address"
        );
    }

    proptest! {
        #[test]
        fn prefixes_are_exactly_the_range(one: u16, other: u16) {
            let (first, last) = (one.min(other), one.max(other));
            let mut next = u128::from(first);
            for (start, len) in cover(first.into(), last.into(), 16) {
                prop_assert_eq!(start, next, "without a gap");
                let size = 1 << (16 - len);
                prop_assert_eq!(start % size, 0, "a prefix");
                next = start + size;
            }
            prop_assert_eq!(next, u128::from(last) + 1);
        }
    }
}
