//! The ROUTE-REFRESH message.

use super::header::{MessageKind, finish_message, start_message};
use super::notification::Notification;
use super::reader::Reader;
use crate::family::Family;

/// Asks the peer to send all its routes of one family again (RFC 2918).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family asked for; `None` when the speaker does not know it, which calls for no answer.
    pub family: Option<Family>,
}

impl RouteRefresh {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        match (reader.u16(), reader.u8(), reader.u8()) {
            (Some(afi), Some(_reserved), Some(safi)) => Ok(Self { family: Family::from_wire(afi, safi) }),
            _ => Err(Notification::bad_message_length(
                u16::try_from(body.len().saturating_add(super::HEADER_LEN)).unwrap_or(u16::MAX),
            )),
        }
    }

    /// Appends a request for one family.
    pub fn encode(family: Family, out: &mut Vec<u8>) {
        let start = start_message(MessageKind::RouteRefresh, out);
        out.extend_from_slice(&family.afi().to_be_bytes());
        out.extend_from_slice(&[0, family.safi()]);
        finish_message(start, out);
    }
}
