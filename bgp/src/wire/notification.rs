//! The NOTIFICATION message.

use std::fmt;

use super::header::{MessageKind, finish_message, start_message};

/// Octets in the longest text of a shutdown communication (RFC 9003).
pub const LONGEST_COMMUNICATION: usize = 255;

/// An error report that ends a session (RFC 4271 section 4.5).
///
/// Every decoder's session-level fault is one of these, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The error subcode; 0 is "unspecific".
    pub subcode: u8,
    /// What the code's definition asks for, often the field at fault.
    pub data: Vec<u8>,
}

impl Notification {
    pub(super) fn new(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// 1/1: the marker is not all ones.
    pub fn connection_not_synchronized() -> Self {
        Self::new(1, 1, [])
    }

    /// 1/2: the length does not fit the message's type.
    pub fn bad_message_length(length: u16) -> Self {
        Self::new(1, 2, length.to_be_bytes())
    }

    /// 1/3: no such type.
    pub fn bad_message_type(kind: u8) -> Self {
        Self::new(1, 3, [kind])
    }

    /// 2/0: an OPEN whose fields overrun it.
    pub fn malformed_open() -> Self {
        Self::new(2, 0, [])
    }

    /// 2/1: not BGP-4; the data is the largest version that we speak.
    pub fn unsupported_version() -> Self {
        Self::new(2, 1, 4_u16.to_be_bytes())
    }

    /// 2/2: not the AS that was configured.
    pub fn bad_peer_as() -> Self {
        Self::new(2, 2, [])
    }

    /// 2/3: zero, or our own within one AS (RFC 6286).
    pub fn bad_bgp_identifier() -> Self {
        Self::new(2, 3, [])
    }

    /// 2/4: an optional parameter other than capabilities.
    pub fn unsupported_optional_parameter() -> Self {
        Self::new(2, 4, [])
    }

    /// 2/6: a hold time of one or two seconds.
    pub fn unacceptable_hold_time() -> Self {
        Self::new(2, 6, [])
    }

    /// 2/7: no family in common; the data is the capabilities that are missed (RFC 5492).
    pub fn unsupported_capability(missed: impl Into<Vec<u8>>) -> Self {
        Self::new(2, 7, missed)
    }

    /// 3/1: the lengths in an UPDATE contradict one another, or an attribute that may not is there twice.
    pub fn malformed_attribute_list() -> Self {
        Self::new(3, 1, [])
    }

    /// 3/2: a well-known attribute that does not exist; the data is the attribute.
    pub fn unrecognized_well_known(attribute: &[u8]) -> Self {
        Self::new(3, 2, attribute)
    }

    /// 3/9: an optional attribute with a wrong value; the data is the attribute.
    pub fn optional_attribute_error(attribute: &[u8]) -> Self {
        Self::new(3, 9, attribute)
    }

    /// 3/10: prefixes that cannot be told apart.
    pub fn invalid_network_field() -> Self {
        Self::new(3, 10, [])
    }

    /// 4/0: nothing heard within the hold time.
    pub fn hold_timer_expired() -> Self {
        Self::new(4, 0, [])
    }

    /// 5/1: not an OPEN where one was due (RFC 6608).
    pub fn unexpected_in_open_sent(kind: MessageKind) -> Self {
        Self::new(5, 1, [kind.code()])
    }

    /// 5/2: not a KEEPALIVE where one was due (RFC 6608).
    pub fn unexpected_in_open_confirm(kind: MessageKind) -> Self {
        Self::new(5, 2, [kind.code()])
    }

    /// 5/3: an OPEN on an established session (RFC 6608).
    pub fn unexpected_in_established(kind: MessageKind) -> Self {
        Self::new(5, 3, [kind.code()])
    }

    /// 6/1: more prefixes than allowed.
    pub fn maximum_prefixes_reached() -> Self {
        Self::new(6, 1, [])
    }

    /// 6/2: the operator or the host shuts the speaker down.
    pub fn administrative_shutdown() -> Self {
        Self::new(6, 2, [])
    }

    /// 6/2 with a text for the operator at the other end (RFC 9003), cut to the 255 octets that it may have.
    pub fn shutdown_communication(text: &str) -> Self {
        let text = text.get(..text.floor_char_boundary(LONGEST_COMMUNICATION)).unwrap_or_default();
        let mut data = Vec::new();
        if let Ok(length @ 1..) = u8::try_from(text.len()) {
            data.push(length);
            data.extend_from_slice(text.as_bytes());
        }
        Self::new(6, 2, data)
    }

    /// 6/3: the neighbour was taken out of the configuration.
    pub fn peer_deconfigured() -> Self {
        Self::new(6, 3, [])
    }

    /// 6/4: the operator wants the session to begin anew.
    pub fn administrative_reset() -> Self {
        Self::new(6, 4, [])
    }

    /// 6/5: not wanted now.
    pub fn connection_rejected() -> Self {
        Self::new(6, 5, [])
    }

    /// 6/6: the neighbour's configuration changed.
    pub fn other_configuration_change() -> Self {
        Self::new(6, 6, [])
    }

    /// 6/7: the other one of two simultaneous connections is kept.
    pub fn connection_collision() -> Self {
        Self::new(6, 7, [])
    }

    /// 6/9: as `reason`, but nothing of the session may be kept (RFC 8538 section 3).
    #[must_use]
    pub fn hard_reset(reason: &Self) -> Self {
        let mut data = vec![reason.code, reason.subcode];
        data.extend_from_slice(&reason.data);
        Self::new(6, 9, data)
    }

    /// 6/10: BFD found the path to the neighbour broken (RFC 9384).
    pub fn bfd_down() -> Self {
        Self::new(6, 10, [])
    }

    /// 7/1: a `BoRR` or `EoRR` of a wrong length; the data is the message (RFC 7313 section 5).
    pub fn invalid_refresh_length(message: impl Into<Vec<u8>>) -> Self {
        Self::new(7, 1, message)
    }

    /// 8/0: the peer took none of our messages within the send hold time (RFC 9687).
    pub fn send_hold_timer_expired() -> Self {
        Self::new(8, 0, [])
    }

    /// Whether the session ends for good: nothing of it is kept even where both sides restart gracefully.
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (6, 9)
    }

    /// What the operator at the other end has to say on a shutdown or reset (RFC 9003). What is no UTF-8 or does not
    /// fit its length is shown as far as it can be.
    pub fn communication(&self) -> Option<String> {
        let (subcode, data) = match (self.code, self.subcode, self.data.as_slice()) {
            // A hard reset carries the NOTIFICATION that it stands for.
            (6, 9, [6, subcode, data @ ..]) => (*subcode, data),
            (6, subcode, data) => (subcode, data),
            _ => return None,
        };
        let (length, text) = data.split_first().filter(|(length, _)| **length > 0)?;
        let text = text.get(..usize::from(*length)).unwrap_or(text);
        // What the text does to a terminal is not the peer's business.
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        matches!(subcode, 2 | 4).then(|| String::from_utf8_lossy(text).chars().map(shown).collect())
    }

    /// Reads the body; it cannot be malformed once the header is not.
    pub(super) fn decode(body: &[u8]) -> Self {
        match body {
            [code, subcode, data @ ..] => Self::new(*code, *subcode, data),
            _ => Self::new(0, 0, []),
        }
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = start_message(MessageKind::Notification, out);
        out.extend_from_slice(&[self.code, self.subcode]);
        out.extend(self.data.iter().take(super::MAX_MESSAGE_LEN.saturating_sub(super::HEADER_LEN + 2)));
        finish_message(start, out);
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match (self.code, self.subcode) {
            (1, 1) => "connection not synchronized",
            (1, 2) => "bad message length",
            (1, 3) => "bad message type",
            (1, _) => "message header error",
            (2, 1) => "unsupported version number",
            (2, 2) => "bad peer AS",
            (2, 3) => "bad BGP identifier",
            (2, 4) => "unsupported optional parameter",
            (2, 6) => "unacceptable hold time",
            (2, 7) => "unsupported capability",
            (2, _) => "OPEN message error",
            (3, 1) => "malformed attribute list",
            (3, 2) => "unrecognized well-known attribute",
            (3, 3) => "missing well-known attribute",
            (3, 4) => "attribute flags error",
            (3, 5) => "attribute length error",
            (3, 6) => "invalid ORIGIN attribute",
            (3, 8) => "invalid NEXT_HOP attribute",
            (3, 9) => "optional attribute error",
            (3, 10) => "invalid network field",
            (3, 11) => "malformed AS_PATH",
            (3, _) => "UPDATE message error",
            (4, _) => "hold timer expired",
            (5, 1) => "unexpected message in OpenSent",
            (5, 2) => "unexpected message in OpenConfirm",
            (5, 3) => "unexpected message in Established",
            (5, _) => "finite state machine error",
            (6, 1) => "maximum number of prefixes reached",
            (6, 2) => "administrative shutdown",
            (6, 3) => "peer deconfigured",
            (6, 4) => "administrative reset",
            (6, 5) => "connection rejected",
            (6, 6) => "other configuration change",
            (6, 7) => "connection collision resolution",
            (6, 8) => "out of resources",
            (6, 9) => "hard reset",
            (6, 10) => "BFD down",
            (6, _) => "cease",
            (7, 1) => "invalid message length",
            (7, _) => "ROUTE-REFRESH message error",
            (8, _) => "send hold timer expired",
            _ => "unknown error",
        };
        write!(f, "{meaning} ({}/{})", self.code, self.subcode)?;
        match self.communication() {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_communication_is_read_as_it_was_written() {
        for text in ["maintenance till 6", "Wartung bis März", &"x".repeat(LONGEST_COMMUNICATION)] {
            assert_eq!(Notification::shutdown_communication(text).communication().as_deref(), Some(text));
        }
        assert_eq!(Notification::shutdown_communication("").communication(), None);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ä".repeat(200);
        let sent = Notification::shutdown_communication(&text).communication().unwrap();
        assert_eq!(sent, "ä".repeat(127));
    }

    #[test]
    fn a_text_that_is_wrong_is_shown_as_far_as_it_can_be() {
        let cases: [(u8, &[u8], Option<&str>); 6] = [
            (2, &[2, 0xc3, 0x28], Some("\u{fffd}(")),
            (4, &[9, b'h', b'i'], Some("hi")),
            (2, &[2, b'a', 0x1b], Some("a ")),
            (2, &[0], None),
            (2, &[], None),
            (3, &[2, b'h', b'i'], None),
        ];
        for (subcode, data, text) in cases {
            assert_eq!(Notification::new(6, subcode, data).communication().as_deref(), text, "{data:?}");
        }
    }

    #[test]
    fn a_hard_reset_carries_what_it_stands_for() {
        let hard = Notification::hard_reset(&Notification::shutdown_communication("bye"));
        assert_eq!(hard.data, [6, 2, 3, b'b', b'y', b'e']);
        assert!(hard.is_hard_reset());
        assert_eq!(hard.to_string(), "hard reset (6/9): bye");
    }
}
