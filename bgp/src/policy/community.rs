//! Communities of all three kinds, as text and as they lie in the attributes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::Attributes;
use crate::wire::attr::{Community, OpaqueAttribute, code};

/// A community of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnyCommunity {
    /// RFC 1997: `64500:100`, or a well-known name such as `no-export`.
    Standard(Community),
    /// RFC 4360: `rt:64500:100`, `soo:64500:100`, or 16 hexadecimal digits behind `0x`.
    Extended([u8; 8]),
    /// RFC 8092: `64500:1:2`.
    Large([u32; 3]),
}

const NAMES: [(&str, Community); 8] = [
    ("no-export", Community::NO_EXPORT),
    ("no-advertise", Community::NO_ADVERTISE),
    ("no-export-subconfed", Community::NO_EXPORT_SUBCONFED),
    ("graceful-shutdown", Community::GRACEFUL_SHUTDOWN),
    ("llgr-stale", Community::LLGR_STALE),
    ("no-llgr", Community::NO_LLGR),
    ("blackhole", Community(0xffff_029a)),
    ("accept-own", Community(0xffff_0001)),
];

/// Subtypes of an extended community with a two- or four-octet AS (RFC 4360 section 4, 5; RFC 5668).
const SUBTYPES: [(&str, u8); 2] = [("rt", 2), ("soo", 3)];

/// A text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "community `{0}`: expected AS:value, a name such as no-export, AS:value:value, rt:AS:value, soo:AS:value or \
     0x and 16 hexadecimal digits"
)]
pub struct InvalidCommunity(String);

impl FromStr for AnyCommunity {
    type Err = InvalidCommunity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidCommunity(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<AnyCommunity> {
    if let Some((_, community)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Some(AnyCommunity::Standard(*community));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let is_hex = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let value = u64::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
        return Some(AnyCommunity::Extended(value.to_be_bytes()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    // `parse` of a number takes a sign, which nobody means here.
    let number = |part: &str| part.parse::<u32>().ok().filter(|_| !part.starts_with('+'));
    match parts[..] {
        [high, low] => {
            let (high, low) = (u16::try_from(number(high)?).ok()?, u16::try_from(number(low)?).ok()?);
            Some(AnyCommunity::Standard(Community(u32::from(high) << 16 | u32::from(low))))
        }
        [name, asn, value] if SUBTYPES.iter().any(|(known, _)| *known == name) => {
            let (_, subtype) = SUBTYPES.into_iter().find(|(known, _)| *known == name)?;
            let (asn, value) = (number(asn)?, number(value)?);
            let mut octets = [0; 8];
            octets[1] = subtype;
            if let Ok(asn) = u16::try_from(asn) {
                octets[2..4].copy_from_slice(&asn.to_be_bytes());
                octets[4..].copy_from_slice(&value.to_be_bytes());
            } else {
                octets[0] = 2;
                octets[2..6].copy_from_slice(&asn.to_be_bytes());
                octets[6..].copy_from_slice(&u16::try_from(value).ok()?.to_be_bytes());
            }
            Some(AnyCommunity::Extended(octets))
        }
        [global, first, second] => {
            Some(AnyCommunity::Large([number(global)?, number(first)?, number(second)?]))
        }
        _ => None,
    }
}

impl fmt::Display for AnyCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(community) => match NAMES.iter().find(|(_, known)| known == community) {
                Some((name, _)) => f.write_str(name),
                None => community.fmt(f),
            },
            Self::Large([global, first, second]) => write!(f, "{global}:{first}:{second}"),
            Self::Extended(octets @ [kind, subtype, a, b, c, d, e, g]) => {
                let name = SUBTYPES.iter().find(|(_, known)| known == subtype).map(|(name, _)| name);
                match (kind, name) {
                    (0, Some(name)) => {
                        let (asn, value) =
                            (u16::from_be_bytes([*a, *b]), u32::from_be_bytes([*c, *d, *e, *g]));
                        write!(f, "{name}:{asn}:{value}")
                    }
                    (2, Some(name)) => {
                        let (asn, value) =
                            (u32::from_be_bytes([*a, *b, *c, *d]), u16::from_be_bytes([*e, *g]));
                        write!(f, "{name}:{asn}:{value}")
                    }
                    _ => write!(f, "0x{:016x}", u64::from_be_bytes(*octets)),
                }
            }
        }
    }
}

impl Serialize for AnyCommunity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AnyCommunity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl AnyCommunity {
    /// All communities that a path has.
    pub fn all_of(attributes: &Attributes) -> Vec<AnyCommunity> {
        let mut all: Vec<Self> = attributes.communities.iter().copied().map(Self::Standard).collect();
        for attribute in &attributes.opaque {
            match attribute.code {
                code::EXTENDED_COMMUNITIES => {
                    let octets = attribute.value.as_chunks().0.iter();
                    all.extend(octets.copied().map(Self::Extended));
                }
                code::LARGE_COMMUNITIES => {
                    let octets: &[[u8; 12]] = attribute.value.as_chunks().0;
                    all.extend(octets.iter().map(|octets| {
                        let (numbers, _) = octets.as_chunks::<4>();
                        let mut large = [0; 3];
                        for (place, number) in large.iter_mut().zip(numbers) {
                            *place = u32::from_be_bytes(*number);
                        }
                        Self::Large(large)
                    }));
                }
                _ => {}
            }
        }
        all
    }

    /// Whether the path has this community.
    pub fn is_in(self, attributes: &Attributes) -> bool {
        match self {
            Self::Standard(community) => attributes.communities.contains(&community),
            _ => Self::all_of(attributes).contains(&self),
        }
    }

    /// Adds it to a path that does not have it.
    pub(crate) fn add_to(self, attributes: &mut Attributes) {
        if self.is_in(attributes) {
            return;
        }
        let (code, value) = match self {
            Self::Standard(community) => return attributes.communities.push(community),
            Self::Extended(octets) => (code::EXTENDED_COMMUNITIES, octets.to_vec()),
            Self::Large(numbers) => {
                (code::LARGE_COMMUNITIES, numbers.iter().flat_map(|number| number.to_be_bytes()).collect())
            }
        };
        if let Some(attribute) = attributes.opaque.iter_mut().find(|attribute| attribute.code == code) {
            attribute.value = [&attribute.value[..], &value].concat().into();
        } else {
            let at = attributes.opaque.partition_point(|attribute| attribute.code < code);
            attributes.opaque.insert(at, OpaqueAttribute { code, partial: false, value: value.into() });
        }
    }

    /// Keeps the communities that pass; `LLGR_STALE` stays in any case (RFC 9494 section 4.6).
    pub(super) fn retain(attributes: &mut Attributes, keep: impl Fn(AnyCommunity) -> bool) {
        attributes
            .communities
            .retain(|community| *community == Community::LLGR_STALE || keep(Self::Standard(*community)));
        let others: Vec<Self> = Self::all_of(attributes)
            .into_iter()
            .filter(|other| !matches!(other, Self::Standard(_)))
            .collect();
        if others.iter().all(|other| keep(*other)) {
            return;
        }
        attributes.opaque.retain(|attribute| {
            ![code::EXTENDED_COMMUNITIES, code::LARGE_COMMUNITIES].contains(&attribute.code)
        });
        for other in others.into_iter().filter(|other| keep(*other)) {
            other.add_to(attributes);
        }
    }
}
