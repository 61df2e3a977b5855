//! The headers between that of IPv6 and that of TCP or UDP.

use super::{HOP_BY_HOP, Headers, Kind, Packet, wire::Fragment};

/// How many are looked at; more than one of each is not sent by anybody who means well.
const MOST: u32 = 4;

const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Walks to the header of the transport (RFC 8200 section 4), and sets where it stands, its protocol, and what fragment this is.
#[inline(never)]
pub(crate) fn walk(packet: Packet, headers: &mut Headers) -> Kind {
    let mut kind = Kind::Whole;
    // Bounded, and so unrolled or not as the compiler likes: verifiers know loops since Linux 5.3.
    for _ in 0..MOST {
        // The later fragments do not say what protocol stands behind it.
        if is_extension(headers.protocol) && kind == Kind::First {
            return Kind::Unparsed;
        }
        match headers.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let Some([next, units]) = packet.read_far::<[u8; 2]>(headers.transport) else {
                    return Kind::Unparsed;
                };
                headers.has_options |= headers.protocol != DESTINATION;
                headers.protocol = next;
                headers.transport += (u32::from(units) + 1) * 8;
            }
            FRAGMENT => {
                let Some(header) = packet.read_far::<Fragment>(headers.transport) else {
                    return Kind::Unparsed;
                };
                headers.protocol = header.next;
                headers.transport += 8;
                let fragment = u16::from_be_bytes(header.offset);
                // One that says that it is all of a packet is no fragment (RFC 6946).
                if fragment & !7 != 0 {
                    kind = Kind::Later;
                } else if fragment & 1 != 0 {
                    kind = Kind::First;
                }
                headers.identification = u32::from_be_bytes(header.identification);
                // What follows in a later fragment is payload.
                if kind == Kind::Later {
                    return kind;
                }
            }
            _ => return kind,
        }
    }
    if is_extension(headers.protocol) { Kind::Unparsed } else { kind }
}

/// Whether one of the headers that are walked over has this number.
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT)
}
