//! Ranges of ports, cut so that none overlaps another.
//!
//! A class with a range of ports would be a key of several fields with a range in it, and the kernel searches a whole
//! map of such keys for each one that goes. So a direction has one small map from ports to *bands*, which only changes
//! when a policy names other ranges, and each band a plain map from class to what is decided. It would be one map for
//! all bands, if `nft` could list a key of which one field was looked up.

use std::collections::{BTreeMap, BTreeSet};

use margay_policy::{
    PortRange, Protocol,
    compile::{Entries, PortEntry},
};

/// The ports that the classes of one direction name, kept up to date class by class.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// How many entries name a few ports.
    few: usize,
    /// How many name each range.
    ranges: BTreeMap<(Protocol, PortRange), usize>,
}

impl Named {
    /// Whether any class names a few ports.
    pub(crate) fn has_few(&self) -> bool {
        self.few > 0
    }

    /// Whether any class names a range.
    pub(crate) fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// A class names these from now on, in place of those that it named; true when the ranges are others then.
    pub(crate) fn replace(&mut self, before: Option<&Entries>, now: Option<&Entries>) -> bool {
        let mut is_other = false;
        for entry in now.into_iter().flat_map(|entries| &entries.ports) {
            if is_range(entry) {
                let number = self.ranges.entry((entry.protocol, entry.ports)).or_default();
                *number += 1;
                is_other |= *number == 1;
            } else {
                self.few += 1;
            }
        }
        for entry in before.into_iter().flat_map(|entries| &entries.ports) {
            let range = (entry.protocol, entry.ports);
            if !is_range(entry) {
                self.few -= 1;
            } else if let Some(number) = self.ranges.get_mut(&range) {
                *number -= 1;
                if *number == 0 {
                    self.ranges.remove(&range);
                    is_other = true;
                }
            }
        }
        is_other
    }
}

/// The bands of one direction: of all its ranges with a class, by protocol, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bands(BTreeMap<Protocol, Vec<PortRange>>);

impl Bands {
    /// The widest that no range ends within.
    pub(crate) fn of(named: &Named) -> Self {
        let mut ranges: BTreeMap<Protocol, BTreeSet<PortRange>> = BTreeMap::new();
        for (protocol, range) in named.ranges.keys() {
            ranges.entry(*protocol).or_default().insert(*range);
        }
        Self(ranges.into_iter().map(|(protocol, ranges)| (protocol, cut(&ranges))).collect())
    }

    /// Every band with its protocol.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Protocol, PortRange)> {
        self.0.iter().flat_map(|(protocol, bands)| bands.iter().map(|band| (*protocol, *band)))
    }

    /// The bands that make up the ports of an entry.
    pub(crate) fn within(&self, entry: &PortEntry) -> impl Iterator<Item = PortRange> {
        let bands = self.0.get(&entry.protocol).map_or(&[][..], Vec::as_slice);
        let begin = bands.partition_point(|band| band.first < entry.ports.first);
        bands[begin..].iter().copied().take_while(move |band| band.last <= entry.ports.last)
    }
}

/// Ports that follow one another and are written one by one: a map of ranges costs more than that.
const FEW: u16 = 8;

/// Whether an entry is written as a range.
pub(crate) fn is_range(entry: &PortEntry) -> bool {
    entry.ports.last - entry.ports.first >= FEW
}

fn cut(ranges: &BTreeSet<PortRange>) -> Vec<PortRange> {
    // Where a band may begin; the port after the last is none.
    let begins: BTreeSet<u32> =
        ranges.iter().flat_map(|range| [u32::from(range.first), u32::from(range.last) + 1]).collect();
    let ends = begins.iter().skip(1).map(|next| next - 1);
    let pieces = begins.iter().zip(ends).filter_map(|(first, last)| {
        Some(PortRange { first: u16::try_from(*first).ok()?, last: u16::try_from(last).ok()? })
    });
    let covered = |piece: &PortRange| ranges.iter().any(|range| range.contains(piece.first));
    pieces.filter(covered).collect()
}

#[cfg(test)]
mod tests {
    use margay_policy::compile::Verdict;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn entry(first: u16, last: u16) -> PortEntry {
        PortEntry { protocol: Protocol::Tcp, ports: PortRange { first, last }, verdict: Verdict::Allow }
    }

    fn class((first, last): (u16, u16)) -> Entries {
        Entries { ports: vec![entry(first, last)], ..Entries::all(Verdict::Allow) }
    }

    fn named(ranges: &[(u16, u16)]) -> Named {
        let mut named = Named::default();
        for range in ranges {
            named.replace(None, Some(&class(*range)));
        }
        named
    }

    #[test]
    fn ranges_are_others_when_one_is_named_first_or_by_nobody_any_more() {
        let (some, others) = (class((100, 200)), class((300, 400)));
        let mut named = named(&[(100, 200)]);
        assert!(!named.replace(None, Some(&some)));
        assert!(!named.replace(Some(&some), None));
        assert!(!named.replace(Some(&some), Some(&some)));
        assert!(!named.replace(None, Some(&class((80, 80)))));
        assert!(named.replace(Some(&some), Some(&others)));
        assert!(named.has_few() && named.has_ranges());
        assert!(named.replace(Some(&others), Some(&class((80, 80)))));
        assert!(!named.has_ranges());
    }

    #[test]
    fn ranges_that_overlap_are_cut_where_one_begins_or_ends() {
        let bands = Bands::of(&named(&[(8000, 9000), (8500, 9500), (100, 200), (0, 65535)]));
        let pieces: Vec<(u16, u16)> = bands.all().map(|(_, band)| (band.first, band.last)).collect();
        let expected =
            [(0, 99), (100, 200), (201, 7999), (8000, 8499), (8500, 9000), (9001, 9500), (9501, 65535)];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn a_few_ports_need_no_band() {
        assert_eq!(Bands::of(&named(&[(80, 87)])), Bands::default());
    }

    proptest! {
        #[test]
        fn a_port_is_in_a_range_exactly_if_it_is_in_one_of_its_bands(
            bounds in vec((0_u16..80, 8_u16..40), 1..6),
            port in 0_u16..130,
        ) {
            let ranges: Vec<(u16, u16)> = bounds.iter().map(|(first, more)| (*first, first + more)).collect();
            let bands = Bands::of(&named(&ranges));
            let holding: Vec<PortRange> =
                bands.all().map(|(_, band)| band).filter(|band| band.contains(port)).collect();
            prop_assert!(holding.len() <= 1, "{holding:?} overlap");
            for (first, last) in ranges {
                let entry = entry(first, last);
                let within = bands.within(&entry).filter(|band| band.contains(port)).count();
                prop_assert_eq!(within, usize::from(entry.ports.contains(port)));
            }
        }
    }
}
