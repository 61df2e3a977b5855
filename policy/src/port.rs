//! Protocols and sets of ports.

use std::{fmt, str::FromStr};

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

/// Traffic by protocol and destination port: what a rule is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    /// Protocols that have no ports, or none that policy knows: ICMP and all others.
    others: bool,
    /// Of [`Protocol::ALL`], in its order: disjoint, not adjacent, in order.
    ranges: [Vec<PortRange>; 3],
}

impl PortSet {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Every protocol, those without ports included.
    pub fn everything() -> Self {
        Self { others: true, ranges: std::array::from_fn(|_| vec![PortRange::ALL]) }
    }

    /// Whether it is [`PortSet::nothing`].
    pub fn is_nothing(&self) -> bool {
        !self.others && self.ranges.iter().all(Vec::is_empty)
    }

    /// Whether it is [`PortSet::everything`].
    pub fn is_everything(&self) -> bool {
        self.others && self.ranges.iter().all(|ranges| *ranges == [PortRange::ALL])
    }

    /// Whether protocols without ports are in it.
    pub fn has_others(&self) -> bool {
        self.others
    }

    /// Adds a range of one protocol.
    pub fn insert(&mut self, protocol: Protocol, range: PortRange) {
        let ranges = &mut self.ranges[protocol as usize];
        ranges.push(range);
        merge(ranges);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        self.others |= other.others;
        for (ranges, more) in self.ranges.iter_mut().zip(&other.ranges) {
            if !more.is_empty() {
                ranges.extend(more);
                merge(ranges);
            }
        }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.minus(&Self::everything().minus(other))
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self { others: self.others && !other.others, ..Self::default() };
        for ((left, ranges), less) in left.ranges.iter_mut().zip(&self.ranges).zip(&other.ranges) {
            for range in ranges {
                let mut first = u32::from(range.first);
                for hole in less.iter().filter(|hole| hole.last >= range.first && hole.first <= range.last) {
                    push(left, first, u32::from(hole.first));
                    first = u32::from(hole.last) + 1;
                }
                push(left, first, u32::from(range.last) + 1);
            }
        }
        left
    }

    /// Whether all of it is in another.
    pub fn is_within(&self, other: &Self) -> bool {
        self.minus(other).is_nothing()
    }

    /// Whether a port of a protocol is in it.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.ranges[protocol as usize].iter().any(|range| range.contains(port))
    }

    /// The ranges of each protocol, disjoint, not adjacent, in order.
    pub fn ranges(&self) -> impl Iterator<Item = (Protocol, PortRange)> {
        let of =
            |protocol: Protocol| self.ranges[protocol as usize].iter().map(move |range| (protocol, *range));
        Protocol::ALL.into_iter().flat_map(of)
    }
}

/// Appends the ports from `first` to before `end`, if there are any.
fn push(ranges: &mut Vec<PortRange>, first: u32, end: u32) {
    if let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(end.saturating_sub(1)))
        && u32::from(first) < end
    {
        ranges.push(PortRange { first, last });
    }
}

fn merge(ranges: &mut Vec<PortRange>) {
    ranges.sort_unstable();
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::{PortRange, PortSet, Protocol};

    proptest! {
        #[test]
        fn ranges_stay_disjoint_and_hold_what_was_inserted(
            inserted in vec((0_u16..50, 0_u16..10), 0..12), probe in 0_u16..70,
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

    fn set() -> impl Strategy<Value = PortSet> {
        let range = (select(Protocol::ALL.to_vec()), 0_u16..20, 0_u16..8, any::<bool>());
        (any::<bool>(), vec(range, 0..5)).prop_map(|(others, ranges)| {
            let mut set =
                if others { PortSet::everything().minus(&ports_of_all()) } else { PortSet::nothing() };
            for (protocol, first, length, high) in ranges {
                let first = if high { u16::MAX - 30 + first } else { first };
                set.insert(protocol, PortRange { first, last: first + length });
            }
            set
        })
    }

    fn ports_of_all() -> PortSet {
        let mut set = PortSet::nothing();
        for protocol in Protocol::ALL {
            set.insert(protocol, PortRange::ALL);
        }
        set
    }

    proptest! {
        #[test]
        fn sets_are_joined_cut_and_taken_away_port_by_port(a in set(), b in set()) {
            let (mut either, both, rest) = (a.clone(), a.intersection(&b), a.minus(&b));
            either.extend(&b);
            prop_assert_eq!(either.has_others(), a.has_others() || b.has_others());
            prop_assert_eq!(both.has_others(), a.has_others() && b.has_others());
            prop_assert_eq!(rest.has_others(), a.has_others() && !b.has_others());
            prop_assert_eq!(rest.is_nothing(), a.is_within(&b));
            for protocol in Protocol::ALL {
                for port in (0..40).chain(u16::MAX - 40..=u16::MAX) {
                    let [a, b] = [&a, &b].map(|set| set.contains(protocol, port));
                    prop_assert_eq!(either.contains(protocol, port), a || b);
                    prop_assert_eq!(both.contains(protocol, port), a && b);
                    prop_assert_eq!(rest.contains(protocol, port), a && !b);
                }
            }
            let mut again = rest;
            again.extend(&both);
            prop_assert_eq!(again, a);
        }
    }

    #[test]
    fn everything_is_more_than_all_ports() {
        assert!(PortSet::everything().is_everything());
        assert!(!ports_of_all().is_everything());
        assert!(PortSet::everything().minus(&PortSet::everything()).is_nothing());
    }

    #[test]
    fn the_last_port_does_not_overflow() {
        let mut set = PortSet::nothing();
        set.insert(Protocol::Udp, PortRange::single(65535));
        set.insert(Protocol::Udp, PortRange::ALL);
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(Protocol::Udp, PortRange::ALL)]);
    }
}
