//! Answers other nodes, and nobody else.
//!
//! There is a socket of each kind for each address, so that an answer comes from the address that was asked. Whoever is no node gets no
//! answer to a datagram, and a connection that is closed with nothing said.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use super::{
    message::{STREAM_OCTETS, WORD, answer, asked},
    sys,
};

/// Connections that are served at once; more are closed.
const AT_ONCE: usize = 32;
/// How long one may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any packet.
const LONGEST: usize = 65_536;

/// Who is answered.
pub(super) type Nodes = Arc<BTreeSet<IpAddr>>;

/// The listeners, which end with it.
pub(super) struct Listeners {
    port: u16,
    nodes: watch::Receiver<Nodes>,
    at: BTreeMap<IpAddr, JoinSet<()>>,
    limit: Arc<Semaphore>,
}

impl Listeners {
    pub(super) fn new(port: u16, nodes: watch::Receiver<Nodes>) -> Self {
        Self { port, nodes, at: BTreeMap::new(), limit: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Listens at these addresses of the node and at no other. Where that cannot be it is tried again next time.
    pub(super) fn set(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.at.retain(|address, tasks| {
            // One that has ended has lost its socket.
            addresses.contains(address) && tasks.try_join_next().is_none()
        });
        for address in addresses {
            if self.at.contains_key(address) {
                continue;
            }
            match self.listen(*address) {
                Ok(tasks) => drop(self.at.insert(*address, tasks)),
                Err(error) => debug!(%address, %error, "the ways to other nodes are not tested from here"),
            }
        }
    }

    fn listen(&self, address: IpAddr) -> io::Result<JoinSet<()>> {
        let at = SocketAddr::new(address, self.port);
        let datagrams = datagrams(at)?;
        let connections = std::net::TcpListener::bind(at)?;
        connections.set_nonblocking(true)?;
        let connections = TcpListener::from_std(connections)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_datagrams(datagrams, self.nodes.clone()));
        tasks.spawn(answer_connections(connections, self.nodes.clone(), Arc::clone(&self.limit)));
        Ok(tasks)
    }
}

/// A socket for the answers to datagrams, which have no checksum.
pub(super) fn datagrams(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(at)?;
    sys::without_checksum(&socket, at.is_ipv4())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

pub(super) async fn answer_datagrams(socket: UdpSocket, nodes: watch::Receiver<Nodes>) {
    let mut message = vec![0; LONGEST];
    loop {
        let Ok((octets, from)) = socket.recv_from(&mut message).await else { continue };
        let Some(number) = message.get(..octets).and_then(asked) else { continue };
        if nodes.borrow().contains(&from.ip().to_canonical()) {
            // What the kernel does not send now the prober asks for again.
            let _lost = socket.try_send_to(&answer(number), from);
        }
    }
}

async fn answer_connections(listener: TcpListener, nodes: watch::Receiver<Nodes>, limit: Arc<Semaphore>) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, from)) = accepted else { return };
                let is_node = nodes.borrow().contains(&from.ip().to_canonical());
                let place = Arc::clone(&limit).try_acquire_owned().ok().filter(|_| is_node);
                let Some(place) = place else { continue };
                served.spawn(async move {
                    let _place = place;
                    // A prober sees for itself that it got nothing.
                    let _cut_off = timeout(PATIENCE, serve(stream)).await;
                });
            }
            Some(_) = served.join_next() => {}
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut received = vec![0; STREAM_OCTETS];
    stream.read_exact(&mut received).await?;
    if received.starts_with(&WORD) {
        stream.write_all(&received).await?;
        stream.shutdown().await?;
    }
    Ok(())
}
