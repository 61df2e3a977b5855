//! Kinds of tunnels, and what nodes say of theirs to each other.

use std::collections::BTreeSet;

use margay_api::resource::Encapsulation;

/// How a tunnel wraps packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// In Ethernet frames in UDP (RFC 7348), of both families over either.
    Vxlan,
    /// In an outer header alone (RFC 2003), IPv4 in IPv4.
    Ipip,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Vxlan, Self::Ipip];

    /// As an `IPPool` names it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Vxlan => "VXLAN",
            Self::Ipip => "IPIP",
        }
    }

    /// What an encapsulation takes, if any.
    pub(crate) fn of(encapsulation: Encapsulation) -> Option<Self> {
        match encapsulation {
            Encapsulation::None => None,
            Encapsulation::Vxlan | Encapsulation::VxlanCrossSubnet => Some(Self::Vxlan),
            Encapsulation::Ipip | Encapsulation::IpipCrossSubnet => Some(Self::Ipip),
        }
    }
}

/// What a node says of its tunnels to the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tunnels {
    /// Those that it has.
    pub(crate) received: BTreeSet<Kind>,
    /// Those that it sends packets of pods through.
    pub(crate) sent: BTreeSet<Kind>,
}

impl Tunnels {
    /// What the annotations `margay.dev/tunnels-received` and `-sent` say; `None` without both. Kinds that a later agent may have
    /// are passed over.
    pub(crate) fn read([received, sent]: [Option<&str>; 2]) -> Option<Self> {
        let kinds = |text: &str| {
            let known = |word: &str| Kind::ALL.into_iter().find(|kind| kind.word() == word);
            text.split(',').filter_map(known).collect()
        };
        Some(Self { received: kinds(received?), sent: kinds(sent?) })
    }

    /// The same, as it is to be written.
    pub(crate) fn written(&self) -> [String; 2] {
        [&self.received, &self.sent]
            .map(|kinds| kinds.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(","))
    }
}
