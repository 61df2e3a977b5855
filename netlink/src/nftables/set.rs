//! What sets and maps hold.

use std::fmt;

use super::{LIST_ELEMENT, TABLE, attribute::Writer};

/// The type of a field of a key, or of a map's values, by its name in `nft`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `ipv4_addr`.
    Ipv4Addr,
    /// `ipv6_addr`.
    Ipv6Addr,
    /// `inet_proto`: the protocol above IP.
    InetProto,
    /// `inet_service`: a port.
    InetService,
    /// `icmpv6_type`.
    Icmpv6Type,
    /// `classid`: a traffic control handle, the only type that `nft` has for the packet priority.
    ClassId,
    /// `ifname`: the name of an interface.
    IfName,
    /// `verdict`, of values only.
    Verdict,
}

impl Type {
    /// The number by which `nft` knows it; it means nothing to the kernel, but that of a verdict.
    fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::ClassId => 23,
            Self::Icmpv6Type => 29,
            Self::IfName => 41,
            // `NFT_DATA_VERDICT`.
            Self::Verdict => 0xffff_ff00,
        }
    }

    /// Octets of a value.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::Ipv4Addr | Self::ClassId => 4,
            Self::Ipv6Addr | Self::IfName => 16,
            Self::InetProto | Self::Icmpv6Type => 1,
            Self::InetService => 2,
            Self::Verdict => 0,
        }
    }

    /// Whether it is a number of this machine, and not in network order.
    pub(super) fn is_of_host(self) -> bool {
        matches!(self, Self::ClassId | Self::IfName)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Icmpv6Type => "icmpv6_type",
            Self::ClassId => "classid",
            Self::IfName => "ifname",
            Self::Verdict => "verdict",
        })
    }
}

/// What a set or map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetKind {
    /// The types of a key's fields.
    pub key: &'static [Type],
    /// The type of values; `None` for a set.
    pub data: Option<Type>,
    /// Whether fields of keys may be ranges.
    pub intervals: bool,
}

const FLAG_INTERVAL: u32 = 0x4;
const FLAG_MAP: u32 = 0x8;
const FLAG_CONCAT: u32 = 0x80;

/// `NFTA_SET_*`.
const NAME: u16 = 2;
const FLAGS: u16 = 3;
const KEY_TYPE: u16 = 4;
const KEY_LENGTH: u16 = 5;
const DATA_TYPE: u16 = 6;
const DATA_LENGTH: u16 = 7;
const DESCRIPTION: u16 = 9;
const ID: u16 = 10;
const USERDATA: u16 = 13;
/// `NFTA_SET_DESC_CONCAT` and `NFTA_SET_FIELD_LEN`.
const DESCRIPTION_CONCAT: u16 = 2;
const FIELD_LENGTH: u16 = 1;
/// Bits of a type in the number of a concatenation (`TYPE_BITS` in `nft`).
const TYPE_BITS: u32 = 6;
/// What `nft` notes for itself in userdata (`NFTNL_UDATA_SET_*`): the order of octets in keys and in data, and whether
/// data is a range.
const NOTE_KEY_ORDER: u8 = 0;
const NOTE_DATA_ORDER: u8 = 1;
const NOTE_DATA_INTERVAL: u8 = 6;
const ORDER_NONE: u32 = 0;
const ORDER_HOST: u32 = 1;
const ORDER_NETWORK: u32 = 2;

impl SetKind {
    /// Whether the kernel keeps ranges of it as two elements, the end one without value: a red-black tree, which is
    /// what it picks for a single field whatever flags are given. Ranges of several fields are one element each.
    pub(super) fn is_tree(&self) -> bool {
        self.intervals && self.key.len() == 1
    }

    /// Whether numbers in its keys are in network order, whatever their type: as `nft` has it where there are ranges,
    /// which are compared octet by octet.
    pub(super) fn is_in_network_order(&self) -> bool {
        self.intervals
    }

    /// The attributes of `NFT_MSG_NEWSET`. The kernel wants an ID, which only an anonymous set has a use for.
    pub(super) fn encode(&self, writer: &mut Writer, table: &str, name: &str, id: u32) {
        let is_concatenation = self.key.len() > 1;
        let words = self.key.iter().map(|field| field.length().next_multiple_of(4));
        let length =
            if is_concatenation { words.sum() } else { self.key.iter().map(|key| key.length()).sum() };
        let flags = [
            (self.intervals, FLAG_INTERVAL),
            (self.data.is_some(), FLAG_MAP),
            (self.intervals && is_concatenation, FLAG_CONCAT),
        ];
        writer.text(TABLE, table);
        writer.text(NAME, name);
        writer.number(FLAGS, flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
        writer.number(KEY_TYPE, self.key.iter().fold(0, |sum, field| (sum << TYPE_BITS) | field.number()));
        writer.number(KEY_LENGTH, length);
        if let Some(data) = self.data {
            writer.number(DATA_TYPE, data.number());
            writer.number(DATA_LENGTH, data.length());
        }
        if self.intervals && is_concatenation {
            writer.nest(DESCRIPTION, |description| {
                description.nest(DESCRIPTION_CONCAT, |fields| {
                    for field in self.key {
                        fields.nest(LIST_ELEMENT, |one| one.number(FIELD_LENGTH, field.length()));
                    }
                });
            });
        }
        writer.number(ID, id);
        writer.value(USERDATA, &self.notes());
    }

    fn notes(&self) -> Vec<u8> {
        let order = |kind: Type| match kind {
            // `nft` gives up on a verdict with an order.
            Type::Verdict => ORDER_NONE,
            _ if kind.is_of_host() => ORDER_HOST,
            _ => ORDER_NETWORK,
        };
        let key = match self.key {
            [single] => order(*single),
            _ => ORDER_NONE,
        };
        let mut notes = vec![(NOTE_KEY_ORDER, key)];
        if let Some(data) = self.data {
            notes.push((NOTE_DATA_ORDER, order(data)));
            notes.push((NOTE_DATA_INTERVAL, 0));
        }
        notes.iter().flat_map(|(kind, value)| [&[*kind, 4][..], &value.to_ne_bytes()].concat()).collect()
    }
}

impl fmt::Display for SetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key: Vec<String> = self.key.iter().map(ToString::to_string).collect();
        write!(f, "{}", key.join(" . "))?;
        self.data.map_or(Ok(()), |data| write!(f, " : {data}"))
    }
}
