//! When something is in the kernel's table.

use std::{
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

use crate::now;

/// The bit of `NFNLGRP_NFTABLES` among groups.
const GROUP: u32 = 1 << 6;
/// Notices that may wait, in octets.
const MOST_RECEIVED: usize = 64 << 20;

/// Octets that are in the notice of an element and in no other.
type Mark = Vec<u8>;

/// Listens to what is written to nftables in a namespace, for as long as the process lives.
pub(crate) struct Kernel {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    awaited: Vec<(Mark, Instant)>,
    delays: Vec<Duration>,
}

impl Kernel {
    /// Listens in the caller's namespace.
    pub(crate) fn listen() -> Self {
        let raw = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .unwrap();
        setsockopt(&raw, sockopt::RcvBufForce, &MOST_RECEIVED).unwrap();
        bind(raw.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            let mut datagram = vec![0; 1 << 20];
            loop {
                let length = recv(raw.as_raw_fd(), &mut datagram, MsgFlags::empty()).unwrap();
                let at = now();
                shared.lock().unwrap_or_else(PoisonError::into_inner).take(&datagram[..length], at);
            }
        });
        Self { seen }
    }

    /// Waits from now on for an element.
    pub(crate) fn await_mark(&self, mark: Mark) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).awaited.push((mark, now()));
    }

    /// How long those that came took, and how many have not come.
    pub(crate) fn delays(&self) -> (Vec<Duration>, usize) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut seen.delays), std::mem::take(&mut seen.awaited).len())
    }
}

impl Seen {
    fn take(&mut self, datagram: &[u8], at: Instant) {
        let Self { awaited, delays } = self;
        awaited.retain(|(mark, since)| {
            let is_there = datagram.windows(mark.len()).any(|window| window == mark.as_slice());
            if is_there {
                delays.push(at - *since);
            }
            !is_there
        });
    }
}
