//! UPDATE messages from routes, as few and as full as the length limit allows.

use super::attr::{self, AsWidth, Attributes, ClassicNextHop, NextHop, code, flag};
use super::header::{MAX_MESSAGE_LEN, MessageKind, finish_message, start_message};
use super::nlri;
use crate::family::Family;
use crate::prefix::Prefix;

/// Attributes that leave no room for a prefix in a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attributes of {octets} octets leave no room for a prefix in a message of 4096")]
pub struct AttributesTooLong {
    /// Octets that the attributes take.
    pub octets: usize,
}

/// Appends messages that withdraw the prefixes, all of one family.
pub fn encode_withdrawals(family: Family, prefixes: &[Prefix], out: &mut Vec<u8>) {
    let mut prefixes = prefixes;
    while !prefixes.is_empty() {
        let start = start_message(MessageKind::Update, out);
        prefixes = match family {
            Family::Ipv4Unicast => {
                let field = start_long_block(out);
                // The attribute length follows the withdrawn routes.
                let rest = fill(prefixes, start, 2, out);
                finish_long_block(field, out);
                out.extend_from_slice(&[0, 0]);
                rest
            }
            Family::Ipv6Unicast => {
                out.extend_from_slice(&[0, 0]);
                let attributes = start_long_block(out);
                let value = start_mp_attribute(code::MP_UNREACH_NLRI, out);
                out.extend_from_slice(&family.afi().to_be_bytes());
                out.push(family.safi());
                let rest = fill(prefixes, start, 0, out);
                finish_long_block(value, out);
                finish_long_block(attributes, out);
                rest
            }
        };
        finish_message(start, out);
    }
}

/// Appends messages that announce the prefixes, all of one family, with the same attributes.
///
/// # Errors
/// When the attributes alone fill a message; nothing was appended.
pub fn encode_announcements(
    family: Family,
    attributes: &Attributes,
    width: AsWidth,
    prefixes: &[Prefix],
    out: &mut Vec<u8>,
) -> Result<(), AttributesTooLong> {
    let (common, next_hop) = encode_common(family, attributes, width)?;
    let mut prefixes = prefixes;
    while !prefixes.is_empty() {
        let start = start_message(MessageKind::Update, out);
        out.extend_from_slice(&[0, 0]);
        let field = start_long_block(out);
        prefixes = match next_hop {
            ClassicNextHop::Present(_) => {
                out.extend_from_slice(&common);
                finish_long_block(field, out);
                fill(prefixes, start, 0, out)
            }
            ClassicNextHop::Absent => {
                // RFC 7606 section 5.1: MP_REACH_NLRI comes first.
                let value = start_mp_attribute(code::MP_REACH_NLRI, out);
                attr::encode_mp_header(family, attributes.next_hop, out);
                let rest = fill(prefixes, start, common.len(), out);
                finish_long_block(value, out);
                out.extend_from_slice(&common);
                finish_long_block(field, out);
                rest
            }
        };
        finish_message(start, out);
    }
    Ok(())
}

/// Whether a message with these attributes has room for a prefix of the family.
pub fn fits(family: Family, attributes: &Attributes, width: AsWidth) -> bool {
    encode_common(family, attributes, width).is_ok()
}

/// The attributes that do not depend on the prefixes, and the form in which the next hop goes.
fn encode_common(
    family: Family,
    attributes: &Attributes,
    width: AsWidth,
) -> Result<(Vec<u8>, ClassicNextHop), AttributesTooLong> {
    // Header, two lengths, the longest prefix; MP_REACH_NLRI adds its own header, AFI, SAFI, next hop.
    let (next_hop, overhead) = match (family, attributes.next_hop) {
        (Family::Ipv4Unicast, NextHop::V4(address)) => (ClassicNextHop::Present(address), 23_usize + 5),
        _ => (ClassicNextHop::Absent, 23_usize + 4 + 3 + 33 + 1 + 17),
    };
    let mut common = Vec::new();
    attr::encode(attributes, next_hop, width, &mut common);
    if common.len().saturating_add(overhead) > MAX_MESSAGE_LEN {
        return Err(AttributesTooLong { octets: common.len() });
    }
    Ok((common, next_hop))
}

/// Appends the End-of-RIB marker of a family (RFC 4724 section 2).
pub fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let start = start_message(MessageKind::Update, out);
    out.extend_from_slice(&[0, 0]);
    let attributes = start_long_block(out);
    if family != Family::Ipv4Unicast {
        out.extend_from_slice(&[flag::OPTIONAL, code::MP_UNREACH_NLRI, 3]);
        out.extend_from_slice(&family.afi().to_be_bytes());
        out.push(family.safi());
    }
    finish_long_block(attributes, out);
    finish_message(start, out);
}

/// Appends prefixes while the message, with `reserved` octets after them, stays within the limit; gives the rest.
fn fill<'a>(prefixes: &'a [Prefix], start: usize, reserved: usize, out: &mut Vec<u8>) -> &'a [Prefix] {
    let mut rest = prefixes;
    while let [prefix, tail @ ..] = rest {
        let length = out.len().saturating_sub(start);
        let wanted = length.saturating_add(nlri::encoded_len(*prefix)).saturating_add(reserved);
        if wanted > MAX_MESSAGE_LEN {
            break;
        }
        nlri::encode(*prefix, out);
        rest = tail;
    }
    rest
}

fn start_mp_attribute(code: u8, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, code]);
    start_long_block(out)
}

/// Appends room for a two-octet length; gives where the length's bytes are.
fn start_long_block(out: &mut Vec<u8>) -> usize {
    let field = out.len();
    out.extend_from_slice(&[0, 0]);
    field
}

fn finish_long_block(field: usize, out: &mut [u8]) {
    let length = u16::try_from(out.len().saturating_sub(field).saturating_sub(2)).unwrap_or(u16::MAX);
    if let Some(bytes) = out.get_mut(field..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *bytes = length.to_be_bytes();
    }
}
