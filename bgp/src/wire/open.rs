//! The OPEN message.

use std::net::Ipv4Addr;

use super::capability::Capabilities;
use super::header::{MessageKind, finish_message, start_message};
use super::notification::Notification;
use super::reader::Reader;
use crate::asn::Asn;
use crate::family::Family;
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
const PARAMETER_EXTENDED_LENGTH: u8 = 255;

/// What a speaker says about itself when a session opens (RFC 4271 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The speaker's AS; from the capability where it is there, else from the two-octet field.
    pub asn: Asn,
    /// The hold time it proposes.
    pub hold_time: HoldTime,
    /// Its identifier.
    pub identifier: BgpIdentifier,
    /// What it can do besides RFC 4271. Encoding puts `asn` in place of its four-octet AS number, if it has one.
    pub capabilities: Capabilities,
}

impl Open {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        let (Some(version), Some(two_octet_as), Some(hold_time), Some(identifier), Some(short_length)) =
            (reader.u8(), reader.u16(), reader.u16(), reader.u32(), reader.u8())
        else {
            return Err(Notification::malformed_open());
        };
        if version != VERSION {
            return Err(Notification::unsupported_version());
        }
        let capabilities = decode_parameters(short_length, reader)?;
        let asn = capabilities.four_octet_as.unwrap_or_else(|| two_octet_as.into());
        let asn = Asn::new(asn).ok_or_else(Notification::bad_peer_as)?;
        let hold_time = HoldTime::new(hold_time).ok_or_else(Notification::unacceptable_hold_time)?;
        let identifier = BgpIdentifier::new(Ipv4Addr::from_bits(identifier))
            .ok_or_else(Notification::bad_bgp_identifier)?;
        Ok(Self { asn, hold_time, identifier, capabilities })
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = start_message(MessageKind::Open, out);
        out.push(VERSION);
        let two_octet_as = u16::try_from(self.asn.number())
            .unwrap_or_else(|_| u16::try_from(Asn::TRANS.number()).unwrap_or(u16::MAX));
        out.extend_from_slice(&two_octet_as.to_be_bytes());
        out.extend_from_slice(&self.hold_time.seconds().to_be_bytes());
        out.extend_from_slice(&self.identifier.octets());
        let four_octet_as = self.capabilities.four_octet_as.map(|_| self.asn.number());
        let mut capabilities = Vec::new();
        Capabilities { four_octet_as, ..self.capabilities }.encode(&mut capabilities);
        // A test of theirs holds all capabilities below the 253 octets that fit.
        let length = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
        if length == 0 {
            out.push(0);
        } else {
            out.extend_from_slice(&[length.saturating_add(2), PARAMETER_CAPABILITIES, length]);
            out.extend_from_slice(&capabilities);
        }
        finish_message(start, out);
    }
}

/// Reads the optional parameters in either form, the extended one of RFC 9072 included.
fn decode_parameters(short_length: u8, mut reader: Reader<'_>) -> Result<Capabilities, Notification> {
    let extended = short_length == 255 && reader.rest().first() == Some(&PARAMETER_EXTENDED_LENGTH);
    let parameters = if extended {
        reader.take(1).and_then(|_marker| reader.long_block())
    } else {
        reader.take(short_length.into())
    };
    let mut parameters = Reader::new(parameters.ok_or_else(Notification::malformed_open)?);
    if !reader.is_empty() {
        return Err(Notification::malformed_open());
    }
    let mut capabilities = Capabilities::default();
    let mut names_families = false;
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or_else(Notification::malformed_open)?;
        let value = if extended { parameters.long_block() } else { parameters.short_block() };
        let value = value.ok_or_else(Notification::malformed_open)?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(Notification::unsupported_optional_parameter());
        }
        names_families |= capabilities.decode(value)?;
    }
    // RFC 4760 section 8; whoever names only families that we do not know gets none.
    if !names_families {
        capabilities.families.insert(Family::Ipv4Unicast);
    }
    Ok(capabilities)
}
