//! Protocols and sets of ports.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// A protocol that NetworkPolicy knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The number in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(format!("`{other}` is not one of TCP, UDP, SCTP")),
        }
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest, not below `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// One port.
    pub const fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Whether a port is in it.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// Protocols with ports: what a rule opens.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    everything: bool,
    ranges: BTreeMap<Protocol, Vec<PortRange>>,
}

impl PortSet {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Every protocol, those without ports included.
    pub fn everything() -> Self {
        Self { everything: true, ranges: BTreeMap::new() }
    }

    /// Whether it is [`PortSet::everything`].
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Adds a range of one protocol.
    pub fn insert(&mut self, protocol: Protocol, range: PortRange) {
        if self.everything {
            return;
        }
        let ranges = self.ranges.entry(protocol).or_default();
        ranges.push(range);
        ranges.sort();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges.drain(..) {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        *ranges = merged;
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        if other.everything {
            *self = Self::everything();
        }
        for (protocol, ranges) in &other.ranges {
            for range in ranges {
                self.insert(*protocol, *range);
            }
        }
    }

    /// Whether a port of a protocol is in it.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.everything
            || self.ranges.get(&protocol).is_some_and(|ranges| ranges.iter().any(|r| r.contains(port)))
    }

    /// The ranges of each protocol, disjoint, not adjacent, in order. Empty for [`PortSet::everything`].
    pub fn ranges(&self) -> impl Iterator<Item = (Protocol, PortRange)> {
        self.ranges.iter().flat_map(|(protocol, ranges)| ranges.iter().map(|range| (*protocol, *range)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PortRange, PortSet, Protocol};

    proptest! {
        #[test]
        fn ranges_stay_disjoint_and_hold_what_was_inserted(
            inserted in prop::collection::vec((0_u16..50, 0_u16..10), 0..12), probe in 0_u16..70,
        ) {
            let mut set = PortSet::nothing();
            for (first, length) in &inserted {
                set.insert(Protocol::Tcp, PortRange { first: *first, last: first + length });
            }
            let expected = inserted.iter().any(|(first, length)| (*first..=first + length).contains(&probe));
            prop_assert_eq!(set.contains(Protocol::Tcp, probe), expected);
            prop_assert!(!set.contains(Protocol::Udp, probe));
            let ranges: Vec<_> = set.ranges().collect();
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].1.last + 1 < pair[1].1.first);
            }
        }
    }

    #[test]
    fn the_last_port_does_not_overflow() {
        let mut set = PortSet::nothing();
        set.insert(Protocol::Udp, PortRange::single(65535));
        set.insert(Protocol::Udp, PortRange::ALL);
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(Protocol::Udp, PortRange::ALL)]);
    }
}
