//! One message to the kernel, which can say in words what it asks for.

use std::fmt;

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;

/// Octets of a `struct nlmsghdr`.
const HEADER_OCTETS: usize = 16;

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

    /// Whether it takes an object away.
    pub fn is_deletion(&self) -> bool {
        use RouteNetlinkMessage as M;
        matches!(
            self.message,
            M::DelLink(_)
                | M::DelAddress(_)
                | M::DelRoute(_)
                | M::DelNeighbour(_)
                | M::DelQueueDiscipline(_)
                | M::DelTrafficFilter(_)
        )
    }

    /// Its length on the wire, header included.
    pub(crate) fn octets(&self) -> usize {
        HEADER_OCTETS + Emitable::buffer_len(&self.message)
    }

    pub(crate) fn encode(&self, sequence: u32, acknowledge: bool, buffer: &mut Vec<u8>) {
        let length = self.octets();
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        header.message_type = self.message.message_type();
        header.flags = NLM_F_REQUEST | self.flags | if acknowledge { NLM_F_ACK } else { 0 };
        header.sequence_number = sequence;
        let start = buffer.len();
        buffer.resize(start + length.next_multiple_of(4), 0);
        let (head, body) = buffer[start..].split_at_mut(HEADER_OCTETS);
        header.emit(head);
        self.message.serialize(&mut body[..length - HEADER_OCTETS]);
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
            M::NewQueueDiscipline(message) => {
                write!(f, "add queueing discipline {}", crate::qdisc::Described(message))
            }
            M::DelQueueDiscipline(message) => {
                write!(f, "delete queueing discipline {}", crate::qdisc::Described(message))
            }
            M::NewTrafficFilter(message) => write!(f, "add filter {}", crate::qdisc::Described(message)),
            M::DelTrafficFilter(message) => write!(f, "delete filter {}", crate::qdisc::Described(message)),
            M::GetTrafficFilter(message) => write!(f, "list filters on link {}", message.header.index),
            M::GetQueueDiscipline(_) => f.write_str("list queueing disciplines"),
            M::GetAddress(_) => f.write_str("list addresses"),
            M::GetRoute(_) => f.write_str("list routes"),
            M::GetNeighbour(_) => f.write_str("list neighbours"),
            other => write!(f, "netlink message type {}", other.message_type()),
        }
    }
}
