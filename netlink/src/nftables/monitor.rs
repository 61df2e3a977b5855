//! Changes that anyone makes to a table of nftables, as they happen: by whom, not what.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use netlink_sys::{Socket as Raw, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use super::{FAMILY_HEADER, HEADER, SUBSYSTEM};
use crate::{Error, conntrack::attributes};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// The attribute that names the table, the same in messages about tables, chains, rules, sets, elements and objects.
const TABLE: u16 = 1;
/// What notices may take before they are lost, in octets: those of some 100,000 elements. A limit that costs nothing.
const MOST_RECEIVED: usize = 64 << 20;

/// What a [`TableMonitor`] has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// The netlink ports of those who changed the table. A program like `nft` has its process ID for a port.
    By(BTreeSet<u32>),
    /// Changes came faster than they were read and some are lost.
    Lost,
}

/// A subscription to changes of one table of family `inet`, in the network namespace in which it was opened.
pub struct TableMonitor {
    raw: Raw,
    table: String,
}

impl TableMonitor {
    /// Subscribes. Reads never block: wait for the descriptor to become readable.
    ///
    /// # Errors
    /// When the kernel gives no socket, or not one for many notices, which takes `CAP_NET_ADMIN`, or has no nftables.
    pub fn open(table: &str) -> Result<Self, Error> {
        let mut raw = Raw::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        raw.bind_auto().map_err(Error::Open)?;
        raw.set_non_blocking(true).map_err(Error::Open)?;
        setsockopt(&raw, sockopt::RcvBufForce, &MOST_RECEIVED).map_err(|errno| Error::Open(errno.into()))?;
        raw.add_membership(GROUP).map_err(Error::Open)?;
        Ok(Self { raw, table: table.to_owned() })
    }

    /// Reads who has changed the table.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nobody has changed anything; any other error is the socket's.
    pub fn read(&mut self) -> io::Result<Touched> {
        match self.raw.recv_from_full() {
            Ok((datagram, _)) => Ok(Touched::By(ports(&self.table, &datagram))),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Touched::Lost),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for TableMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl AsRawFd for TableMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.raw.as_raw_fd()
    }
}

/// Who changed a table, of the changes that a datagram tells of.
pub(super) fn ports(table: &str, datagram: &[u8]) -> BTreeSet<u32> {
    let mut ports = BTreeSet::new();
    let mut rest = datagram;
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let number = |place| {
            u32::from_ne_bytes([header[place], header[place + 1], header[place + 2], header[place + 3]])
        };
        let length = number(0) as usize;
        let subsystem = u16::from_ne_bytes([header[4], header[5]]).to_be_bytes()[0];
        let Some(body) = rest.get(HEADER + FAMILY_HEADER..length) else { break };
        let is_inet = rest.get(HEADER).is_some_and(|family| i32::from(*family) == libc::NFPROTO_INET);
        let is_ours = attributes(body)
            .iter()
            .any(|(kind, value, _)| *kind == TABLE && value.strip_suffix(&[0]) == Some(table.as_bytes()));
        if subsystem == SUBSYSTEM && is_inet && is_ours {
            ports.insert(number(12));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    ports
}
