//! Whether the kernel has policies of xfrm (`IPsec`), and when those change.
//!
//! The messages are `xfrm_user`'s (`linux/xfrm.h`), which `netlink-packet-route` does not know. Nothing is read of a policy: it is enough
//! that there is one.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_XFRM};
use nix::errno::Errno;

use crate::{Error, conntrack::attributes};

/// `XFRM_MSG_*`.
const GET_INFO: u16 = 0x25;
const GET_DEFAULT: u16 = 0x28;
/// `XFRMA_SPD_INFO`: `struct xfrmu_spdinfo`, of which the second number is that of policies for what is sent.
const INFO: u16 = 1;
/// `XFRM_USERPOLICY_BLOCK`: what no policy is for is not sent.
const BLOCK: u8 = 1;
/// `XFRMNLGRP_POLICY`.
const POLICIES: u32 = 4;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;

/// Whether what this node sends may be encrypted, or kept back, by policies of xfrm: by one of direction `out`, or as that is what is done
/// with what no policy is for. A kernel without xfrm has none. In the network namespace that the thread is in.
///
/// # Errors
/// When the kernel does not tell; `EPERM` without `CAP_NET_ADMIN`.
pub fn is_in_force() -> Result<bool, Error> {
    let Some(raw) = open()? else { return Ok(false) };
    raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
    let counted = ask(&raw, GET_INFO)?
        .ok_or_else(|| Error::Refused { request: WHAT.to_owned(), errno: Errno::EINVAL })?;
    let policies = policies(&counted).ok_or_else(|| Error::Answer {
        request: WHAT.to_owned(),
        reason: format!("no number of policies in {counted:x?}"),
    })?;
    if policies != 0 {
        return Ok(true);
    }
    // `struct xfrm_userpolicy_default`, in and forward first. Kernels before 5.15 do not know the question, and send what no policy is for.
    let default = ask(&raw, GET_DEFAULT)?;
    Ok(default.is_some_and(|body| body.get(2) == Some(&BLOCK)))
}

/// A subscription to changes of policies in the network namespace in which it was opened.
pub struct Monitor {
    raw: Raw,
}

impl Monitor {
    /// Subscribes; `None` where the kernel has no xfrm. Reads never block: wait for the descriptor to become readable.
    ///
    /// # Errors
    /// When the kernel gives no socket, or refuses.
    pub fn open() -> Result<Option<Self>, Error> {
        let Some(raw) = open()? else { return Ok(None) };
        raw.set_non_blocking(true).map_err(Error::Open)?;
        raw.add_membership(POLICIES).map_err(Error::Open)?;
        Ok(Some(Self { raw }))
    }

    /// Reads what has happened, of which nothing is told but that it has.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing has; any other error is the socket's.
    pub fn read(&mut self) -> io::Result<()> {
        match self.raw.recv_from_full() {
            Ok(_) => Ok(()),
            // More than was read in time: something has.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.raw.as_raw_fd()
    }
}

const WHAT: &str = "count the policies of xfrm";

/// `None` where the kernel has no xfrm.
fn open() -> Result<Option<Raw>, Error> {
    let mut raw = match Raw::new(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
        outcome => outcome.map_err(Error::Open)?,
    };
    raw.bind_auto().map_err(Error::Open)?;
    Ok(Some(raw))
}

/// What the kernel answers to a question, without the header; `None` when it does not know the question.
fn ask(raw: &Raw, kind: u16) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Exchange { request: WHAT.to_owned(), source };
    // Both questions have a word of flags, of which there are none.
    let length: u32 = 20;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 12]);
    raw.send(&request, 0).map_err(failed)?;
    let mut received = Vec::with_capacity(4096);
    while received.is_empty() {
        match raw.recv(&mut received, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => drop(outcome.map_err(failed)?),
        }
    }
    answer(&received)
}

/// What an answer says.
fn answer(received: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let short = || Error::Answer { request: WHAT.to_owned(), reason: format!("{received:x?}") };
    let [_, _, _, _, a, b, ..] = *received.first_chunk::<HEADER>().ok_or_else(short)?;
    let body = received.get(HEADER..).ok_or_else(short)?;
    if u16::from_ne_bytes([a, b]) != NLMSG_ERROR {
        return Ok(Some(body.to_vec()));
    }
    let code = body.first_chunk().map(|octets| i32::from_ne_bytes(*octets)).ok_or_else(short)?;
    match Errno::from_raw(code.saturating_neg()) {
        Errno::EINVAL => Ok(None),
        errno => Err(Error::Refused { request: WHAT.to_owned(), errno }),
    }
}

/// How many policies there are for what is sent.
fn policies(body: &[u8]) -> Option<u32> {
    let (_flags, rest) = body.split_first_chunk::<4>()?;
    let (_, value, _) = attributes(rest).into_iter().find(|(kind, ..)| *kind == INFO)?;
    value.get(4..)?.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

/// The number of policies that any octets tell of, as an answer.
#[cfg(fuzzing)]
pub fn fuzzed(octets: &[u8]) -> Option<u32> {
    let body = answer(octets).ok()??;
    assert!(body.len() <= octets.len(), "more than came");
    policies(&body)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::{Monitor, is_in_force};

    fn ip(arguments: &str) {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
    }

    #[test]
    fn a_policy_for_what_is_sent_is_in_force_and_its_coming_and_going_are_heard() {
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
            let mut monitor = Monitor::open().unwrap().expect("this kernel has xfrm");
            assert!(monitor.read().is_err());
            assert!(!is_in_force().unwrap());
            let of = |dir: &str| format!("xfrm policy add src 192.0.2.1 dst 192.0.2.2 dir {dir} priority 1");
            ip(&of("in"));
            assert!(!is_in_force().unwrap(), "what is received is another matter");
            monitor.read().unwrap();
            ip(&of("out"));
            assert!(is_in_force().unwrap());
            monitor.read().unwrap();
            ip("xfrm policy flush");
            assert!(!is_in_force().unwrap());
            monitor.read().unwrap();
            ip("xfrm policy setdefault out block");
            assert!(is_in_force().unwrap(), "nothing is sent without a policy");
            monitor.read().unwrap();
        })
        .join()
        .unwrap();
    }
}
