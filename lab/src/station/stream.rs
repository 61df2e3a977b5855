//! Numbered datagrams at a steady rate, so that each one that is lost is known.

use super::Station;
use anyhow::Context;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// How long the last datagrams may take.
const LATEST: Duration = Duration::from_secs(2);
/// Octets of what waits to be read: a busy machine may look seconds later, and what finds no room would count as lost.
const ROOM: usize = 8 << 20;

/// Datagrams under way. Dropped, it ends without a count.
#[derive(Debug)]
pub struct Stream {
    stop: watch::Sender<bool>,
    total: watch::Sender<Option<u64>>,
    sent: watch::Receiver<u64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<BTreeSet<u64>>,
}

/// What became of the datagrams of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// How many were sent.
    pub sent: u64,
    /// The numbers of those that did not come, from 0.
    pub lost: Vec<u64>,
}

impl Stream {
    pub(crate) fn start(
        from: &Station,
        to: &Station,
        address: IpAddr,
        every: Duration,
    ) -> anyhow::Result<Self> {
        let incoming = bound(to, address).context("receive datagrams")?;
        let target = SocketAddr::new(address, incoming.local_addr()?.port());
        let outgoing = bound(from, address).context("send datagrams")?;
        let (stop, mut stopped) = watch::channel(false);
        let (total, known_total) = watch::channel(None);
        let (tell, sent) = watch::channel(0_u64);
        let sender = tokio::spawn(async move {
            let mut ticks = interval(every);
            // Many at once, after a machine was busy, would fill queues that a steady stream never does.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stopped.changed() => return,
                }
                let number = *tell.borrow();
                // One that the kernel refuses is lost.
                drop(outgoing.send_to(&number.to_be_bytes(), target).await);
                tell.send_replace(number + 1);
            }
        });
        let receiver = tokio::spawn(receive(incoming, known_total));
        Ok(Self { stop, total, sent, sender, receiver })
    }

    /// How many were sent until now.
    pub fn sent(&self) -> u64 {
        *self.sent.borrow()
    }

    /// Waits until so many more were sent.
    ///
    /// # Errors
    /// When the sender has ended.
    pub async fn sends(&mut self, more: u64) -> anyhow::Result<()> {
        let until = *self.sent.borrow() + more;
        self.sent.wait_for(|sent| *sent >= until).await.context("the sender has ended")?;
        Ok(())
    }

    /// Sends no more, waits for what is under way, and counts.
    ///
    /// # Errors
    /// When a task of it has failed.
    pub async fn finish(self) -> anyhow::Result<Counted> {
        let Self { stop, total, sent, sender, receiver } = self;
        stop.send_replace(true);
        sender.await.context("send datagrams")?;
        let sent = *sent.borrow();
        total.send_replace(Some(sent));
        let received = receiver.await.context("receive datagrams")?;
        Ok(Counted { sent, lost: (0..sent).filter(|number| !received.contains(number)).collect() })
    }
}

/// Notes what comes, until all that were sent have, or the last is overdue.
async fn receive(socket: UdpSocket, mut total: watch::Receiver<Option<u64>>) -> BTreeSet<u64> {
    let mut received = BTreeSet::new();
    let mut datagram = [0; 8];
    let sent = loop {
        tokio::select! {
            came = socket.recv_from(&mut datagram) => note(came, datagram, &mut received),
            total = total.wait_for(Option::is_some) => match total {
                Ok(total) => break total.unwrap_or_default(),
                // Nobody wants to know any more.
                Err(_) => return received,
            },
        }
    };
    let latest = Instant::now() + LATEST;
    while (received.len() as u64) < sent {
        match timeout_at(latest, socket.recv_from(&mut datagram)).await {
            Ok(came) => note(came, datagram, &mut received),
            Err(_elapsed) => break,
        }
    }
    received
}

/// What is no number of ours is somebody else's.
fn note(came: std::io::Result<(usize, SocketAddr)>, datagram: [u8; 8], received: &mut BTreeSet<u64>) {
    if came.is_ok_and(|(octets, _)| octets == 8) {
        received.insert(u64::from_be_bytes(datagram));
    }
}

/// A socket of the station on a port of the kernel's choice, for the family of an address.
fn bound(station: &Station, address: IpAddr) -> std::io::Result<UdpSocket> {
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let any = SocketAddr::new(any, 0);
    let socket = {
        let _inside = station.namespace.enter().map_err(std::io::Error::other)?;
        Socket::new(Domain::for_address(any), Type::DGRAM.nonblocking().cloexec(), None)?
    };
    setsockopt(&socket, RcvBufForce, &ROOM)?;
    socket.bind(&any.into())?;
    UdpSocket::from_std(socket.into())
}
