//! The decoders of what the kernel says, for the fuzz targets (`fuzz/`): each takes a datagram as it comes from a socket, and asserts
//! what is to hold of any.

use netlink_packet_core::NetlinkPayload;

use crate::{Event, monitor::event, socket::parse_messages};
pub use crate::{
    conntrack::fuzzing::datagram as conntrack, nflog::fuzzing::datagram as nflog,
    nftables::fuzzing::datagram as nftables,
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
    Some(inner.filter_map(event).collect())
}
