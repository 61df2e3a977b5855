//! One message to the kernel, which can say in words what it asks for.

use std::fmt;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;

/// A change asked of the kernel. Made by the verbs, sent by [`crate::Socket`].
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
}

impl Request {
    pub(crate) fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags }
    }

    /// Its length on the wire, header included.
    pub(crate) fn octets(&self) -> usize {
        NetlinkMessage::from(self.message.clone()).buffer_len()
    }

    pub(crate) fn encode(&self, sequence: u32, acknowledge: bool, buffer: &mut Vec<u8>) {
        let mut message = NetlinkMessage::from(self.message.clone());
        message.header.flags = NLM_F_REQUEST | self.flags | if acknowledge { NLM_F_ACK } else { 0 };
        message.header.sequence_number = sequence;
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use RouteNetlinkMessage as M;
        match &self.message {
            M::NewLink(message) => write!(f, "add {}", crate::link::Described(message)),
            M::SetLink(message) => write!(f, "set {}", crate::link::Described(message)),
            M::DelLink(message) => write!(f, "delete {}", crate::link::Described(message)),
            M::GetLink(message) => write!(f, "get {}", crate::link::Described(message)),
            M::NewAddress(message) => write!(f, "add {}", crate::addr::Described(message)),
            M::DelAddress(message) => write!(f, "delete {}", crate::addr::Described(message)),
            M::NewRoute(message) => write!(f, "add {}", crate::route::Described(message)),
            M::DelRoute(message) => write!(f, "delete {}", crate::route::Described(message)),
            M::NewNeighbour(message) => write!(f, "add {}", crate::neigh::Described(message)),
            M::DelNeighbour(message) => write!(f, "delete {}", crate::neigh::Described(message)),
            M::GetAddress(_) => f.write_str("list addresses"),
            M::GetRoute(_) => f.write_str("list routes"),
            M::GetNeighbour(_) => f.write_str("list neighbours"),
            other => write!(f, "netlink message type {}", other.message_type()),
        }
    }
}
