//! The decoders of what the kernel says, for the fuzz targets (`fuzz/`): each takes a datagram as it comes from a socket, and asserts
//! what is to hold of any.

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;

use crate::{
    Event, Request, fdb,
    filter::{self, Direction, Filter},
    monitor::event,
    socket::parse_messages,
};
pub use crate::{
    conntrack::fuzzing::datagram as conntrack, nflog::fuzzing::datagram as nflog,
    nftables::fuzzing::datagram as nftables, xfrm::fuzzed as xfrm,
};

/// Octets of the shortest message.
const HEADER: usize = 16;

/// The changes that a datagram of rtnetlink tells of; `None` when a message cannot be read, and so everything is listed anew.
pub fn rtnetlink(datagram: &[u8]) -> Option<Vec<Event>> {
    let messages = parse_messages(datagram).ok()?;
    assert!(messages.len() <= datagram.len() / HEADER, "more messages than there is room for");
    let inner = messages.iter().filter_map(|message| match &message.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    });
    let events: Vec<Event> = inner.clone().filter_map(event).collect();
    for event in &events {
        if let Event::ForwardingChanged(entry) | Event::ForwardingGone(entry) = event {
            deleted_entry(entry);
        }
    }
    for message in inner {
        let RouteNetlinkMessage::NewTrafficFilter(message) = message else { continue };
        for direction in Direction::ALL {
            if let Some(filter) = Filter::parse(message, direction) {
                deleted_filter(&filter);
            }
        }
    }
    Some(events)
}

/// What is deleted is the entry that was read.
fn deleted_entry(entry: &fdb::Entry) {
    let RouteNetlinkMessage::DelNeighbour(message) = again(&fdb::delete(entry)) else {
        panic!("no deletion of {entry}")
    };
    let read = fdb::Entry::parse(&message).expect("an entry");
    assert_eq!(read, fdb::Entry { permanent: true, ..entry.clone() }, "another entry than was found");
}

/// What is deleted is the filter that was read.
fn deleted_filter(found: &Filter) {
    let RouteNetlinkMessage::DelTrafficFilter(message) = again(&filter::delete(found)) else {
        panic!("no deletion of {found:?}")
    };
    let read = Filter::parse(&message, found.direction).expect("a filter");
    let mut named = found.clone();
    (named.name, named.program) = (String::new(), None);
    assert_eq!(read, named, "another filter than was found");
}

/// A request as the kernel reads it.
fn again(request: &Request) -> RouteNetlinkMessage {
    let mut octets = Vec::new();
    request.encode(1, false, &mut octets);
    let message = parse_messages(&octets).expect("what is sent can be read").remove(0);
    let NetlinkPayload::InnerMessage(message) = message.payload else { panic!("{request} is no request") };
    message
}
