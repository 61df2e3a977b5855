//! SCTP by hand, on raw sockets, since few kernels have its sockets.
//!
//! Just enough of RFC 9260 for one association's set-up (INIT, INIT ACK, COOKIE ECHO, COOKIE ACK) with a heartbeat
//! to see whether it is still alive. One pair of sockets serves all ports and all probes of a namespace. The server
//! keeps no state: its verification tag is computed from the addresses and ports, and its cookie says who the
//! client is.

mod checksum;
mod packet;

use super::Reach;
use packet::{Chunk, Packet};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The protocol's number (IANA).
const SCTP: i32 = 132;
/// The first retransmission.
const RESEND: Duration = Duration::from_millis(400);

#[derive(Debug)]
pub(super) struct SctpSocket {
    shared: Arc<Shared>,
    _receivers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    // Raw sockets in the clothes of UDP ones: the same system calls, and the port of an address plays no part.
    ipv4: UdpSocket,
    ipv6: Option<UdpSocket>,
    served: Mutex<BTreeSet<u16>>,
    /// Who waits for packets with this verification tag.
    waiting: Mutex<BTreeMap<u32, mpsc::Sender<Chunk>>>,
}

/// A packet's way.
#[derive(Debug, Clone, Copy)]
struct Flow {
    to: SocketAddr,
    source_port: u16,
}

impl SctpSocket {
    /// Opens the sockets in the thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let raw = |domain| -> io::Result<UdpSocket> {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new(domain, kind, Some(Protocol::from(SCTP)))?;
            socket.set_recv_buffer_size(1 << 20)?;
            UdpSocket::from_std(socket.into())
        };
        let shared = Arc::new(Shared {
            ipv4: raw(Domain::IPV4)?,
            ipv6: raw(Domain::IPV6).ok(),
            served: Mutex::default(),
            waiting: Mutex::default(),
        });
        let mut receivers = JoinSet::new();
        receivers.spawn(receive(Arc::clone(&shared), Ipv4Addr::UNSPECIFIED.into()));
        if shared.ipv6.is_some() {
            receivers.spawn(receive(Arc::clone(&shared), std::net::Ipv6Addr::UNSPECIFIED.into()));
        }
        Ok(Self { shared, _receivers: receivers })
    }

    /// Answers on `port` from now on.
    pub(super) fn listen(&self, port: u16) -> io::Result<()> {
        if self.shared.served().insert(port) { Ok(()) } else { Err(io::ErrorKind::AddrInUse.into()) }
    }

    /// No longer answers on `port`.
    pub(super) fn close(&self, port: u16) {
        self.shared.served().remove(&port);
    }

    /// Sends INIT until something comes back.
    pub(super) async fn probe(&self, to: SocketAddr, source_port: u16) -> Reach {
        let flow = Flow { to, source_port };
        let mut answers = Answers::new(&self.shared);
        let init = Chunk::Init { tag: answers.tag };
        match answers.ask(flow, 0, &init).await {
            Ok(Chunk::InitAck { cookie, .. }) => client_of(&cookie)
                .map_or_else(|| Reach::closed("INIT ACK of something else"), |client| Reach::Open { client }),
            Ok(Chunk::Abort) => Reach::closed("ABORT"),
            Ok(other) => Reach::closed(format!("an answer that is none: {other:?}")),
            Err(error) => Reach::closed(error),
        }
    }

    /// Sets up an association; `None` when the other end refuses.
    pub(super) async fn associate(&self, to: SocketAddr, source_port: u16) -> Option<Association> {
        let flow = Flow { to, source_port };
        let mut answers = Answers::new(&self.shared);
        let init = Chunk::Init { tag: answers.tag };
        let Ok(Chunk::InitAck { tag, cookie }) = answers.ask(flow, 0, &init).await else { return None };
        match answers.ask(flow, tag, &Chunk::CookieEcho { cookie }).await {
            Ok(Chunk::CookieAck) => Some(Association { answers, flow, peer_tag: tag, beats: 0 }),
            _ => None,
        }
    }
}

/// An association that has been set up.
#[derive(Debug)]
pub(super) struct Association {
    answers: Answers,
    flow: Flow,
    peer_tag: u32,
    beats: u32,
}

impl Association {
    /// Sends heartbeats until one comes back.
    pub(super) async fn beat(&mut self) -> io::Result<()> {
        self.beats += 1;
        let info = [self.answers.tag.to_be_bytes(), self.beats.to_be_bytes()].concat();
        loop {
            let heartbeat = Chunk::Heartbeat { info: info.clone() };
            match self.answers.ask(self.flow, self.peer_tag, &heartbeat).await? {
                Chunk::HeartbeatAck { info: echoed } if echoed == info => return Ok(()),
                Chunk::Abort => return Err(io::ErrorKind::ConnectionReset.into()),
                _ => {}
            }
        }
    }
}

/// The packets that come back with a tag of our own.
#[derive(Debug)]
struct Answers {
    shared: Arc<Shared>,
    tag: u32,
    chunks: mpsc::Receiver<Chunk>,
}

impl Answers {
    fn new(shared: &Arc<Shared>) -> Self {
        let (tell, chunks) = mpsc::channel(4);
        let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
        // A tag is never zero (RFC 9260 section 3.3.2).
        let tag = u32::from_be_bytes([a, b, c, d]) | 1;
        shared.waiting().insert(tag, tell);
        Self { shared: Arc::clone(shared), tag, chunks }
    }

    async fn ask(&mut self, flow: Flow, verification_tag: u32, chunk: &Chunk) -> io::Result<Chunk> {
        let packet = Packet {
            source: flow.source_port,
            destination: flow.to.port(),
            verification_tag,
            chunk: chunk.clone(),
        };
        let mut resend = tokio::time::interval(RESEND);
        loop {
            tokio::select! {
                _ = resend.tick() => self.shared.send(flow.to.ip(), &packet).await?,
                answer = self.chunks.recv() => return answer.ok_or_else(|| io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.tag);
    }
}

impl Shared {
    fn served(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u32, mpsc::Sender<Chunk>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self, family_of: IpAddr) -> io::Result<&UdpSocket> {
        if family_of.is_ipv4() {
            return Ok(&self.ipv4);
        }
        self.ipv6.as_ref().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    async fn send(&self, to: IpAddr, packet: &Packet) -> io::Result<()> {
        self.socket(to)?.send_to(&packet.encode(), SocketAddr::new(to, 0)).await.map(drop)
    }

    /// What a server says to a packet.
    fn answer(&self, from: IpAddr, packet: &Packet) -> Option<Packet> {
        let served = self.served().contains(&packet.destination);
        let own_tag = server_tag(from, packet);
        let (verification_tag, chunk) = match &packet.chunk {
            Chunk::Init { tag } if served => {
                let cookie = cookie(*tag, from);
                (*tag, Chunk::InitAck { tag: own_tag, cookie })
            }
            // RFC 9260 section 8.4, rule 3.
            Chunk::Init { tag } => (*tag, Chunk::Abort),
            _ if packet.verification_tag != own_tag || !served => return None,
            Chunk::CookieEcho { cookie } => (tag_of(cookie)?, Chunk::CookieAck),
            // A server without state knows its client's tag only from what the client repeats.
            Chunk::Heartbeat { info } => (tag_of(info)?, Chunk::HeartbeatAck { info: info.clone() }),
            _ => return None,
        };
        Some(Packet { source: packet.destination, destination: packet.source, verification_tag, chunk })
    }
}

async fn receive(shared: Arc<Shared>, family: IpAddr) {
    let Ok(socket) = shared.socket(family) else { return };
    let mut datagram = vec![0; 2048];
    loop {
        let (octets, from) = match socket.recv_from(&mut datagram).await {
            Ok((octets, from)) => (octets, from.ip()),
            Err(error) => {
                tracing::trace!(%error, "receive SCTP");
                continue;
            }
        };
        let datagram = datagram.get(..octets).unwrap_or_default();
        // IPv4 raw sockets give the IP header too.
        let payload = if family.is_ipv4() { without_ipv4_header(datagram) } else { Some(datagram) };
        let Some(packet) = payload.and_then(Packet::decode) else { continue };
        let waiting = shared.waiting().get(&packet.verification_tag).cloned();
        match waiting {
            Some(waiting) if packet.chunk.is_answer() => drop(waiting.try_send(packet.chunk)),
            _ => {
                if let Some(answer) = shared.answer(from, &packet) {
                    // What cannot be delivered is lost, as packets are.
                    drop(shared.send(from, &answer).await);
                }
            }
        }
    }
}

fn without_ipv4_header(datagram: &[u8]) -> Option<&[u8]> {
    let words = usize::from(datagram.first()? & 0x0f);
    datagram.get(words * 4..)
}

fn server_tag(client: IpAddr, packet: &Packet) -> u32 {
    let ports = [packet.source.to_be_bytes(), packet.destination.to_be_bytes()].concat();
    checksum::crc32c(&[client.to_string().as_bytes(), &ports].concat()) | 1
}

fn cookie(client_tag: u32, client: IpAddr) -> Vec<u8> {
    [&client_tag.to_be_bytes()[..], client.to_string().as_bytes()].concat()
}

fn tag_of(cookie: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*cookie.first_chunk()?))
}

fn client_of(cookie: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(cookie.get(4..)?).ok()?.trim_end_matches('\0').parse().ok()
}
