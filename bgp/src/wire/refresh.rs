//! The ROUTE-REFRESH message.

use super::header::{HEADER_LEN, MessageKind, finish_message, start_message};
use super::notification::Notification;
use super::reader::Reader;
use crate::family::Family;

/// What a ROUTE-REFRESH says (RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// Asks the peer to send all its routes of one family again (RFC 2918).
    Request,
    /// `BoRR`: the sender begins to send all its routes again.
    Begin,
    /// `EoRR`: it has sent them all; what it did not send again is gone.
    End,
}

impl RefreshKind {
    const fn code(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Begin => 1,
            Self::End => 2,
        }
    }
}

/// A ROUTE-REFRESH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Its family and what it says; `None` when the speaker does not know either, which calls for no answer.
    pub content: Option<(Family, RefreshKind)>,
}

impl RouteRefresh {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        let (Some(afi), Some(subtype), Some(safi)) = (reader.u16(), reader.u8(), reader.u8()) else {
            let length = u16::try_from(body.len().saturating_add(HEADER_LEN)).unwrap_or(u16::MAX);
            return Err(Notification::bad_message_length(length));
        };
        let kind = match subtype {
            0 => Some(RefreshKind::Request),
            1 => Some(RefreshKind::Begin),
            2 => Some(RefreshKind::End),
            _ => None,
        };
        // A request may carry filters, which we ignore as we never offered to take them (RFC 5291).
        if !reader.is_empty() && matches!(kind, Some(RefreshKind::Begin | RefreshKind::End)) {
            let mut message = Vec::new();
            let start = start_message(MessageKind::RouteRefresh, &mut message);
            message.extend_from_slice(body);
            finish_message(start, &mut message);
            return Err(Notification::invalid_refresh_length(message));
        }
        Ok(Self { content: Family::from_wire(afi, safi).zip(kind) })
    }

    /// Appends a message of one family.
    pub fn encode(family: Family, kind: RefreshKind, out: &mut Vec<u8>) {
        let start = start_message(MessageKind::RouteRefresh, out);
        out.extend_from_slice(&family.afi().to_be_bytes());
        out.extend_from_slice(&[kind.code(), family.safi()]);
        finish_message(start, out);
    }
}
