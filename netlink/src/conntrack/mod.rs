//! Tracked connections: finding those of some addresses, ending them, and having others tracked.
//!
//! The messages are `nfnetlink_conntrack`'s (`linux/netfilter/nfnetlink_conntrack.h`), which
//! `netlink-packet-route` does not know. Only what is needed is read of them: the tuples stay octets, as a deletion
//! wants them back as they came.

mod flow;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

pub use flow::{Flow, adopt, answers};

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
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT` and `CTA_PROTO_DST_PORT`.
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
/// `CTA_IP_V4_SRC` and `CTA_IP_V6_SRC`.
const IP_V4_SOURCE: u16 = 1;
const IP_V6_SOURCE: u16 = 3;
/// `CTA_IP_V4_DST` and `CTA_IP_V6_DST`.
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_DESTINATION: u16 = 4;
/// `CTA_FILTER_F_CTA_IP_SRC`.
const FILTER_BY_SOURCE: u32 = 1;

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Who opened it.
    pub source: IpAddr,
    /// Who answers it; where it was translated, that is not whom the source sends to.
    pub destination: IpAddr,
    /// As in the IP header.
    pub protocol: u8,
    /// The destination's port, of protocols that have them.
    pub port: Option<u16>,
    /// The message that deletes it, and no other that came after.
    deletion: Vec<u8>,
}

/// The connections that any of these addresses opened or answers, in the network namespace that the thread is in. Those
/// that were translated count by the address that really sends.
///
/// # Errors
/// When the kernel has no connection tracking over netlink, or refuses.
pub fn list(addresses: &BTreeSet<IpAddr>) -> Result<Vec<Connection>, Error> {
    let Some(first) = addresses.first().copied() else { return Ok(Vec::new()) };
    let raw = open()?;
    // Either way the kernel walks the whole table, which takes it longer than the entries do, each time; without a
    // filter once, but then it copies all entries here.
    if addresses.len() > 1 {
        return find(&raw, None, addresses);
    }
    let mut found = find(&raw, Some((first, TUPLE_ORIG)), addresses)?;
    let answered = find(&raw, Some((first, TUPLE_REPLY)), addresses)?;
    found.extend(answered.into_iter().filter(|connection| connection.source != first));
    Ok(found)
}

/// Ends connections, and says how many there still were: what comes after is judged as new.
///
/// # Errors
/// As [`list`]: the first, when all that could be ended are.
pub fn end(connections: &[Connection]) -> Result<usize, Error> {
    if connections.is_empty() {
        return Ok(0);
    }
    let raw = open()?;
    let (mut ended, mut failed) = (0, None);
    for connection in connections {
        let what = || format!("end a connection of {}", connection.source);
        match exchange(&raw, &connection.deletion, &what, |_, _| {}) {
            // It ended by itself meanwhile.
            Err(error) if error.is_gone() => {}
            Err(error) => failed = failed.or(Some(error)),
            Ok(()) => ended += 1,
        }
    }
    failed.map_or(Ok(ended), Err)
}

/// Forgets the connections of [`list`], and says how many.
///
/// # Errors
/// As [`list`].
pub fn forget(addresses: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    end(&list(addresses)?)
}

fn open() -> Result<Raw, Error> {
    let mut raw = Raw::new(NETLINK_NETFILTER).map_err(Error::Open)?;
    raw.bind_auto().map_err(Error::Open)?;
    raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
    Ok(raw)
}

/// The connections in one of whose tuples one of the addresses is the source; the kernel looks for them itself by
/// `filter`.
fn find(
    raw: &Raw,
    filter: Option<(IpAddr, u16)>,
    addresses: &BTreeSet<IpAddr>,
) -> Result<Vec<Connection>, Error> {
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
    let what = || format!("look at connections of {named}");
    exchange(raw, &request, &what, |family, attributes| {
        let connection = read(family, attributes);
        found.extend(connection.filter(|connection| {
            addresses.contains(&connection.source) || addresses.contains(&connection.destination)
        }));
    })?;
    Ok(found)
}

/// `None` for what is not tracked by addresses of the families that we know.
fn read(family: u8, attributes: &[(u16, &[u8], &[u8])]) -> Option<Connection> {
    let tuple = |wanted: u16| {
        attributes.iter().find(|(kind, ..)| *kind == wanted).and_then(|(_, value, _)| Tuple::read(value))
    };
    let (original, reply) = (tuple(TUPLE_ORIG)?, tuple(TUPLE_REPLY)?);
    let named = attributes.iter().filter(|(kind, ..)| [TUPLE_ORIG, ID, ZONE].contains(kind));
    let body: Vec<u8> = named.flat_map(|(_, _, whole)| whole.iter().copied()).collect();
    Some(Connection {
        source: original.source,
        destination: reply.source,
        protocol: original.protocol,
        port: reply.source_port,
        deletion: message(DELETE, NLM_F_ACK, family, &body),
    })
}

/// What a tuple says of who sends to whom.
struct Tuple {
    source: IpAddr,
    destination: Option<IpAddr>,
    protocol: u8,
    source_port: Option<u16>,
    destination_port: Option<u16>,
}

impl Tuple {
    fn read(tuple: &[u8]) -> Option<Self> {
        let within = |wanted: u16| {
            attributes(tuple).into_iter().find(|(kind, ..)| *kind == wanted).map(|(_, value, _)| value)
        };
        let addresses = attributes(within(TUPLE_IP)?);
        let address = |v4: u16, v6: u16| {
            addresses.iter().find_map(|(kind, value, _)| {
                if *kind == v4 {
                    <[u8; 4]>::try_from(*value).ok().map(IpAddr::from)
                } else if *kind == v6 {
                    <[u8; 16]>::try_from(*value).ok().map(IpAddr::from)
                } else {
                    None
                }
            })
        };
        let source = address(IP_V4_SOURCE, IP_V6_SOURCE)?;
        let destination = address(IP_V4_DESTINATION, IP_V6_DESTINATION);
        let mut read = Self { source, destination, protocol: 0, source_port: None, destination_port: None };
        for (kind, value, _) in attributes(within(TUPLE_PROTOCOL)?) {
            let port = || <[u8; 2]>::try_from(value).ok().map(u16::from_be_bytes);
            match (kind, value) {
                (PROTOCOL_NUMBER, [number]) => read.protocol = *number,
                (PROTOCOL_SOURCE_PORT, _) => read.source_port = port(),
                (PROTOCOL_DESTINATION_PORT, _) => read.destination_port = port(),
                _ => {}
            }
        }
        Some(read)
    }
}

/// Sends a request and reads answers until the last, which is an acknowledgement or the end of a dump.
fn exchange(
    raw: &Raw,
    request: &[u8],
    what: &dyn Fn() -> String,
    mut each: impl FnMut(u8, &[(u16, &[u8], &[u8])]),
) -> Result<(), Error> {
    let failed = |source| Error::Exchange { request: what(), source };
    raw.send(request, 0).map_err(failed)?;
    let mut received: Vec<u8> = Vec::with_capacity(64 * 1024);
    loop {
        received.clear();
        match raw.recv(&mut received, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            outcome => outcome.map_err(failed)?,
        };
        if read_answers(&received, what, &mut each)? == Progress::Done {
            return Ok(());
        }
    }
}

/// Whether more answers follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Going,
    Done,
}

/// Reads the answers in a datagram.
fn read_answers(
    datagram: &[u8],
    what: &dyn Fn() -> String,
    each: &mut impl FnMut(u8, &[(u16, &[u8], &[u8])]),
) -> Result<Progress, Error> {
    let mut rest = datagram;
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let length = u32_at(header, 0) as usize;
        let short = || Error::Answer { request: what(), reason: format!("a message of {length} octets") };
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = rest.get(HEADER..length).ok_or_else(short)?;
        match kind {
            NLMSG_DONE => return Ok(Progress::Done),
            NLMSG_ERROR => {
                let code = body.get(..4).ok_or_else(short)?;
                let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                return match code {
                    0 => Ok(Progress::Done),
                    code => {
                        Err(Error::Refused { request: what(), errno: Errno::from_raw(code.saturating_neg()) })
                    }
                };
            }
            _ => {
                let (head, body) = body.split_at_checked(FAMILY_HEADER).ok_or_else(short)?;
                each(head[0], &attributes(body));
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Progress::Going)
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

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::read_answers;
    use crate::Error;

    #[test]
    fn an_answer_with_any_number_is_an_error_or_the_end() {
        for (code, errno) in [(0, None), (-17, Some(Errno::EEXIST)), (i32::MIN, Some(Errno::UnknownErrno))] {
            let octets =
                [&20_u32.to_ne_bytes()[..], &2_u16.to_ne_bytes(), &[0; 10], &code.to_ne_bytes()].concat();
            let outcome = read_answers(&octets, &|| "test".to_owned(), &mut |_, _| {});
            let found = match outcome {
                Err(Error::Refused { errno, .. }) => Some(errno),
                _ => None,
            };
            assert_eq!(found, errno, "{code}");
        }
    }
}
