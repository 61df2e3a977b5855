//! A station: a network namespace that serves ports and probes others, as pods, nodes and outside hosts do.
//!
//! Sockets are made by whichever thread is running, inside the namespace for that moment, and driven by tokio from
//! then on: the number of threads does not grow with the number of stations.

mod kept;
mod port;
pub(crate) mod sctp;
mod serve;
mod stream;
mod tcp;
mod udp;

pub use kept::Kept;
pub use port::{Port, PortError, Protocol};
pub(crate) use serve::Servers;
pub use stream::{Counted, Stream};

use anyhow::Context;
use margay_netlink::addr;
use margay_netlink::netns::Namespace;
use sctp::SctpSocket;
use socket2::{Domain, Socket, Type};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Source ports are taken in turn, so that no flow that is still being tracked lends its fate to a new one.
const FIRST_SOURCE_PORT: u16 = 10_000;
const SOURCE_PORTS: u16 = 50_000;

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// An answer came back.
    Open {
        /// Where the probe came from, as the server saw it.
        client: IpAddr,
    },
    /// No answer came.
    Closed {
        /// Why, in a few words.
        reason: String,
    },
}

impl Reach {
    pub(crate) fn closed(reason: impl fmt::Display) -> Self {
        Self::Closed { reason: reason.to_string() }
    }

    /// Whether an answer came.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

/// A network namespace that takes part.
#[derive(Debug)]
pub(crate) struct Station {
    namespace: Arc<Namespace>,
    source_port: AtomicU16,
    sctp: SctpSocket,
}

impl Station {
    /// A station in `namespace`.
    pub(crate) fn open(namespace: Arc<Namespace>) -> anyhow::Result<Arc<Self>> {
        let sctp = {
            let _inside = namespace.enter()?;
            SctpSocket::open().context("open raw SCTP sockets")?
        };
        // Not always the same port first: a namespace's flows may be tracked in others, which live longer.
        let [low, high, ..] = *uuid::Uuid::new_v4().as_bytes();
        let source_port = AtomicU16::new(u16::from_le_bytes([low, high]) % SOURCE_PORTS);
        Ok(Arc::new(Self { namespace, source_port, sctp }))
    }

    /// Its global addresses, as the kernel has them now.
    pub(crate) fn addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        let _inside = self.namespace.enter()?;
        let all = addr::list(&mut margay_netlink::Socket::open()?)?;
        let own = all.iter().filter(|found| found.global).map(|found| found.network.ip());
        Ok(own.filter(|address| !address.is_loopback()).collect())
    }

    /// Serves `ports` until the result is dropped. All sockets are open when it comes back.
    pub(crate) fn serve(self: &Arc<Self>, ports: &[Port]) -> anyhow::Result<Servers> {
        Servers::start(self, ports)
    }

    /// Probes a port, for at most `limit`.
    pub(crate) async fn probe(&self, to: SocketAddr, protocol: Protocol, limit: Duration) -> Reach {
        let probe = async {
            match protocol {
                Protocol::Tcp => tcp::probe(self, to).await,
                Protocol::Udp => udp::probe(self, to).await,
                Protocol::Sctp => self.sctp.probe(to, self.next_source_port()).await,
            }
        };
        match tokio::time::timeout(limit, probe).await {
            Ok(reach) => reach,
            Err(_elapsed) => Reach::closed("no answer"),
        }
    }

    /// Opens a connection that is kept; `None` when it does not open.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        to: SocketAddr,
        protocol: Protocol,
        limit: Duration,
    ) -> Option<Kept> {
        tokio::time::timeout(limit, Kept::open(self, to, protocol)).await.ok().flatten()
    }

    fn next_source_port(&self) -> u16 {
        FIRST_SOURCE_PORT + self.source_port.fetch_add(1, Ordering::Relaxed) % SOURCE_PORTS
    }

    /// A non-blocking socket in the namespace, bound to a source port that has not been used lately.
    fn client_socket(&self, to: SocketAddr, kind: Type) -> std::io::Result<Socket> {
        let any = match to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = {
            let _inside = self.namespace.enter().map_err(std::io::Error::other)?;
            Socket::new(Domain::for_address(to), kind.nonblocking().cloexec(), None)?
        };
        for _attempt in 0..100 {
            match socket.bind(&SocketAddr::new(any, self.next_source_port()).into()) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                bound => return bound.map(|()| socket),
            }
        }
        Err(std::io::ErrorKind::AddrInUse.into())
    }
}
