//! Changes that anyone makes to the kernel's networking, as they happen.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as Raw, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};

use crate::{
    Error, Socket, addr::Address, fdb::Entry, link::Link, neigh::Neighbour, qdisc::Qdisc, route::Route,
    socket::parse_messages,
};

/// Octets of changes that wait to be read: a burst of a thousand pods fits, and what does not arrives as [`Event::Lost`].
const MOST_RECEIVED: usize = 4 << 20;

/// A group of changes to listen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Links that come, go or change state.
    Links,
    /// Addresses of both families.
    Addresses,
    /// Routes of both families.
    Routes,
    /// Neighbours of both families, and forwarding entries.
    Neighbours,
    /// Queueing disciplines.
    Qdiscs,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is there, or has changed.
    LinkChanged(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is there, or has changed.
    AddressChanged(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is there, or has changed.
    RouteChanged(Route),
    /// A route is gone.
    RouteGone(Route),
    /// A neighbour is there, or has changed.
    NeighbourChanged(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// A queueing discipline is there, or has changed.
    QdiscChanged(Qdisc),
    /// A queueing discipline is gone.
    QdiscGone(Qdisc),
    /// A forwarding entry is there, or has changed.
    ForwardingChanged(Entry),
    /// A forwarding entry is gone.
    ForwardingGone(Entry),
    /// Changes came faster than they were read and some are lost: list everything anew.
    Lost,
}

/// A subscription to changes in the network namespace in which it was opened.
pub struct Monitor {
    raw: Raw,
}

impl Monitor {
    /// Subscribes. Reads never block: wait for the descriptor to become readable.
    ///
    /// # Errors
    /// When the kernel gives no socket or refuses a group.
    pub fn open(groups: &[Group]) -> Result<Self, Error> {
        let mut raw = Raw::new(NETLINK_ROUTE).map_err(Error::Open)?;
        raw.bind_auto().map_err(Error::Open)?;
        raw.set_non_blocking(true).map_err(Error::Open)?;
        // Who may not have more than `net.core.rmem_max` has that.
        if setsockopt(&raw, sockopt::RcvBufForce, &MOST_RECEIVED).is_err() {
            setsockopt(&raw, sockopt::RcvBuf, &MOST_RECEIVED).map_err(|errno| Error::Open(errno.into()))?;
        }
        for group in groups {
            let numbers: &[u32] = match group {
                Group::Links => &[1],
                Group::Neighbours => &[3],
                Group::Qdiscs => &[4],
                Group::Addresses => &[5, 9],
                Group::Routes => &[7, 11],
            };
            for number in numbers {
                raw.add_membership(*number).map_err(Error::Open)?;
            }
        }
        Ok(Self { raw })
    }

    /// Leaves out what this socket asks for from now on, and no other: who makes many changes knows of them.
    ///
    /// # Errors
    /// When the kernel takes no filter.
    pub fn ignore(&self, socket: &Socket) -> Result<(), Error> {
        /// Where `struct nlmsghdr` has the port of who asked for the change.
        const PORT: u32 = 12;
        let [load, compare, answer] = [
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::BPF_RET | libc::BPF_K,
        ];
        // Codes have 16 bits whatever the C library declares.
        let step = |code: u32, jump, k| SockFilter::new(u16::try_from(code).unwrap_or_default(), jump, 0, k);
        let filter = [
            step(load, 0, PORT),
            // The filter reads in network order what the kernel wrote in its own.
            step(compare, 1, socket.port().to_be()),
            step(answer, 0, u32::MAX),
            step(answer, 0, 0),
        ];
        SockRef::from(&self.raw).attach_filter(&filter).map_err(Error::Open)
    }

    /// Reads what has happened, into `events`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing has; any other error is the socket's.
    pub fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let datagram = match self.raw.recv_from_full() {
            Ok((datagram, _)) => datagram,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                events.push(Event::Lost);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Ok(messages) = parse_messages(&datagram) else {
            // A message of a kernel newer than the parser: the reader lists everything anew.
            events.push(Event::Lost);
            return Ok(());
        };
        for message in messages {
            if let NetlinkPayload::InnerMessage(inner) = message.payload {
                events.extend(event(&inner));
            }
        }
        Ok(())
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.raw.as_raw_fd()
    }
}

pub(crate) fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(message) => Link::parse(message).map(Event::LinkChanged),
        M::DelLink(message) => Link::parse(message).map(Event::LinkGone),
        M::NewAddress(message) => Address::parse(message).map(Event::AddressChanged),
        M::DelAddress(message) => Address::parse(message).map(Event::AddressGone),
        M::NewRoute(message) => Route::parse(message).map(Event::RouteChanged),
        M::DelRoute(message) => Route::parse(message).map(Event::RouteGone),
        M::NewNeighbour(message) => Neighbour::parse(message)
            .map(Event::NeighbourChanged)
            .or_else(|| Entry::parse(message).map(Event::ForwardingChanged)),
        M::DelNeighbour(message) => Neighbour::parse(message)
            .map(Event::NeighbourGone)
            .or_else(|| Entry::parse(message).map(Event::ForwardingGone)),
        M::NewQueueDiscipline(message) => Qdisc::parse(message).map(Event::QdiscChanged),
        M::DelQueueDiscipline(message) => Qdisc::parse(message).map(Event::QdiscGone),
        _ => None,
    }
}
