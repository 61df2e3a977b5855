//! A synchronous socket to the kernel's rtnetlink.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::{Error, Request};

/// Octets of requests put in one send, below the default `SO_SNDBUF`.
const BATCH_OCTETS: usize = 16 * 1024;
/// Requests put in one send: should all be refused, the answers fit the default `SO_RCVBUF` (212,992 octets,
/// of which the kernel charges about 768 for an answer).
const BATCH_REQUESTS: usize = 256;

/// A connection to the kernel, in the network namespace that the thread was in when it was opened: it stays
/// there, whatever the thread enters later.
pub struct Socket {
    raw: Raw,
    sequence: u32,
    port: u32,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the thread's present network namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        let mut raw = Raw::new(NETLINK_ROUTE).map_err(Error::Open)?;
        let port = raw.bind_auto().map_err(Error::Open)?.port_number();
        raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        // Acknowledgements without a copy of the request; since Linux 4.3.
        raw.set_cap_ack(true).map_err(Error::Open)?;
        // Dumps filtered by the kernel (table, protocol, interface); since Linux 5.0.
        raw.set_netlink_get_strict_chk(true).map_err(Error::Open)?;
        Ok(Self { raw, sequence: 0, port, sent: Vec::new(), received: Vec::with_capacity(64 * 1024) })
    }

    /// The number by which the kernel says whose request a change was.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// [`Error::Refused`] with the kernel's error number, or a failure to exchange messages.
    pub fn execute(&mut self, request: &Request) -> Result<(), Error> {
        let mut outcome = Ok(());
        self.exchange(std::slice::from_ref(request), |result| outcome = result)?;
        outcome
    }

    /// Sends all requests, many in one system call, and gives back the outcome of each. The kernel handles
    /// them in order; one that fails does not stop those after it.
    ///
    /// # Errors
    /// When messages cannot be exchanged at all; requests may have been carried out by then.
    pub fn execute_all(&mut self, requests: &[Request]) -> Result<Vec<Result<(), Error>>, Error> {
        let mut outcomes = Vec::with_capacity(requests.len());
        self.exchange(requests, |result| outcomes.push(result))?;
        Ok(outcomes)
    }

    /// Asks for all objects of a kind; `None` when the kernel saw a change while it listed them.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<RouteNetlinkMessage>, Error> {
        // A dump interrupted by a change (NLM_F_DUMP_INTR) can miss objects: ask again.
        const ATTEMPTS: usize = 20;
        for _ in 0..ATTEMPTS {
            if let Some(found) = self.dump_once(request)? {
                return Ok(found);
            }
        }
        Err(Error::Answer {
            request: request.to_string(),
            reason: format!("interrupted by changes {ATTEMPTS} times in a row"),
        })
    }

    /// Asks for one object.
    pub(crate) fn get(&mut self, request: &Request) -> Result<RouteNetlinkMessage, Error> {
        let sequence = self.next_sequence();
        self.sent.clear();
        request.encode(sequence, false, &mut self.sent);
        self.send(request)?;
        let mut found = None;
        while found.is_none() {
            self.receive(request)?;
            for message in parse_all(&self.received, request)? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found = Some(inner),
                    NetlinkPayload::Error(error) => {
                        let errno = error
                            .code
                            .map_or(Errno::UnknownErrno, |code| Errno::from_raw(code.get().saturating_neg()));
                        return Err(Error::Refused { request: request.to_string(), errno });
                    }
                    _ => {}
                }
            }
        }
        found.ok_or_else(|| Error::Answer { request: request.to_string(), reason: "no object in it".into() })
    }

    fn dump_once(&mut self, request: &Request) -> Result<Option<Vec<RouteNetlinkMessage>>, Error> {
        const NLM_F_DUMP_INTR: u16 = netlink_packet_core::NLM_F_DUMP_INTR;
        let sequence = self.next_sequence();
        self.sent.clear();
        let request = Request::new(request.message.clone(), request.flags | NLM_F_DUMP);
        request.encode(sequence, false, &mut self.sent);
        self.send(&request)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive(&request)?;
            for message in parse_all(&self.received, &request)? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(found)),
                    NetlinkPayload::Error(error) => {
                        let errno = error
                            .code
                            .map_or(Errno::UnknownErrno, |code| Errno::from_raw(code.get().saturating_neg()));
                        return Err(Error::Refused { request: request.to_string(), errno });
                    }
                    _ => {}
                }
            }
        }
    }

    /// Only the last request of a batch asks for an acknowledgement: the kernel answers a refused one in any
    /// case, so those that it passes over in silence have succeeded.
    fn exchange(
        &mut self,
        requests: &[Request],
        mut outcome: impl FnMut(Result<(), Error>),
    ) -> Result<(), Error> {
        let mut first = 0;
        while first < requests.len() {
            let first_sequence = self.sequence.wrapping_add(1);
            self.sent.clear();
            let mut end = first;
            while end < requests.len() && end - first < BATCH_REQUESTS && self.sent.len() < BATCH_OCTETS {
                let sequence = self.next_sequence();
                let last = end + 1 == requests.len() || end + 1 - first == BATCH_REQUESTS;
                requests[end].encode(sequence, last, &mut self.sent);
                // The octet limit is only known once the request is encoded: then it is the last after all.
                if !last && self.sent.len() >= BATCH_OCTETS {
                    let length = requests[end].octets().next_multiple_of(4);
                    self.sent.truncate(self.sent.len() - length);
                    requests[end].encode(sequence, true, &mut self.sent);
                }
                end += 1;
            }
            self.send(&requests[first])?;
            let mut answered = first;
            while answered < end {
                self.receive(&requests[answered])?;
                for message in parse_all(&self.received, &requests[answered])? {
                    let index = message.header.sequence_number.wrapping_sub(first_sequence) as usize + first;
                    let NetlinkPayload::Error(error) = message.payload else { continue };
                    // An answer to an earlier exchange that was given up.
                    if index < answered || index >= end {
                        continue;
                    }
                    (answered..index).for_each(|_| outcome(Ok(())));
                    answered = index + 1;
                    outcome(error.code.map_or(Ok(()), |code| {
                        Err(Error::Refused {
                            request: requests[index].to_string(),
                            errno: Errno::from_raw(code.get().saturating_neg()),
                        })
                    }));
                }
            }
            first = end;
        }
        Ok(())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, request: &Request) -> Result<(), Error> {
        retry(|| self.raw.send(&self.sent, 0))
            .map(drop)
            .map_err(|source| Error::Exchange { request: request.to_string(), source })
    }

    fn receive(&mut self, request: &Request) -> Result<(), Error> {
        self.received.clear();
        // The kernel sizes dump messages by the buffer of earlier reads, 32 KiB at most.
        retry(|| self.raw.recv(&mut self.received, 0))
            .map(drop)
            .map_err(|source| Error::Exchange { request: request.to_string(), source })
    }
}

pub(crate) fn parse_all(
    datagram: &[u8],
    request: &Request,
) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, Error> {
    parse_messages(datagram).map_err(|reason| Error::Answer { request: request.to_string(), reason })
}

/// The messages of one datagram.
pub(crate) fn parse_messages(datagram: &[u8]) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, String> {
    const HEADER_OCTETS: usize = 16;
    let mut messages = Vec::new();
    let mut rest = datagram;
    while rest.len() >= HEADER_OCTETS {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| error.to_string())?;
        let length = (message.header.length as usize).next_multiple_of(4);
        if length < HEADER_OCTETS {
            return Err(format!("a message of {length} octets"));
        }
        messages.push(message);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(messages)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
