//! Expressions of rules.

mod decode;
mod encode;

use super::Verdict;

/// One step of a rule: loads into registers, looks at them, or ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a fact about the packet.
    Meta {
        /// Which.
        key: MetaKey,
        /// Where to.
        to: Register,
    },
    /// Sets what is known about the packet.
    SetMeta {
        /// What.
        key: MetaKey,
        /// Where from.
        from: Register,
    },
    /// Loads octets of the packet.
    Payload {
        /// From which header.
        header: Header,
        /// From which octet of it.
        offset: u32,
        /// How many.
        length: u32,
        /// Where to.
        to: Register,
    },
    /// Ends the rule unless octets compare with these; fewer octets than were loaded compare as a prefix.
    Cmp {
        /// Where from.
        from: Register,
        /// How.
        op: CmpOp,
        /// With what.
        value: Vec<u8>,
    },
    /// Leaves the bits of a mask, in place.
    Mask {
        /// Where.
        register: Register,
        /// Which bits stay.
        mask: Vec<u8>,
    },
    /// Looks a key up in a set or map.
    Lookup {
        /// The set's name.
        set: String,
        /// Where the key is.
        from: Register,
        /// What is asked.
        found: Found,
    },
    /// Loads octets that are given.
    Immediate {
        /// Where to.
        to: Register,
        /// What.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Loads the state of the packet's connection: bits, as a number of the machine.
    CtState(Register),
    /// Loads what kind of address the source is (`RTN_*`), as a number of the machine.
    FibSourceType(Register),
    /// Ends the rule when it has been reached more often than this.
    Limit {
        /// Packets in a second.
        per_second: u64,
        /// Packets at once.
        burst: u32,
    },
    /// Tells the listeners of a netlink group (NFLOG) of the packet.
    Log {
        /// The group.
        group: u16,
        /// What to say with it.
        prefix: String,
        /// How many octets of the packet to show.
        snaplen: u32,
    },
    /// Counts the packet in a named counter.
    Counter(String),
    /// Translates the source to an address of the interface that the packet goes out by, from a port taken at random:
    /// one counted up is often taken twice where several processors translate at once.
    Masquerade,
    /// Has connection tracking leave the packet alone.
    NoTrack,
}

/// A word of four octets in the scratch space of 16; longer values go on in those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The word with this number.
    pub const fn word(number: u8) -> Self {
        Self(number)
    }
}

/// Facts about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// `meta priority`: a number of the machine.
    Priority,
    /// `meta iifname`.
    IifName,
    /// `meta oifname`.
    OifName,
    /// `meta oif`: a number of the machine, 0 where a packet does not go out.
    Oif,
    /// `meta nfproto`: IPv4 or IPv6.
    NfProto,
    /// `meta l4proto`: the protocol above IP.
    L4Proto,
}

/// Headers of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Of IP.
    Network,
    /// Of the protocol above it.
    Transport,
}

/// How octets compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmpOp {
    /// They are the same.
    Eq,
    /// They differ.
    Neq,
}

/// What is asked of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// That the key is in it.
    Is,
    /// That the key is not in it.
    IsNot,
    /// The value, loaded into a register; a key that is not in it ends the rule.
    Value(Register),
    /// The verdict, which is carried out; a key that is not in it ends the rule.
    Verdict,
}

impl MetaKey {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Priority, Self::IifName, Self::OifName, Self::Oif, Self::NfProto, Self::L4Proto];

    /// `NFT_META_*`.
    fn number(self) -> u32 {
        match self {
            Self::Priority => 2,
            Self::IifName => 6,
            Self::OifName => 7,
            Self::Oif => 5,
            Self::NfProto => 15,
            Self::L4Proto => 16,
        }
    }
}

/// Attributes and numbers of `linux/netfilter/nf_tables.h`, by expression.
mod number {
    /// `NFTA_EXPR_*`.
    pub(super) const NAME: u16 = 1;
    pub(super) const DATA: u16 = 2;
    pub(super) const META_DREG: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const META_SREG: u16 = 3;
    pub(super) const PAYLOAD_DREG: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const BASE_NETWORK: u32 = 1;
    pub(super) const BASE_TRANSPORT: u32 = 2;
    pub(super) const CMP_SREG: u16 = 1;
    pub(super) const CMP_OP: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const CMP_EQ: u32 = 0;
    pub(super) const CMP_NEQ: u32 = 1;
    pub(super) const BITWISE_SREG: u16 = 1;
    pub(super) const BITWISE_DREG: u16 = 2;
    pub(super) const BITWISE_LENGTH: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const BITWISE_OP: u16 = 6;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_SREG: u16 = 2;
    pub(super) const LOOKUP_DREG: u16 = 3;
    pub(super) const LOOKUP_FLAGS: u16 = 5;
    pub(super) const LOOKUP_INVERTED: u32 = 1;
    pub(super) const IMMEDIATE_DREG: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const CT_DREG: u16 = 1;
    pub(super) const CT_KEY: u16 = 2;
    pub(super) const CT_STATE: u32 = 0;
    pub(super) const FIB_DREG: u16 = 1;
    pub(super) const FIB_RESULT: u16 = 2;
    pub(super) const FIB_FLAGS: u16 = 3;
    pub(super) const FIB_TYPE: u32 = 3;
    pub(super) const FIB_SOURCE: u32 = 1;
    pub(super) const LIMIT_RATE: u16 = 1;
    pub(super) const LIMIT_UNIT: u16 = 2;
    pub(super) const LIMIT_BURST: u16 = 3;
    pub(super) const LIMIT_TYPE: u16 = 4;
    pub(super) const LIMIT_FLAGS: u16 = 5;
    pub(super) const LOG_GROUP: u16 = 1;
    pub(super) const LOG_PREFIX: u16 = 2;
    pub(super) const LOG_SNAPLEN: u16 = 3;
    pub(super) const MASQUERADE_FLAGS: u16 = 1;
    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
    pub(super) const FULLY_RANDOM: u32 = 16;
    pub(super) const OBJREF_TYPE: u16 = 1;
    pub(super) const OBJREF_NAME: u16 = 2;
    /// `NFT_REG_VERDICT`.
    pub(super) const VERDICT_REGISTER: u32 = 0;
    /// `NFT_REG_1`, the first of four registers of 16 octets.
    pub(super) const LONG_REGISTERS: u32 = 1;
    /// `NFT_REG32_00`, the first of 16 registers of four octets, which lie in the same place.
    pub(super) const SHORT_REGISTERS: u32 = 8;
}
