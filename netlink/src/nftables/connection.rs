//! A connection to the kernel's nftables.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::io;

use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use super::{
    HEADER, Transaction,
    attribute::{Attributes, Writer},
    change,
};
use crate::Error;

/// The kernel takes a transaction as one datagram: what may be sent at once, in octets. It is a limit and costs nothing;
/// 10,000 addresses with 1,000 chains are some 2 MiB.
const MOST_SENT: usize = 256 << 20;
/// What answers may take before they are lost: some 40,000 of them.
const MOST_RECEIVED: usize = 16 << 20;

const NLMSG_ERROR: u16 = 2;
/// The error number, and the header of what was refused.
const ERROR_HEAD: usize = 4 + HEADER;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The error is followed by attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_OFFS`.
const ERROR_OFFSET: u16 = 2;

/// A connection to the kernel's nftables, in the network namespace in which it was opened.
pub struct Connection {
    raw: Raw,
    port: u32,
    sequence: u32,
    received: Vec<u8>,
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// When the kernel gives no socket, or not one for large transactions: that takes `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, Error> {
        let mut raw = Raw::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        let port = raw.bind_auto().map_err(Error::Open)?.port_number();
        raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        // Answers say where in a message the fault is, and do not repeat the message.
        raw.set_cap_ack(true).map_err(Error::Open)?;
        raw.set_ext_ack(true).map_err(Error::Open)?;
        setsockopt(&raw, sockopt::SndBufForce, &MOST_SENT).map_err(|errno| Error::Open(errno.into()))?;
        setsockopt(&raw, sockopt::RcvBufForce, &MOST_RECEIVED).map_err(|errno| Error::Open(errno.into()))?;
        Ok(Self { raw, port, sequence: 0, received: Vec::with_capacity(64 * 1024) })
    }

    /// The netlink port by which [`super::TableMonitor`] names it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Carries a transaction out. One without a change is none.
    ///
    /// # Errors
    /// When the kernel refuses any part: it holds what it held before. The error names the first part refused.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.count() == 0 {
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        let encoded = transaction.encode(first);
        self.sequence = encoded.last_sequence();
        let all = || transaction.describe(None);
        let failed = |source| Error::Exchange { request: all(), source };
        retry(|| self.raw.send(&encoded.writer.octets, 0)).map_err(failed)?;
        // By now the kernel has carried it out or given it up, and all answers are there: refusals in order, then
        // the acknowledgement. One refusal of the batch as a whole names its first message.
        let (mut refusal, mut is_answered, mut is_overrun) = (None, false, false);
        loop {
            self.received.clear();
            match retry(|| self.raw.recv(&mut self.received, libc::MSG_DONTWAIT)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // More was refused than there was room for; the first refusals are there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    is_overrun = true;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            }
            for message in messages(&self.received) {
                let message = message.map_err(|reason| Error::Answer { request: all(), reason })?;
                // Not an answer to this.
                if message.kind != NLMSG_ERROR
                    || message.sequence.wrapping_sub(first) > self.sequence.wrapping_sub(first)
                {
                    continue;
                }
                is_answered = true;
                let Some((errno, offset)) = message.refusal() else { continue };
                refusal.get_or_insert_with(|| Error::Refused {
                    request: transaction.describe(encoded.mark(message.sequence, offset)),
                    errno,
                });
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if is_overrun => Err(failed(io::Error::from_raw_os_error(libc::ENOBUFS))),
            None if !is_answered => Err(Error::Answer { request: all(), reason: "there is none".into() }),
            None => Ok(()),
        }
    }

    /// Asks for one thing or for all of a kind, which `body` picks, and gathers what `each` makes of the answers, told by
    /// message type and attributes. Those of a dump that a change interrupted may miss objects: then it is asked again.
    pub(super) fn ask<T: Default>(
        &mut self,
        what: &str,
        message: u8,
        wanted: Wanted,
        body: impl Fn(&mut Writer),
        each: impl Fn(&mut T, u16, &Attributes<'_>),
    ) -> Result<T, Error> {
        const ATTEMPTS: usize = 20;
        for _ in 0..ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = if wanted == Wanted::All { NLM_F_DUMP } else { 0 };
            let request = change::request(message, flags, self.sequence, &body);
            let mut found = T::default();
            if self.ask_once(what, &request, wanted, |kind, body| each(&mut found, kind, body))? {
                return Ok(found);
            }
        }
        let reason = format!("interrupted by changes {ATTEMPTS} times in a row");
        Err(Error::Answer { request: what.to_owned(), reason })
    }

    /// False when a change interrupted it.
    fn ask_once(
        &mut self,
        what: &str,
        request: &[u8],
        wanted: Wanted,
        mut each: impl FnMut(u16, &Attributes<'_>),
    ) -> Result<bool, Error> {
        let failed = |source| Error::Exchange { request: what.to_owned(), source };
        retry(|| self.raw.send(request, 0)).map_err(failed)?;
        let mut is_whole = true;
        loop {
            self.received.clear();
            retry(|| self.raw.recv(&mut self.received, 0)).map_err(failed)?;
            for message in messages(&self.received) {
                let message = message.map_err(|reason| Error::Answer { request: what.to_owned(), reason })?;
                if message.sequence != self.sequence {
                    continue;
                }
                is_whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(is_whole),
                    NLMSG_ERROR => match message.refusal() {
                        // A table that goes while it is looked at.
                        Some((Errno::EINTR, _)) => return Ok(false),
                        Some((errno, _)) => {
                            return Err(Error::Refused { request: what.to_owned(), errno });
                        }
                        None => return Ok(is_whole),
                    },
                    kind => {
                        each(
                            kind,
                            &Attributes::parse(message.body.get(super::FAMILY_HEADER..).unwrap_or(&[])),
                        );
                        if wanted == Wanted::One {
                            return Ok(true);
                        }
                    }
                }
            }
        }
    }
}

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The one thing there is.
    One,
    /// All of a kind.
    All,
}

/// A message from the kernel.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// The error, and where in the message refused it is; `None` for an acknowledgement.
    pub(super) fn refusal(&self) -> Option<(Errno, usize)> {
        let code = self.body.get(..4)?.try_into().ok().map(i32::from_ne_bytes)?;
        if code == 0 {
            return None;
        }
        // The header of what was refused follows, then attributes.
        let attributes = self.body.get(ERROR_HEAD..).filter(|_| self.flags & NLM_F_ACK_TLVS != 0);
        let offset = attributes
            .and_then(|attributes| Attributes::parse(attributes).value(ERROR_OFFSET)?.try_into().ok())
            .and_then(|octets| usize::try_from(u32::from_ne_bytes(octets)).ok())
            .unwrap_or(0);
        Some((Errno::from_raw(code.saturating_neg()), offset))
    }
}

/// The messages of a datagram.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, String>> {
    std::iter::from_fn(move || {
        let (header, _) = datagram.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(body) = datagram.get(HEADER..length) else {
            datagram = &[];
            return Some(Err(format!("a message of {length} octets")));
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, flags) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]));
        Some(Ok(Message { kind, flags, sequence: u32::from_ne_bytes([s0, s1, s2, s3]), body }))
    })
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
