//! The message header, which cuts a byte stream into messages.

use super::notification::Notification;
use super::reader::Reader;

/// Octets in a header.
pub const HEADER_LEN: usize = 19;
/// Octets in the longest message (RFC 4271 section 4).
pub const MAX_MESSAGE_LEN: usize = 4096;
/// Octets in the longest message where both sides can do extended ones (RFC 8654).
pub const MAX_EXTENDED_MESSAGE_LEN: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Opens a session.
    Open,
    /// Announces and withdraws routes.
    Update,
    /// Ends a session.
    Notification,
    /// Says that the speaker lives.
    Keepalive,
    /// Asks for all routes again (RFC 2918).
    RouteRefresh,
}

impl MessageKind {
    /// The type's number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    /// The lengths that a whole message of this type may have (RFC 4271 section 6.1, RFC 8654 section 4) on a session
    /// with this limit.
    const fn lengths(self, limit: usize) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Open => 29..=MAX_MESSAGE_LEN,
            Self::Update | Self::RouteRefresh => 23..=limit,
            Self::Notification => 21..=limit,
            Self::Keepalive => HEADER_LEN..=HEADER_LEN,
        }
    }
}

/// One message cut out of the stream.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The type.
    pub kind: MessageKind,
    /// What follows the header.
    pub body: &'a [u8],
    /// Octets of the whole message, header included.
    pub length: usize,
}

impl<'a> Frame<'a> {
    /// Cuts the first message off a session without extended messages; `None` while it is not there completely.
    ///
    /// # Errors
    /// A message header error: the stream cannot be followed any further.
    pub fn split(stream: &'a [u8]) -> Result<Option<Self>, Notification> {
        Self::split_within(stream, MAX_MESSAGE_LEN)
    }

    /// The same where messages may have up to `limit` octets, as far as their type allows it.
    ///
    /// # Errors
    /// A message header error: the stream cannot be followed any further.
    pub fn split_within(stream: &'a [u8], limit: usize) -> Result<Option<Self>, Notification> {
        let mut reader = Reader::new(stream);
        let Some(marker) = reader.array::<16>() else { return Ok(None) };
        if marker != MARKER {
            return Err(Notification::connection_not_synchronized());
        }
        let (Some(wire_length), Some(code)) = (reader.u16(), reader.u8()) else { return Ok(None) };
        let length = usize::from(wire_length);
        if !(HEADER_LEN..=limit).contains(&length) {
            return Err(Notification::bad_message_length(wire_length));
        }
        let kind = MessageKind::from_code(code).ok_or_else(|| Notification::bad_message_type(code))?;
        if !kind.lengths(limit).contains(&length) {
            return Err(Notification::bad_message_length(wire_length));
        }
        Ok(reader.take(length.saturating_sub(HEADER_LEN)).map(|body| Self { kind, body, length }))
    }
}

/// How many messages, all of them whole, follow one another here.
pub fn count(mut messages: &[u8]) -> u64 {
    let mut count: u64 = 0;
    while let Some([high, low]) = messages.get(MARKER.len()..).and_then(|rest| rest.first_chunk::<2>()) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        messages = messages.get(length.max(HEADER_LEN)..).unwrap_or_default();
        count = count.saturating_add(1);
    }
    count
}

/// Appends a header whose length is filled in by [`finish_message`]; gives where it starts.
pub(super) fn start_message(kind: MessageKind, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0, 0, kind.code()]);
    start
}

/// Writes the length of the message that starts at `start` and ends with the buffer.
pub(super) fn finish_message(start: usize, out: &mut [u8]) {
    let length = u16::try_from(out.len().saturating_sub(start)).unwrap_or(u16::MAX);
    let field =
        out.get_mut(start.saturating_add(MARKER.len())..).and_then(|rest| rest.first_chunk_mut::<2>());
    if let Some(field) = field {
        *field = length.to_be_bytes();
    }
}

/// Appends a KEEPALIVE message.
pub fn encode_keepalive(out: &mut Vec<u8>) {
    let start = start_message(MessageKind::Keepalive, out);
    finish_message(start, out);
}
