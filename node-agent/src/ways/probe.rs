//! Probes of one way: packets that say whether they come back.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use margay_netlink::link::IfName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    time::timeout,
};
use tracing::debug;

use super::{
    judge::{Search, Seen, Stream},
    ledger::Way,
    message::{SHORTEST, STREAM_OCTETS, WORD, answered, question},
    sys,
};

/// How long an answer may take: one between continents takes less.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a question is asked before it has no answer: packets get lost where all is well, too.
const TRIES: u32 = 3;
/// How long a connection may take, with segments that are sent again.
const STREAM_PATIENCE: Duration = Duration::from_secs(4);
/// As short as a question can be.
const SHORT: u32 = 0;
/// The least octets that a packet of a family can always have (RFC 791, RFC 8200).
const LEAST_IPV4: u32 = 576;
const LEAST_IPV6: u32 = 1280;

/// A way, and how it is asked.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) way: Way,
    /// An address of this node, and those of the other of which one takes that way.
    pub(super) source: IpAddr,
    pub(super) to: Vec<IpAddr>,
    /// Octets of a packet of full size.
    pub(super) full: u32,
    /// The tunnel's device, and the two nodes' own addresses, which are asked outside of it.
    pub(super) tunnel: Option<Tunnel>,
}

/// What a tunnel has besides.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    pub(super) device: IfName,
    pub(super) source: IpAddr,
    pub(super) to: IpAddr,
}

/// Asks on a way all that there is to ask.
pub(super) async fn ask(target: &Target, port: u16) -> Seen {
    let mut seen = Seen { answers: false, short: false, full: false, most: None, stream: Stream::Untried };
    let Some(to) = reached(target, port).await else {
        if let Some(tunnel) = &target.tunnel {
            let direct = SocketAddr::new(tunnel.to, port);
            seen.answers = is_answered(tunnel.source, direct, SHORT).await;
        }
        return seen;
    };
    (seen.answers, seen.short) = (true, true);
    seen.full = is_answered(target.source, to, target.full).await;
    if !seen.full {
        seen.most = most(target.source, to, target.full).await;
        return seen;
    }
    seen.stream = match carried(target.source, to).await {
        Carried::Whole => Stream::Whole,
        Carried::Refused => Stream::Untried,
        Carried::Nothing => Stream::Broken,
    };
    seen
}

/// The other node's address at which it answers on that way.
async fn reached(target: &Target, port: u16) -> Option<SocketAddr> {
    for to in &target.to {
        let to = SocketAddr::new(*to, port);
        if is_answered(target.source, to, SHORT).await {
            return Some(to);
        }
    }
    None
}

/// The most octets of a packet that passes; `None` when not even the least does.
async fn most(source: IpAddr, to: SocketAddr, full: u32) -> Option<u32> {
    let least = if to.is_ipv4() { LEAST_IPV4 } else { LEAST_IPV6 };
    if !is_answered(source, to, least).await {
        return None;
    }
    let mut search = Search::between(least, full);
    while let Some(octets) = search.next() {
        search.note(octets, is_answered(source, to, octets).await);
    }
    Some(search.most())
}

/// Whether connections pass a tunnel if the kernel computes the checksums of packets in it, and only then; it goes on doing so in that
/// case. With, without and with again: what is lost now and then is to cost no tunnel its offload.
pub(super) async fn needs_checksums(target: &Target, port: u16) -> bool {
    let Some(Tunnel { device, .. }) = &target.tunnel else { return false };
    match sys::has_tx_checksum_offload(device) {
        Ok(true) => {}
        Ok(false) => return false,
        Err(error) => {
            debug!(%device, %error, "whether checksums are computed beneath it is not known");
            return false;
        }
    }
    let Some(to) = reached(target, port).await else { return false };
    let mut trial = Trial { device, is_kept: false };
    for (offload, passes) in [(false, true), (true, false), (false, true)] {
        if let Err(error) = sys::set_tx_checksum_offload(device, offload) {
            debug!(%device, %error, "it cannot be changed where checksums are computed");
            return false;
        }
        if (carried(target.source, to).await == Carried::Whole) != passes {
            return false;
        }
    }
    trial.is_kept = true;
    true
}

/// A device whose offload is tried out. Whatever ends that puts the offload back, unless it is known to be wrong: the tests may be turned
/// off, or the agent stopped, in the middle of a connection.
struct Trial<'a> {
    device: &'a IfName,
    is_kept: bool,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        // What cannot be set back costs some time of the processor.
        if !self.is_kept
            && let Err(error) = sys::set_tx_checksum_offload(self.device, true)
        {
            debug!(device = %self.device, %error, "checksums go on being computed by the kernel");
        }
    }
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// Full segments came both ways.
    Whole,
    /// The other end, or a firewall there, did not want it: TCP passes, and no more is known.
    Refused,
    Nothing,
}

async fn carried(source: IpAddr, to: SocketAddr) -> Carried {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, UnexpectedEof};
    match timeout(STREAM_PATIENCE, exchange(source, to)).await {
        Ok(Ok(())) => Carried::Whole,
        Ok(Err(error)) if matches!(error.kind(), ConnectionRefused | ConnectionReset | UnexpectedEof) => {
            Carried::Refused
        }
        Ok(Err(_)) | Err(_) => Carried::Nothing,
    }
}

async fn exchange(source: IpAddr, to: SocketAddr) -> io::Result<()> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(source, 0))?;
    let mut stream = socket.connect(to).await?;
    let mut octets = vec![0; STREAM_OCTETS];
    octets[..WORD.len()].copy_from_slice(&WORD);
    stream.write_all(&octets).await?;
    stream.read_exact(&mut octets).await?;
    Ok(())
}

/// Whether a packet of this many octets that must not be cut comes through, and an answer back. It has no checksum.
async fn is_answered(source: IpAddr, to: SocketAddr, octets: u32) -> bool {
    match question_and_answer(source, to, octets).await {
        Ok(answered) => answered,
        Err(error) => {
            debug!(%to, octets, %error, "a packet to test the way cannot be sent");
            false
        }
    }
}

async fn question_and_answer(source: IpAddr, to: SocketAddr, octets: u32) -> io::Result<bool> {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(source, 0))?;
    sys::without_checksum(&socket, to.is_ipv4())?;
    sys::never_fragment(&socket, to.is_ipv4())?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(to).await?;
    let payload = octets.saturating_sub(headers(to.ip())) as usize;
    let mut answer = [0; SHORTEST];
    for number in 0..TRIES {
        socket.send(&question(number, payload)).await?;
        // A refusal by the other end comes as an error of the next call.
        if let Ok(Ok(received)) = timeout(PATIENCE, socket.recv(&mut answer)).await
            && answer.get(..received).and_then(answered) == Some(number)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Octets of a packet of UDP before what it carries.
fn headers(to: IpAddr) -> u32 {
    if to.is_ipv4() { 20 + 8 } else { 40 + 8 }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc, thread, time::Duration};

    use margay_netlink::{
        Socket, addr,
        link::{self, Bridge, IfName},
    };
    use nix::sched::{CloneFlags, unshare};
    use tokio::{sync::watch, time::timeout};

    use super::{Target, Tunnel, Way, needs_checksums, sys};
    use crate::ways::listen::{answer_datagrams, datagrams};

    const PORT: u16 = 4000;

    /// Runs a test beside a device with this address, which a tunnel is to be beneath, in a network namespace of its own.
    fn beside(address: IpAddr, test: impl AsyncFnOnce(IfName) + Send) {
        thread::scope(|scope| {
            let test = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)
                    .expect("a network namespace of its own: run the tests as root");
                let mut socket = Socket::open().unwrap();
                for name in ["lo", "tunnel"] {
                    let name: IfName = name.parse().unwrap();
                    if link::by_name(&mut socket, &name).unwrap().is_none() {
                        socket.execute(&link::add_bridge(&Bridge { name: &name })).unwrap();
                    }
                    let index = link::by_name(&mut socket, &name).unwrap().unwrap().index;
                    socket.execute(&link::set_up(index)).unwrap();
                    if name.to_string() == "tunnel" {
                        socket.execute(&addr::add(index, address.into())).unwrap();
                    }
                }
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(test("tunnel".parse().unwrap()));
            });
            if let Err(panic) = test.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn target(address: IpAddr, device: &IfName) -> Target {
        Target {
            way: Way { node: "n2".into(), by: None },
            source: address,
            to: vec![address],
            full: 1500,
            tunnel: Some(Tunnel { device: device.clone(), source: address, to: address }),
        }
    }

    #[test]
    fn a_test_of_checksums_that_is_cut_off_leaves_the_offload_as_it_was() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        beside(address, async |device| {
            // Datagrams are answered; a connection is taken, and nothing comes back.
            let (_nodes, known) = watch::channel(Arc::new([address].into()));
            tokio::spawn(answer_datagrams(datagrams((address, PORT).into()).unwrap(), known));
            let _silent = std::net::TcpListener::bind((address, PORT)).unwrap();
            assert!(sys::has_tx_checksum_offload(&device).unwrap());
            let target = target(address, &device);
            let mut test = Box::pin(needs_checksums(&target, PORT));
            while sys::has_tx_checksum_offload(&device).unwrap() {
                let ended = timeout(Duration::from_millis(1), &mut test).await;
                assert!(ended.is_err(), "it ended without having tried anything: {ended:?}");
            }
            drop(test);
            assert!(sys::has_tx_checksum_offload(&device).unwrap());
        });
    }

    #[test]
    fn a_connection_that_nobody_wants_says_nothing_about_checksums() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        beside(address, async |device| {
            let (_nodes, known) = watch::channel(Arc::new([address].into()));
            tokio::spawn(answer_datagrams(datagrams((address, PORT).into()).unwrap(), known));
            assert!(!needs_checksums(&target(address, &device), PORT).await);
            assert!(sys::has_tx_checksum_offload(&device).unwrap());
        });
    }
}
