//! Flows as connection tracking has them: listing them, and having it take some over.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};

use super::{
    GET, NESTED, PROTOCOL_NUMBER, PROTOCOL_SOURCE_PORT, TUPLE_IP, TUPLE_ORIG, TUPLE_PROTOCOL, TUPLE_REPLY,
    Tuple, attribute, exchange, family, message, octets, open, source_type,
};
use crate::Error;

const NEW: u16 = 0x100;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
/// `IPS_SEEN_REPLY`, `IPS_ASSURED` and `IPS_CONFIRMED`.
const SEEN_BOTH_WAYS: u32 = 2 | 4 | 8;
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;
/// `IP_CT_TCP_FLAG_BE_LIBERAL` and its mask: the windows are not known, so none is enforced.
const LIBERAL: [u8; 2] = [8, 8];
/// As in the IP header.
const TCP: u8 = 6;

/// Both ends of packets of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Who sends.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// As in the IP header: TCP or UDP.
    pub protocol: u8,
    /// The sender's port.
    pub source_port: u16,
    /// The receiver's port.
    pub destination_port: u16,
}

/// All flows of a protocol with ports that are tracked, in the network namespace that the thread is in: the packets of the
/// direction that answers, as they come from who sends them.
///
/// # Errors
/// When the kernel has no connection tracking over netlink, or refuses.
pub fn answers(protocol: u8) -> Result<Vec<Flow>, Error> {
    let mut found = Vec::new();
    let family = u8::try_from(libc::AF_UNSPEC).unwrap_or_default();
    let what = || format!("list tracked flows of protocol {protocol}");
    exchange(&open()?, &message(GET, NLM_F_DUMP, family, &[]), &what, |_, attributes| {
        let reply = attributes.iter().find(|(kind, ..)| *kind == TUPLE_REPLY);
        let tuple = reply.and_then(|(_, value, _)| Tuple::read(value)).filter(|it| it.protocol == protocol);
        found.extend(tuple.and_then(|tuple| {
            Some(Flow {
                source: tuple.source,
                destination: tuple.destination?,
                protocol,
                source_port: tuple.source_port?,
                destination_port: tuple.destination_port?,
            })
        }));
    })?;
    Ok(found)
}

/// Has flows tracked, given in the direction in which they were opened, as connections of which both ends were heard; says
/// of how many that was not so before. Each is forgotten when it is silent for the seconds that go with it.
///
/// # Errors
/// As [`answers`]: the first, when all that could be taken over are.
pub fn adopt(flows: &[(Flow, u32)]) -> Result<usize, Error> {
    if flows.is_empty() {
        return Ok(0);
    }
    let raw = open()?;
    let (mut adopted, mut failed) = (0, None);
    for (flow, seconds) in flows {
        let what = || format!("track {} to {}", flow.source, flow.destination);
        let body = body(flow, *seconds);
        let request = message(NEW, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, family(flow.source), &body);
        match exchange(&raw, &request, &what, |_, _| {}) {
            Ok(()) => adopted += 1,
            Err(error) if error.is_present() => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(adopted), Err)
}

fn body(flow: &Flow, seconds: u32) -> Vec<u8> {
    let Flow { source, destination, protocol, source_port, destination_port } = *flow;
    let tuple = |from: (IpAddr, u16), to: (IpAddr, u16)| {
        let addresses = [
            attribute(source_type(from.0), &octets(from.0)),
            // The destination's attribute follows the source's in both families.
            attribute(source_type(to.0) + 1, &octets(to.0)),
        ];
        let ports = [
            attribute(PROTOCOL_NUMBER, &[protocol]),
            attribute(PROTOCOL_SOURCE_PORT, &from.1.to_be_bytes()),
            attribute(PROTOCOL_SOURCE_PORT + 1, &to.1.to_be_bytes()),
        ];
        [
            attribute(TUPLE_IP | NESTED, &addresses.concat()),
            attribute(TUPLE_PROTOCOL | NESTED, &ports.concat()),
        ]
        .concat()
    };
    let (opener, other) = ((source, source_port), (destination, destination_port));
    let mut body = [
        attribute(TUPLE_ORIG | NESTED, &tuple(opener, other)),
        attribute(TUPLE_REPLY | NESTED, &tuple(other, opener)),
        attribute(STATUS, &SEEN_BOTH_WAYS.to_be_bytes()),
        attribute(TIMEOUT, &seconds.to_be_bytes()),
    ]
    .concat();
    if protocol == TCP {
        let info = [
            attribute(TCP_STATE, &[ESTABLISHED]),
            attribute(TCP_FLAGS_ORIGINAL, &LIBERAL),
            attribute(TCP_FLAGS_REPLY, &LIBERAL),
        ];
        let info = attribute(INFO_TCP | NESTED, &info.concat());
        body.extend(attribute(PROTOCOL_INFO | NESTED, &info));
    }
    body
}
