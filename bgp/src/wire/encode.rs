//! UPDATE messages from routes, as few and as full as the length limit allows.

use super::attr::{self, AsWidth, Attributes, ClassicNextHop, NextHop, code, flag};
use super::header::{HEADER_LEN, MessageKind, finish_message, start_message};
use crate::family::Family;

/// Attributes that leave no room for a prefix in a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attributes of {octets} octets leave no room for a prefix in a message of {limit}")]
pub struct AttributesTooLong {
    /// Octets that the attributes take.
    pub octets: usize,
    /// Octets of the longest message.
    pub limit: usize,
}

/// The constant part of messages that announce prefixes of one family with the same attributes.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Everything before the prefixes when they end the message, else what follows them.
    common: Vec<u8>,
    form: Form,
    room: usize,
}

/// Where the prefixes are.
#[derive(Clone, Debug)]
enum Form {
    /// At the end of the message.
    Classic,
    /// In `MP_REACH_NLRI`, behind this much of its value.
    Multiprotocol(Vec<u8>),
}

/// Octets before the withdrawn routes, whose length and that of the attributes follow.
const FIXED: usize = HEADER_LEN + 4;
/// Octets of the flags, the code and the length of an attribute with a long length.
const ATTRIBUTE: usize = 4;
/// Octets of AFI and SAFI.
const AFI_SAFI: usize = 3;

impl Announcement {
    /// Encodes the attributes for messages of up to `limit` octets.
    ///
    /// # Errors
    /// When the attributes leave no room for a prefix.
    pub fn new(
        family: Family,
        attributes: &Attributes,
        width: AsWidth,
        limit: usize,
    ) -> Result<Self, AttributesTooLong> {
        let next_hop = match (family, attributes.next_hop) {
            (Family::Ipv4Unicast, NextHop::V4(address)) => ClassicNextHop::Present(address),
            _ => ClassicNextHop::Absent,
        };
        let mut common = Vec::new();
        attr::encode(attributes, next_hop, width, &mut common);
        let (form, overhead) = match next_hop {
            ClassicNextHop::Present(_) => (Form::Classic, FIXED),
            ClassicNextHop::Absent => {
                let mut head = Vec::new();
                attr::encode_mp_header(family, attributes.next_hop, &mut head);
                let overhead = FIXED.saturating_add(ATTRIBUTE).saturating_add(head.len());
                (Form::Multiprotocol(head), overhead)
            }
        };
        let octets = common.len();
        let longest = usize::from(family.address_bits().div_ceil(8)).saturating_add(1);
        match limit.checked_sub(overhead).and_then(|rest| rest.checked_sub(octets)) {
            Some(room) if room >= longest => Ok(Self { common, form, room }),
            _ => Err(AttributesTooLong { octets, limit }),
        }
    }

    /// Octets of prefixes that one message takes.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Appends a message with these encoded prefixes, which must fit.
    pub fn append(&self, prefixes: &[u8], out: &mut Vec<u8>) {
        let start = start_message(MessageKind::Update, out);
        out.extend_from_slice(&[0, 0]);
        let field = start_long_block(out);
        match &self.form {
            Form::Classic => {
                out.extend_from_slice(&self.common);
                finish_long_block(field, out);
                out.extend_from_slice(prefixes);
            }
            Form::Multiprotocol(head) => {
                // RFC 7606 section 5.1: MP_REACH_NLRI comes first.
                let value = start_mp_attribute(code::MP_REACH_NLRI, out);
                out.extend_from_slice(head);
                out.extend_from_slice(prefixes);
                finish_long_block(value, out);
                out.extend_from_slice(&self.common);
                finish_long_block(field, out);
            }
        }
        finish_message(start, out);
    }
}

/// Octets of prefixes that one message of up to `limit` octets withdraws.
pub fn withdrawal_room(family: Family, limit: usize) -> usize {
    let overhead = match family {
        Family::Ipv4Unicast => FIXED,
        Family::Ipv6Unicast => FIXED.saturating_add(ATTRIBUTE).saturating_add(AFI_SAFI),
    };
    limit.saturating_sub(overhead)
}

/// Appends a message that withdraws these encoded prefixes, which must fit.
pub fn append_withdrawal(family: Family, prefixes: &[u8], out: &mut Vec<u8>) {
    let start = start_message(MessageKind::Update, out);
    match family {
        Family::Ipv4Unicast => {
            let field = start_long_block(out);
            out.extend_from_slice(prefixes);
            finish_long_block(field, out);
            out.extend_from_slice(&[0, 0]);
        }
        Family::Ipv6Unicast => {
            out.extend_from_slice(&[0, 0]);
            let attributes = start_long_block(out);
            let value = start_mp_attribute(code::MP_UNREACH_NLRI, out);
            out.extend_from_slice(&family.afi().to_be_bytes());
            out.push(family.safi());
            out.extend_from_slice(prefixes);
            finish_long_block(value, out);
            finish_long_block(attributes, out);
        }
    }
    finish_message(start, out);
}

/// Whether a message of up to `limit` octets with these attributes has room for a prefix of the family.
pub fn fits(family: Family, attributes: &Attributes, width: AsWidth, limit: usize) -> bool {
    Announcement::new(family, attributes, width, limit).is_ok()
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
