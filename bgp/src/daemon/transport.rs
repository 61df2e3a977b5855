//! One TCP connection with its buffers.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Ready;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::interfaces::LocalView;
use super::sender::{Sender, Sent};
use super::sys;
use crate::config::CheckedNeighbor;
use crate::prefix::Prefix;
use crate::wire::Notification;

/// How long a dial may take.
const DIAL_TIME: Duration = Duration::from_secs(10);
/// How long a connection that is being closed may take to deliver its last message.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Octets read at a time.
const READ_OCTETS: usize = 128 * 1024;
/// Internetwork control (RFC 4271 does not say; everyone marks BGP so).
const TRAFFIC_CLASS: u32 = 0xc0;

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// Nothing is there.
    Nothing,
    /// This many octets, with those that were left from before.
    Read { octets: usize, more: bool },
}

/// A connection; nothing in it waits.
#[derive(Debug)]
pub(super) struct Transport {
    /// The rib task has it while the session is established, but not for longer than the session.
    pub(super) sender: Arc<Sender>,
    /// What was read and is not yet a whole message.
    pub(super) received: Vec<u8>,
    pub(super) local: LocalView,
    /// The OPENs of the session, whole, for collectors.
    pub(super) opens: Opens,
}

/// The OPENs of a session, whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Opens {
    pub(super) sent: Vec<u8>,
    pub(super) received: Vec<u8>,
}

impl Transport {
    pub(super) fn new(stream: TcpStream, sent: Sent, local: LocalView) -> Self {
        Self {
            sender: Arc::new(Sender::new(stream, sent)),
            received: Vec::new(),
            local,
            opens: Opens::default(),
        }
    }

    /// Resolves when the socket can be read, if that is wanted, or written, if there is something to write.
    pub(super) async fn ready(&self, reading: bool) -> io::Result<Ready> {
        self.sender.ready(reading).await
    }

    /// Our end and the other one; `None` of a connection that is gone already.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let stream = &self.sender.stream;
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
    }

    /// Reads once what is there, behind what was there before, into the buffer of this thread.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<Amount> {
        let filled = self.received.len();
        if buffer.len() < filled + READ_OCTETS {
            buffer.resize(filled + READ_OCTETS, 0);
        }
        match self.sender.stream.try_read(&mut buffer[filled..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(octets) => {
                buffer[..filled].copy_from_slice(&self.received);
                self.received = Vec::new();
                let more = filled + octets == buffer.len();
                Ok(Amount::Read { octets: filled + octets, more })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Amount::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Delivers what is queued, then closes so that the peer can read it: closing with unread data in our buffer
    /// would send a reset, which discards the NOTIFICATION at the peer.
    pub(super) fn close(self) -> impl Future<Output = ()> {
        // At once, whenever the rest gets its turn.
        self.sender.end();
        let deliver = async move {
            let Self { sender, .. } = &self;
            loop {
                sender.write()?;
                if sender.is_flushed() {
                    break;
                }
                sender.stream.writable().await?;
            }
            SockRef::from(&sender.stream).shutdown(Shutdown::Write)?;
            let mut rest = [0; 1024];
            loop {
                sender.stream.readable().await?;
                match sender.stream.try_read(&mut rest) {
                    Ok(0) => return io::Result::Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        async {
            // The connection goes in any case; a peer that does not read is the peer's loss.
            drop(timeout(CLOSE_TIME, deliver).await);
        }
    }
}

/// Tells a stranger that it is not wanted.
pub(super) async fn refuse(stream: TcpStream) {
    let mut message = Vec::new();
    Notification::connection_rejected().encode(&mut message);
    let transport = Transport::new(stream, Sent::default(), LocalView::default());
    transport.sender.queue(message);
    transport.close().await;
}

/// Opens a connection to a neighbour.
pub(super) async fn dial(neighbor: CheckedNeighbor) -> io::Result<TcpStream> {
    let socket = match neighbor.address {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(password) = &neighbor.password {
        sys::set_md5(&socket, Prefix::host(neighbor.address), Some(password))?;
    }
    if let Some(local) = neighbor.local_address {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    set_options(&SockRef::from(&socket), &neighbor)?;
    if let Some(interface) = &neighbor.interface {
        // Link-local addresses mean something on one link only.
        SockRef::from(&socket).bind_device(Some(interface.as_bytes()))?;
    }
    let address = SocketAddr::new(neighbor.address, neighbor.port);
    match timeout(DIAL_TIME, socket.connect(address)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Sets the options of a connection that the neighbour opened.
pub(super) fn adopt(stream: &TcpStream, neighbor: &CheckedNeighbor) -> io::Result<()> {
    set_options(&SockRef::from(stream), neighbor)
}

fn set_options(socket: &SockRef<'_>, neighbor: &CheckedNeighbor) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(ttl) = neighbor.least_ttl {
        sys::set_least_ttl(&**socket, neighbor.address, ttl)?;
    }
    match neighbor.address {
        IpAddr::V4(_) => {
            socket.set_ttl_v4(neighbor.ttl.into())?;
            socket.set_tos_v4(TRAFFIC_CLASS)
        }
        IpAddr::V6(_) => {
            socket.set_unicast_hops_v6(neighbor.ttl.into())?;
            socket.set_tclass_v6(TRAFFIC_CLASS)
        }
    }
}
