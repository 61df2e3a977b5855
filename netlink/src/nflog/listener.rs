//! The listener of a group.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use super::{
    HEADER, Logged, SUBSYSTEM,
    read::{self, NLMSG_ERROR},
};
use crate::Error;

/// `NFULNL_MSG_CONFIG`.
const CONFIG: u8 = 1;
/// `NFULA_CFG_*`.
const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_BUFFER: u16 = 3;
const CONFIG_TIMEOUT: u16 = 4;
const CONFIG_THRESHOLD: u16 = 5;
const CONFIG_FLAGS: u16 = 6;
/// `NFULNL_CFG_CMD_BIND`.
const BIND: u8 = 1;
/// `NFULNL_COPY_PACKET`.
const COPY_PACKET: u8 = 2;
/// `NFULNL_CFG_F_SEQ`: each packet has a number, so that those that are lost can be counted.
const NUMBERED: u16 = 1;

/// What the kernel gathers before it hands it over: so many packets, or this long in hundredths of a second.
const MOST_GATHERED: u32 = 32;
const LONGEST_GATHERED: u32 = 5;
/// What it gathers them in, in octets; 32 packets of 128 octets, with some 150 around each.
const GATHERED_OCTETS: u32 = 16 * 1024;
/// What waits to be read before packets are lost, in octets: some thousand packets.
const MOST_RECEIVED: usize = 1 << 20;

/// Listens to a group in the network namespace in which it was opened, until it is dropped.
pub struct Listener {
    raw: Raw,
    received: Vec<u8>,
    /// The number that the next packet has if none is lost.
    expected: Option<u32>,
}

impl Listener {
    /// Begins to listen, to the first `octets` of each packet. Reads never block: wait for the descriptor to become
    /// readable.
    ///
    /// # Errors
    /// `EPERM` when somebody else listens to the group, or the process lacks `CAP_NET_ADMIN`; another one when the kernel
    /// has no `nfnetlink_log`.
    pub fn open(group: u16, octets: u32) -> Result<Self, Error> {
        let mut raw = Raw::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        raw.bind_auto().map_err(Error::Open)?;
        raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        setsockopt(&raw, sockopt::RcvBufForce, &MOST_RECEIVED).map_err(|errno| Error::Open(errno.into()))?;
        // What is lost, the numbers tell: without this each loss would be an error of a later read, too.
        raw.set_no_enobufs(true).map_err(Error::Open)?;
        let mut listener = Self { raw, received: Vec::with_capacity(64 * 1024), expected: None };
        let mode = [&octets.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
        let settings = [
            (CONFIG_MODE, mode),
            (CONFIG_BUFFER, GATHERED_OCTETS.to_be_bytes().to_vec()),
            (CONFIG_TIMEOUT, LONGEST_GATHERED.to_be_bytes().to_vec()),
            (CONFIG_THRESHOLD, MOST_GATHERED.to_be_bytes().to_vec()),
            (CONFIG_FLAGS, NUMBERED.to_be_bytes().to_vec()),
        ];
        listener.configure(group, &[(CONFIG_COMMAND, vec![BIND])])?;
        listener.configure(group, &settings)?;
        listener.raw.set_non_blocking(true).map_err(Error::Open)?;
        Ok(listener)
    }

    /// Reads what has come, at most a batch of the kernel's, and says how many packets were lost before the last of it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing has; any other error is the socket's.
    pub fn read(&mut self, into: &mut Vec<Logged>) -> io::Result<u64> {
        self.received.clear();
        self.raw.recv(&mut self.received, 0)?;
        let mut lost = 0_u64;
        for message in read::messages(&self.received) {
            let Some((logged, number)) = message.packet() else { continue };
            if let Some(number) = number {
                let missing = self.expected.map_or(0, |expected| number.wrapping_sub(expected));
                lost = lost.saturating_add(missing.into());
                self.expected = Some(number.wrapping_add(1));
            }
            into.push(logged);
        }
        Ok(lost)
    }

    /// Sends a request and waits for its acknowledgement; packets that come before it are passed over.
    fn configure(&mut self, group: u16, settings: &[(u16, Vec<u8>)]) -> Result<(), Error> {
        let what = || format!("listen to NFLOG group {group}");
        let failed = |source| Error::Exchange { request: what(), source };
        self.raw.send(&request(group, settings), 0).map_err(failed)?;
        loop {
            self.received.clear();
            match self.raw.recv(&mut self.received, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome.map_err(failed)?,
            };
            for message in read::messages(&self.received) {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                return match message.error() {
                    0 => Ok(()),
                    code => {
                        let errno = Errno::from_raw(code.saturating_neg());
                        Err(Error::Refused { request: what(), errno })
                    }
                };
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.raw.as_raw_fd()
    }
}

fn request(group: u16, settings: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(group.to_be_bytes());
    for (kind, value) in settings {
        // Settings are a few octets long.
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(HEADER.saturating_add(body.len())).unwrap_or(u32::MAX);
    let mut octets = length.to_ne_bytes().to_vec();
    octets.extend(u16::from_be_bytes([SUBSYSTEM, CONFIG]).to_ne_bytes());
    octets.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    octets.extend([0; 8]);
    octets.extend(body);
    octets
}
