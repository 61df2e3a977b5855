//! Elements of sets and maps.

use std::{fmt, net::IpAddr};

use super::{SetKind, Type, attribute::Writer};

/// A field of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// An address.
    Address(IpAddr),
    /// Addresses from the first to the last, both included.
    Addresses(IpAddr, IpAddr),
    /// The name of an interface.
    Name(Box<str>),
    /// A class, protocol, port or type.
    Number(u32),
    /// Numbers from the first to the last, both included.
    Numbers(u32, u32),
}

/// A key: its fields in order.
pub type Key = Vec<Field>;

/// The value of a map's element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A number of this machine.
    Number(u32),
    /// What becomes of a packet.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this hook.
    Accept,
    /// It is gone.
    Drop,
    /// It goes on in the chain that called this one.
    Return,
    /// It goes through a chain, then on here.
    Jump(String),
    /// It goes through a chain, then on in the chain that called this one.
    Goto(String),
}

impl Verdict {
    /// The chain that it leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Return => None,
        }
    }
}

/// An element, with a value in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub data: Option<Data>,
}

/// `NFTA_SET_ELEM_*`.
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const KEY_END: u16 = 10;
const FLAG_INTERVAL_END: u32 = 0x1;
/// `NFTA_DATA_*`.
pub(super) const VALUE: u16 = 1;
pub(super) const VERDICT: u16 = 2;
/// `NFTA_VERDICT_*`.
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;

impl Element {
    /// Its attributes, in a list of elements: the one, or in a tree two.
    pub(super) fn encode(&self, kind: &SetKind, writer: &mut Writer) {
        let first: Vec<u8> = self.octets(kind, Field::first);
        let last: Vec<u8> = self.octets(kind, Field::last);
        writer.nest(super::LIST_ELEMENT, |element| {
            element.nest(KEY, |key| key.value(VALUE, &first));
            if kind.intervals && !kind.is_tree() {
                element.nest(KEY_END, |key| key.value(VALUE, &last));
            }
            match &self.data {
                None => {}
                Some(Data::Number(number)) => {
                    element.nest(DATA, |data| data.value(VALUE, &number.to_ne_bytes()));
                }
                Some(Data::Verdict(verdict)) => element.nest(DATA, |data| verdict.encode(data)),
            }
        });
        if kind.is_tree()
            && let Some(end) = successor(last)
        {
            writer.nest(super::LIST_ELEMENT, |element| {
                element.nest(KEY, |key| key.value(VALUE, &end));
                element.number(FLAGS, FLAG_INTERVAL_END);
            });
        }
    }

    /// The octets of the key, of ranges those of the end that `pick` picks. Fields of a concatenation are padded.
    fn octets(&self, kind: &SetKind, pick: fn(&Field) -> Bound<'_>) -> Vec<u8> {
        let mut octets = Vec::with_capacity(20);
        for (field, type_) in self.key.iter().zip(kind.key) {
            let start = octets.len();
            match pick(field) {
                Bound::Address(IpAddr::V4(address)) => octets.extend(address.octets()),
                Bound::Address(IpAddr::V6(address)) => octets.extend(address.octets()),
                Bound::Name(name) => {
                    octets.extend(name.as_bytes());
                    octets.resize(start + 16, 0);
                }
                Bound::Number(number) if *type_ == Type::ClassId && !kind.is_in_network_order() => {
                    octets.extend(number.to_ne_bytes());
                }
                Bound::Number(number) => {
                    let length = type_.length() as usize;
                    octets.extend(&number.to_be_bytes()[4_usize.saturating_sub(length)..]);
                }
            }
            if kind.key.len() > 1 {
                octets.resize(octets.len().next_multiple_of(4), 0);
            }
        }
        octets
    }
}

/// One end of a field.
enum Bound<'a> {
    Address(IpAddr),
    Name(&'a str),
    Number(u32),
}

impl Field {
    fn first(&self) -> Bound<'_> {
        match self {
            Self::Address(first) | Self::Addresses(first, _) => Bound::Address(*first),
            Self::Name(name) => Bound::Name(name),
            Self::Number(first) | Self::Numbers(first, _) => Bound::Number(*first),
        }
    }

    fn last(&self) -> Bound<'_> {
        match self {
            Self::Address(last) | Self::Addresses(_, last) => Bound::Address(*last),
            Self::Name(name) => Bound::Name(name),
            Self::Number(last) | Self::Numbers(_, last) => Bound::Number(*last),
        }
    }
}

/// The number after this one, in network order; `None` after the last.
fn successor(mut number: Vec<u8>) -> Option<Vec<u8>> {
    for octet in number.iter_mut().rev() {
        *octet = octet.wrapping_add(1);
        if *octet != 0 {
            return Some(number);
        }
    }
    None
}

impl Verdict {
    /// The attribute of a verdict, in those of data.
    pub(super) fn encode(&self, writer: &mut Writer) {
        let code = match self {
            Self::Accept => NF_ACCEPT,
            Self::Drop => NF_DROP,
            Self::Return => NFT_RETURN,
            Self::Jump(_) => NFT_JUMP,
            Self::Goto(_) => NFT_GOTO,
        };
        writer.nest(VERDICT, |verdict| {
            verdict.value(VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = self.chain() {
                verdict.text(VERDICT_CHAIN, chain);
            }
        });
    }

    /// The inverse; `None` for verdicts that are none of these.
    pub(super) fn decode(data: &super::attribute::Attributes<'_>) -> Option<Self> {
        let verdict = data.nest(VERDICT)?;
        let chain = || verdict.text(VERDICT_CHAIN).map(str::to_owned);
        match verdict.number(VERDICT_CODE)?.cast_signed() {
            NF_ACCEPT => Some(Self::Accept),
            NF_DROP => Some(Self::Drop),
            NFT_RETURN => Some(Self::Return),
            NFT_JUMP => chain().map(Self::Jump),
            NFT_GOTO => chain().map(Self::Goto),
            _ => None,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Addresses(first, last) => write!(f, "{first}-{last}"),
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
            Self::Numbers(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.key.iter().map(ToString::to_string).collect();
        f.write_str(&fields.join(" . "))
    }
}
