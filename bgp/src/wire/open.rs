//! The OPEN message with its capabilities.

use std::net::Ipv4Addr;

use super::header::{MessageKind, finish_message, start_message};
use super::notification::Notification;
use super::reader::Reader;
use crate::asn::Asn;
use crate::family::{Family, FamilySet};
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
const PARAMETER_EXTENDED_LENGTH: u8 = 255;
const CAPABILITY_MULTIPROTOCOL: u8 = 1;
const CAPABILITY_ROUTE_REFRESH: u8 = 2;
const CAPABILITY_FOUR_OCTET_AS: u8 = 65;

/// What a speaker says about itself when a session opens (RFC 4271 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The speaker's AS; from the capability where it is there, else from the two-octet field.
    pub asn: Asn,
    /// The hold time it proposes.
    pub hold_time: HoldTime,
    /// Its identifier.
    pub identifier: BgpIdentifier,
    /// Families of its multiprotocol capabilities that we know; IPv4 unicast alone when it sent none at all
    /// (RFC 4760 section 8).
    pub families: FamilySet,
    /// Whether it reads and writes four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Whether it answers ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
}

#[derive(Default)]
struct Capabilities {
    any_multiprotocol: bool,
    families: FamilySet,
    four_octet_as: Option<u32>,
    route_refresh: bool,
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
        let families = if capabilities.any_multiprotocol {
            capabilities.families
        } else {
            FamilySet::from_iter([Family::Ipv4Unicast])
        };
        Ok(Self {
            asn,
            hold_time,
            identifier,
            families,
            four_octet_as: capabilities.four_octet_as.is_some(),
            route_refresh: capabilities.route_refresh,
        })
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
        let mut capabilities = encode_multiprotocol(self.families);
        if self.route_refresh {
            capabilities.extend_from_slice(&[CAPABILITY_ROUTE_REFRESH, 0]);
        }
        if self.four_octet_as {
            capabilities.extend_from_slice(&[CAPABILITY_FOUR_OCTET_AS, 4]);
            capabilities.extend_from_slice(&self.asn.number().to_be_bytes());
        }
        // At most two families and two other capabilities: far below the 253 octets that fit.
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

/// The multiprotocol capabilities for these families, as in an OPEN and in the data of NOTIFICATION 2/7.
pub fn encode_multiprotocol(families: FamilySet) -> Vec<u8> {
    let mut out = Vec::new();
    for family in families.iter() {
        out.extend_from_slice(&[CAPABILITY_MULTIPROTOCOL, 4]);
        out.extend_from_slice(&family.afi().to_be_bytes());
        out.extend_from_slice(&[0, family.safi()]);
    }
    out
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
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or_else(Notification::malformed_open)?;
        let value = if extended { parameters.long_block() } else { parameters.short_block() };
        let value = value.ok_or_else(Notification::malformed_open)?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(Notification::unsupported_optional_parameter());
        }
        decode_capabilities(value, &mut capabilities)?;
    }
    Ok(capabilities)
}

fn decode_capabilities(bytes: &[u8], capabilities: &mut Capabilities) -> Result<(), Notification> {
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        let code = reader.u8().ok_or_else(Notification::malformed_open)?;
        let mut value = Reader::new(reader.short_block().ok_or_else(Notification::malformed_open)?);
        match code {
            CAPABILITY_MULTIPROTOCOL => {
                let (Some(afi), Some(_reserved), Some(safi)) = (value.u16(), value.u8(), value.u8()) else {
                    return Err(Notification::malformed_open());
                };
                capabilities.any_multiprotocol = true;
                if let Some(family) = Family::from_wire(afi, safi) {
                    capabilities.families.insert(family);
                }
            }
            CAPABILITY_ROUTE_REFRESH => capabilities.route_refresh = true,
            CAPABILITY_FOUR_OCTET_AS => {
                capabilities.four_octet_as = Some(value.u32().ok_or_else(Notification::malformed_open)?);
            }
            // RFC 5492: a capability that is not known is ignored.
            _ => {}
        }
    }
    Ok(())
}
