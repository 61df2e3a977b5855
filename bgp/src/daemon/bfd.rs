//! The thread that speaks BFD with neighbours.
//!
//! ```text
//!  supervisor ──who is watched──▶ BFD thread ──packets──▶ a socket for each session (source port of its own)
//!  session ◀──losses (watch)──────┘ ▲
//!                                   └── packets ── a task for each receiving socket: IPv4, IPv6, one hop, several
//! ```
//!
//! It has a thread and a runtime of its own: nothing that the tables or sessions work on can delay its packets by so
//! much that a neighbour misses them. The thread is there from the first neighbour with BFD on.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::interfaces::is_on_link;
use super::timer::until;
use crate::bfd::{Diagnostic, Input, Output, Packet, Session, SessionConfig, State};
use crate::config::{CheckedBfd, Hops};
use crate::family::Family;

/// A neighbour to watch.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) address: IpAddr,
    pub(super) local_address: Option<IpAddr>,
    /// Of a link-local neighbour.
    pub(super) interface: Option<String>,
    pub(super) bfd: CheckedBfd,
    /// Where the state is shown.
    pub(super) status: watch::Sender<BfdStatus>,
}

/// What the session of a neighbour sees of BFD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BfdStatus {
    /// `None` while the neighbour is not watched.
    pub(super) view: Option<BfdView>,
    /// How often the path was found broken.
    pub(super) losses: u64,
    /// Whether it was surely the path when it was found broken last, and not the neighbour's control plane.
    pub(super) independent: bool,
}

/// A BFD session to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BfdView {
    pub(super) state: State,
    pub(super) since: Instant,
    pub(super) diagnostic: Diagnostic,
    pub(super) transmit_interval: Option<Duration>,
    pub(super) detection_time: Option<Duration>,
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct BfdHandle {
    watched: mpsc::Sender<Vec<Watched>>,
    ended: oneshot::Receiver<()>,
}

impl BfdHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptors.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (watched, inputs) = mpsc::channel(1);
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("bfd".to_owned()).spawn(move || {
            runtime.block_on(run(inputs));
            // Dropping it says the same, be it after a panic.
            drop(end);
        })?;
        Ok(Self { watched, ended })
    }

    /// Says who is to be watched, all of them each time.
    pub(super) async fn watch(&self, watched: Vec<Watched>) {
        // The thread ends only with us.
        drop(self.watched.send(watched).await);
    }

    /// Tells all neighbours that the silence that follows is meant.
    pub(super) async fn end(self) {
        drop(self.watched);
        // The answer is that there is none.
        drop(self.ended.await);
    }
}

/// RFC 5881 section 4, RFC 5883 section 5.
const fn port(hops: Hops) -> u16 {
    match hops {
        Hops::One => 3784,
        Hops::Several => 4784,
    }
}

/// Source ports (RFC 5881 section 4).
const FIRST_SOURCE_PORT: u16 = 49152;
/// Ports that are tried for one that is free.
const PORTS_TRIED: u16 = 256;
/// Time to live of all packets, and of those that count over one hop (RFC 5881 section 5).
const TTL: u8 = 255;
/// As for BGP: internetwork control.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Time from a receiving socket that could not be had to the next attempt.
const RETRY: Duration = Duration::from_secs(5);
/// Packets that were received and wait for the machines.
const ARRIVALS: usize = 256;

/// A packet with where it came from.
#[derive(Debug)]
struct Arrival {
    from: SocketAddr,
    hops: Hops,
    packet: Packet,
}

struct Entry {
    watched: Watched,
    machine: Session,
    since: Instant,
    socket: Option<Socket>,
    /// In the queue under this time.
    due: Option<Duration>,
    /// A session that nobody wants any more says so until then.
    ends: Option<Duration>,
}

struct BfdTask {
    epoch: Instant,
    random: RandomState,
    drawn: u64,
    entries: BTreeMap<IpAddr, Entry>,
    discriminators: BTreeMap<NonZeroU32, IpAddr>,
    queue: BTreeSet<(Duration, IpAddr)>,
    receivers: BTreeSet<(Family, Hops)>,
    receiving: JoinSet<()>,
    arrivals: mpsc::Sender<Arrival>,
    retry: Option<Instant>,
}

async fn run(mut inputs: mpsc::Receiver<Vec<Watched>>) {
    let (arrivals, mut arrived) = mpsc::channel(ARRIVALS);
    let mut task = BfdTask {
        epoch: Instant::now(),
        random: RandomState::new(),
        drawn: 0,
        entries: BTreeMap::new(),
        discriminators: BTreeMap::new(),
        queue: BTreeSet::new(),
        receivers: BTreeSet::new(),
        receiving: JoinSet::new(),
        arrivals,
        retry: None,
    };
    loop {
        let due = task.queue.first().map(|(at, _)| task.epoch + *at);
        tokio::select! {
            watched = inputs.recv() => match watched {
                Some(watched) => task.watch(watched),
                None => return task.end(),
            },
            // The task keeps a sender.
            Some(arrival) = arrived.recv() => task.arrived(&arrival),
            () = until(due) => task.tick(),
            () = until(task.retry) => task.open_receivers(),
        }
    }
}

impl BfdTask {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Begins and ends sessions, so that they are those that are wanted.
    fn watch(&mut self, watched: Vec<Watched>) {
        let mut unwanted: BTreeSet<IpAddr> = self.entries.keys().copied().collect();
        for watched in watched {
            let address = watched.address;
            unwanted.remove(&address);
            match self.entries.get_mut(&address) {
                Some(entry) if entry.ends.is_none() && is_same_session(&entry.watched, &watched) => {
                    let timers = watched.bfd.timers;
                    entry.watched = watched;
                    self.step(address, Input::Timers(timers));
                    // Whoever shows it may be another one.
                    self.show(address);
                }
                _ => self.begin(watched),
            }
        }
        for address in unwanted {
            self.disable(address);
        }
        self.open_receivers();
    }

    fn begin(&mut self, watched: Watched) {
        let address = watched.address;
        self.forget(address);
        let discriminator = self.discriminator();
        self.discriminators.insert(discriminator, address);
        let machine =
            Session::new(SessionConfig { discriminator, timers: watched.bfd.timers, seed: self.draw() });
        let entry = Entry { watched, machine, since: Instant::now(), socket: None, due: None, ends: None };
        self.entries.insert(address, entry);
        self.step(address, Input::Tick);
        self.show(address);
    }

    /// RFC 5880 section 6.8.16: the neighbour is told for the time after which it would think that we are lost.
    fn disable(&mut self, address: IpAddr) {
        let now = self.now();
        let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.ends.is_none()) else { return };
        entry.watched.status.send_modify(|status| status.view = None);
        entry.ends = Some(now + entry.machine.detection_time().unwrap_or_default());
        self.step(address, Input::Disable);
    }

    fn forget(&mut self, address: IpAddr) {
        if let Some(entry) = self.entries.remove(&address) {
            if let Some(due) = entry.due {
                self.queue.remove(&(due, address));
            }
            self.discriminators.retain(|_, owner| *owner != address);
        }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.random.hash_one(self.drawn)
    }

    fn discriminator(&mut self) -> NonZeroU32 {
        loop {
            let drawn = u32::try_from(self.draw() >> 32).ok().and_then(NonZeroU32::new);
            if let Some(drawn) = drawn.filter(|drawn| !self.discriminators.contains_key(drawn)) {
                return drawn;
            }
        }
    }

    fn arrived(&mut self, Arrival { from, hops, packet }: &Arrival) {
        // RFC 5880 section 6.8.6: by our number, if the neighbour knows it.
        let address = match packet.your_discriminator {
            Some(number) => self.discriminators.get(&number).copied(),
            None => Some(from.ip()),
        };
        let entry = address.and_then(|address| self.entries.get(&address));
        let fits = entry.is_some_and(|entry| {
            entry.watched.address == from.ip()
                && entry.watched.bfd.hops == *hops
                && is_on_link(*from, entry.watched.interface.as_deref())
        });
        match address {
            Some(address) if fits => self.step(address, Input::Packet(*packet)),
            _ => tracing::debug!(%from, "BFD packet of no session"),
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        while let Some((_, address)) = self.queue.first().copied().filter(|(at, _)| *at <= now) {
            if self.entries.get(&address).is_some_and(|entry| entry.ends.is_some_and(|at| at <= now)) {
                self.forget(address);
            } else {
                self.step(address, Input::Tick);
            }
        }
    }

    fn step(&mut self, address: IpAddr, input: Input) {
        let now = self.now();
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let mut outputs = Vec::new();
        entry.machine.step(now, input, &mut outputs);
        let mut lost = None;
        for output in outputs {
            match output {
                Output::Send(packet) => {
                    if let Err(error) = send(entry, self.random.hash_one((address, now)), &packet) {
                        tracing::debug!(neighbor = %address, %error, "send a BFD packet");
                    }
                }
                Output::Changed(state) => {
                    entry.since = Instant::now();
                    let diagnostic = entry.machine.diagnostic();
                    tracing::info!(neighbor = %address, state = state.name(), %diagnostic, "BFD");
                }
                Output::Lost { loss, independent } => {
                    tracing::warn!(neighbor = %address, ?loss, independent, "BFD: the path is broken");
                    lost = Some(independent);
                }
            }
        }
        let due = entry.machine.next_deadline().into_iter().chain(entry.ends).min();
        if let Some(before) = std::mem::replace(&mut entry.due, due) {
            self.queue.remove(&(before, address));
        }
        self.queue.extend(due.map(|due| (due, address)));
        if let Some(independent) = lost {
            entry.watched.status.send_modify(|status| {
                status.losses += 1;
                status.independent = independent;
            });
        }
        self.show(address);
    }

    fn show(&self, address: IpAddr) {
        let Some(entry) = self.entries.get(&address).filter(|entry| entry.ends.is_none()) else { return };
        let view = BfdView {
            state: entry.machine.state(),
            since: entry.since,
            diagnostic: entry.machine.diagnostic(),
            transmit_interval: entry.machine.transmit_interval(),
            detection_time: entry.machine.detection_time(),
        };
        entry.watched.status.send_if_modified(|status| status.view.replace(view) != Some(view));
    }

    /// Receives wherever a session has its packets come in.
    fn open_receivers(&mut self) {
        self.retry = None;
        let wanted: BTreeSet<(Family, Hops)> = self
            .entries
            .values()
            .map(|entry| (Family::of(entry.watched.address), entry.watched.bfd.hops))
            .collect();
        for (family, hops) in wanted {
            if self.receivers.contains(&(family, hops)) {
                continue;
            }
            match receiver(family, hops, port(hops)) {
                Ok(socket) => {
                    self.receivers.insert((family, hops));
                    self.receiving.spawn(receive(socket, hops, self.arrivals.clone()));
                }
                Err(error) => {
                    let port = port(hops);
                    tracing::error!(
                        %error, ?family, port, "receive BFD packets; does another BFD daemon run on this host?"
                    );
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn end(mut self) {
        let all: Vec<IpAddr> = self.entries.keys().copied().collect();
        for address in all {
            self.disable(address);
        }
    }
}

/// Whether all that differs can change while the session is up.
fn is_same_session(one: &Watched, other: &Watched) -> bool {
    let parts = |watched: &Watched| {
        (watched.address, watched.local_address, watched.interface.clone(), watched.bfd.hops)
    };
    parts(one) == parts(other)
}

/// A socket for the packets of all sessions of a family.
fn receiver(family: Family, hops: Hops, port: u16) -> io::Result<UdpSocket> {
    let (domain, address): (_, IpAddr) = match family {
        Family::Ipv4Unicast => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        Family::Ipv6Unicast => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if family == Family::Ipv6Unicast {
        socket.set_only_v6(true)?;
    }
    if hops == Hops::One {
        // Before it is bound, so that nothing gets in without.
        socket.attach_filter(&from_next_door(family))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    UdpSocket::from_std(socket.into())
}

/// A program for the kernel that drops what a router has forwarded (RFC 5881 section 5, RFC 5082).
fn from_next_door(family: Family) -> [SockFilter; 4] {
    /// Offsets from here on are those of the network header (`SKF_NET_OFF` of `linux/filter.h`).
    const NETWORK_HEADER: u32 = 0_u32.wrapping_sub(0x10_0000);
    let time_to_live = match family {
        Family::Ipv4Unicast => 8,
        Family::Ipv6Unicast => 7,
    };
    let code = |parts: u32| u16::try_from(parts).unwrap_or(u16::MAX);
    let statement = |code, k| SockFilter::new(code, 0, 0, k);
    [
        statement(
            code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS),
            NETWORK_HEADER.wrapping_add(time_to_live),
        ),
        SockFilter::new(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, TTL.into()),
        statement(code(libc::BPF_RET | libc::BPF_K), u32::MAX),
        statement(code(libc::BPF_RET | libc::BPF_K), 0),
    ]
}

async fn receive(socket: UdpSocket, hops: Hops, arrivals: mpsc::Sender<Arrival>) {
    // Longer ones are of another protocol, or authenticated.
    let mut datagram = [0; 128];
    loop {
        let (length, from) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receive a BFD packet");
                continue;
            }
        };
        match Packet::decode(datagram.get(..length).unwrap_or_default()) {
            Ok(packet) => {
                if arrivals.send(Arrival { from, hops, packet }).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%from, %error, "BFD packet"),
        }
    }
}

fn send(entry: &mut Entry, random: u64, packet: &Packet) -> io::Result<()> {
    let socket = match &entry.socket {
        Some(socket) => socket,
        None => entry.socket.insert(sender(&entry.watched, random)?),
    };
    match socket.send(&packet.encode()) {
        Ok(_) => Ok(()),
        // The neighbour has nobody who listens yet; the packet before this one was sent in vain.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => {
            // Its address may be gone: the next packet leaves from where the kernel says then.
            entry.socket = None;
            Err(error)
        }
    }
}

/// A socket for what is sent to one neighbour, with a source port of its own.
fn sender(watched: &Watched, random: u64) -> io::Result<Socket> {
    let to = SocketAddr::new(watched.address, port(watched.bfd.hops));
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    let any: IpAddr = match watched.address {
        IpAddr::V4(_) => {
            socket.set_ttl_v4(TTL.into())?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
            Ipv4Addr::UNSPECIFIED.into()
        }
        IpAddr::V6(_) => {
            socket.set_unicast_hops_v6(TTL.into())?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
            Ipv6Addr::UNSPECIFIED.into()
        }
    };
    if let Some(interface) = &watched.interface {
        // Link-local addresses mean something on one link only.
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.set_nonblocking(true)?;
    let local = watched.local_address.unwrap_or(any);
    let ports = u64::from(u16::MAX - FIRST_SOURCE_PORT) + 1;
    let mut bound = Err(io::ErrorKind::AddrInUse.into());
    for attempt in 0..PORTS_TRIED {
        let port = random.wrapping_add(attempt.into()) % ports;
        let port = FIRST_SOURCE_PORT + u16::try_from(port).unwrap_or_default();
        bound = socket.bind(&SocketAddr::new(local, port).into());
        if bound.as_ref().err().is_none_or(|error| error.kind() != io::ErrorKind::AddrInUse) {
            break;
        }
    }
    bound?;
    socket.connect(&to.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn over_one_hop_only_packets_that_no_router_touched_are_received() {
        let cases = [(Hops::One, vec![255, 255]), (Hops::Several, vec![254, 255, 1, 255])];
        for (hops, expected) in cases {
            for family in Family::ALL {
                let socket = receiver(family, hops, 0).unwrap();
                let to = SocketAddr::new(
                    match family {
                        Family::Ipv4Unicast => Ipv4Addr::LOCALHOST.into(),
                        Family::Ipv6Unicast => Ipv6Addr::LOCALHOST.into(),
                    },
                    socket.local_addr().unwrap().port(),
                );
                let sender = Socket::new(Domain::for_address(to), Type::DGRAM, None).unwrap();
                for ttl in [254, 255, 1, 255] {
                    match family {
                        Family::Ipv4Unicast => sender.set_ttl_v4(ttl).unwrap(),
                        Family::Ipv6Unicast => sender.set_unicast_hops_v6(ttl).unwrap(),
                    }
                    sender.send_to(&[u8::try_from(ttl).unwrap()], &to.into()).unwrap();
                }
                let mut received = Vec::new();
                let mut octets = [0; 2];
                // One that should have been dropped would come before the last.
                while received.len() < expected.len() {
                    let (length, _) = socket.recv_from(&mut octets).await.unwrap();
                    received.extend_from_slice(&octets[..length]);
                }
                assert_eq!(received, expected, "{family:?} {hops:?}");
            }
        }
    }
}
