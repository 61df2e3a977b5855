//! Tracked connections: forgetting those of addresses that change hands.
//!
//! The messages are `nfnetlink_conntrack`'s (`linux/netfilter/nfnetlink_conntrack.h`), which
//! `netlink-packet-route` does not know. Only what is needed is read of them: the tuples stay octets, as a deletion
//! wants them back as they came.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use crate::Error;

const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
/// Ends of a dump, and answers.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct nfgenmsg`, after the header.
const FAMILY_HEADER: usize = 4;

const NESTED: u16 = 0x8000;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
/// `CTA_IP_V4_SRC` and `CTA_IP_V6_SRC`.
const IP_V4_SOURCE: u16 = 1;
const IP_V6_SOURCE: u16 = 3;
/// `CTA_FILTER_F_CTA_IP_SRC`.
const FILTER_BY_SOURCE: u32 = 1;

/// Forgets the connections that any of these addresses opened or answered, in the network namespace that the thread
/// is in, and says how many: what comes after is judged as new. Those that were translated count by the address that
/// really sends.
///
/// # Errors
/// When the kernel has no connection tracking over netlink, or refuses.
pub fn forget(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    let Some(first) = addresses.first().copied() else { return Ok(0) };
    let mut raw = Raw::new(NETLINK_NETFILTER).map_err(Error::Open)?;
    raw.bind_auto().map_err(Error::Open)?;
    raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
    // Either way the kernel walks the whole table, which takes it longer than the entries do, each time; without a
    // filter once, but then it copies all entries here.
    let entries = if addresses.len() == 1 {
        let mut entries = list(&raw, Some((first, TUPLE_ORIG)), addresses)?;
        entries.extend(list(&raw, Some((first, TUPLE_REPLY)), addresses)?);
        entries
    } else {
        list(&raw, None, addresses)?
    };
    let mut forgotten = 0;
    for entry in &entries {
        match exchange(&raw, entry, first, |_, _| {}) {
            // It ended by itself meanwhile.
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
            Ok(()) => forgotten += 1,
        }
    }
    Ok(forgotten)
}

/// Requests that delete the connections in one of whose tuples one of the addresses is the source; the kernel looks
/// for them itself by `filter`.
fn list(
    raw: &Raw,
    filter: Option<(IpAddr, u16)>,
    addresses: &BTreeSet<IpAddr>,
) -> Result<Vec<Vec<u8>>, Error> {
    // Since Linux 5.8 the kernel looks for itself; one before passes the filter over, so what comes is looked at again.
    let body = filter.map(|(address, tuple)| {
        let flags = attribute(tuple, &FILTER_BY_SOURCE.to_ne_bytes());
        let filter = attribute(FILTER | NESTED, &flags);
        let source = attribute(TUPLE_IP | NESTED, &attribute(source_type(address), &octets(address)));
        [filter, attribute(tuple | NESTED, &source)].concat()
    });
    let family = match filter {
        Some((address, _)) => family(address),
        None => u8::try_from(libc::AF_UNSPEC).unwrap_or_default(),
    };
    let mut found = Vec::new();
    let any = filter.map(|(address, _)| address).or_else(|| addresses.first().copied());
    let Some(named) = any else { return Ok(found) };
    let request = message(GET, NLM_F_DUMP, family, &body.unwrap_or_default());
    exchange(raw, &request, named, |family, attributes| {
        let is_source = attributes
            .iter()
            .any(|(kind, value, _)| [TUPLE_ORIG, TUPLE_REPLY].contains(kind) && is_from(value, addresses));
        if is_source {
            let named = attributes.iter().filter(|(kind, ..)| [TUPLE_ORIG, ID, ZONE].contains(kind));
            let body: Vec<u8> = named.flat_map(|(_, _, whole)| whole.iter().copied()).collect();
            found.push(message(DELETE, NLM_F_ACK, family, &body));
        }
    })?;
    Ok(found)
}

fn is_from(tuple: &[u8], addresses: &BTreeSet<IpAddr>) -> bool {
    let ip = attributes(tuple).into_iter().find(|(kind, ..)| *kind == TUPLE_IP);
    let source = ip.and_then(|(_, ip, _)| {
        attributes(ip).into_iter().find_map(|(kind, value, _)| match (kind, value.len()) {
            (IP_V4_SOURCE, 4) => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            (IP_V6_SOURCE, 16) => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => None,
        })
    });
    source.is_some_and(|source| addresses.contains(&source))
}

/// Sends a request and reads answers until the last, which is an acknowledgement or the end of a dump.
fn exchange(
    raw: &Raw,
    request: &[u8],
    address: IpAddr,
    mut each: impl FnMut(u8, &[(u16, &[u8], &[u8])]),
) -> Result<(), Error> {
    let what = || format!("forget connections of {address}");
    let failed = |source| Error::Exchange { request: what(), source };
    raw.send(request, 0).map_err(failed)?;
    let mut received: Vec<u8> = Vec::with_capacity(64 * 1024);
    loop {
        received.clear();
        match raw.recv(&mut received, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            outcome => outcome.map_err(failed)?,
        };
        let mut rest = received.as_slice();
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let length = u32_at(header, 0) as usize;
            let short = || Error::Answer { request: what(), reason: format!("a message of {length} octets") };
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let body = rest.get(HEADER..length).ok_or_else(short)?;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.get(..4).ok_or_else(short)?;
                    let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                    return match code {
                        0 => Ok(()),
                        code => Err(Error::Refused { request: what(), errno: Errno::from_raw(-code) }),
                    };
                }
                _ => {
                    let (head, body) = body.split_at_checked(FAMILY_HEADER).ok_or_else(short)?;
                    each(head[0], &attributes(body));
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Type, value, and the whole of each attribute.
pub(crate) fn attributes(mut octets: &[u8]) -> Vec<(u16, &[u8], &[u8])> {
    let mut found = Vec::new();
    while let Some((head, _)) = octets.split_at_checked(4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & !NESTED;
        let whole = octets.get(..length.next_multiple_of(4)).unwrap_or(octets);
        let Some(value) = octets.get(4..length) else { break };
        found.push((kind, value, whole));
        octets = &octets[whole.len()..];
    }
    found
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Values here are addresses and nests of them: far below 64 KiB.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut octets = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

fn message(kind: u16, flags: u16, family: u8, body: &[u8]) -> Vec<u8> {
    let length = HEADER + FAMILY_HEADER + body.len();
    let mut octets = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    octets.extend(kind.to_ne_bytes());
    octets.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    octets.extend([0; 8]);
    octets.extend([family, 0, 0, 0]);
    octets.extend(body);
    octets
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

fn source_type(address: IpAddr) -> u16 {
    if address.is_ipv4() { IP_V4_SOURCE } else { IP_V6_SOURCE }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn u32_at(octets: &[u8], place: usize) -> u32 {
    u32::from_ne_bytes([octets[place], octets[place + 1], octets[place + 2], octets[place + 3]])
}
