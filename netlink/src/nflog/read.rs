//! The kernel's messages about packets.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::time::Duration;

use super::{FAMILY_HEADER, HEADER, SUBSYSTEM};
use crate::conntrack::attributes;

pub(super) const NLMSG_ERROR: u16 = 2;
/// `NFULNL_MSG_PACKET`.
const PACKET: u8 = 0;
/// `NFULA_*`.
const TIMESTAMP: u16 = 3;
const IN_LINK: u16 = 4;
const OUT_LINK: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
const NUMBER: u16 = 12;

/// A packet that a rule told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logged {
    /// What the rule says of it.
    pub prefix: String,
    /// Its first octets, from the IP header on.
    pub payload: Vec<u8>,
    /// The index of the link that it came by, if it came by one.
    pub in_link: Option<u32>,
    /// The index of the link that it would have left by, where that is known already.
    pub out_link: Option<u32>,
    /// When it came, since 1970; the kernel does not tell of what the node itself sends.
    pub time: Option<Duration>,
}

/// A message from the kernel.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    body: &'a [u8],
}

impl Message<'_> {
    /// The number of an answer; 0 is none.
    pub(super) fn error(&self) -> i32 {
        self.body.first_chunk().map_or(0, |octets| i32::from_ne_bytes(*octets))
    }

    /// A packet, with its number in the group where the kernel counts; `None` for other messages.
    pub(super) fn packet(&self) -> Option<(Logged, Option<u32>)> {
        if self.kind != u16::from_be_bytes([SUBSYSTEM, PACKET]) {
            return None;
        }
        let mut logged = Logged::default();
        let mut number = None;
        for (kind, value, _) in attributes(self.body.get(FAMILY_HEADER..)?) {
            match kind {
                PREFIX => {
                    let text = value.strip_suffix(&[0]).unwrap_or(value);
                    logged.prefix = String::from_utf8_lossy(text).into_owned();
                }
                PAYLOAD => logged.payload = value.to_vec(),
                IN_LINK => logged.in_link = word(value),
                OUT_LINK => logged.out_link = word(value),
                NUMBER => number = word(value),
                TIMESTAMP => logged.time = time(value),
                _ => {}
            }
        }
        Some((logged, number))
    }
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

/// Seconds and microseconds.
fn time(value: &[u8]) -> Option<Duration> {
    let (seconds, rest) = value.split_first_chunk()?;
    let micros = Duration::from_micros(u64::from_be_bytes(*rest.first_chunk()?));
    Duration::from_secs(u64::from_be_bytes(*seconds)).checked_add(micros)
}

/// The messages of a datagram, up to one that is not whole.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let [l0, l1, l2, l3, k0, k1, ..] = *datagram.first_chunk::<HEADER>()?;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: u16::from_ne_bytes([k0, k1]), body })
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::messages;

    proptest! {
        #[test]
        fn octets_of_any_kind_are_read_without_panic(
            octets in vec(any::<u8>(), 0..256),
            kind in select(vec![2_u16, 0x400, 0x401]),
        ) {
            for message in messages(&octets) {
                let _read = (message.error(), message.packet());
            }
            // The same behind a header that is right.
            let mut whole = [vec![0; 16], octets].concat();
            let length = u32::try_from(whole.len()).unwrap();
            whole[..4].copy_from_slice(&length.to_ne_bytes());
            whole[4..6].copy_from_slice(&kind.to_ne_bytes());
            let packets = messages(&whole).filter_map(|message| message.packet()).count();
            prop_assert_eq!(packets, usize::from(kind == 0x400 && whole.len() >= 20));
        }
    }
}
