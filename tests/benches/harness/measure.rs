//! What is measured between two pods: how much of something a second has, or what it costs.
//!
//! Who sends has the first processor, who receives the second, so that the scheduler does not choose anew each time;
//! where both wait for each other they share one, so that what waking another costs is not most of it.

use std::{
    fmt, fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use margay_netlink::netns::Namespace;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::SockRef;

/// Where packets begin and end.
pub(crate) struct End {
    pub(crate) namespace: Namespace,
    pub(crate) address: IpAddr,
}

/// Where the pods listen.
pub(crate) const PORT: u16 = 5201;
/// How long one measurement takes.
const LENGTH: Duration = Duration::from_millis(250);
/// How long a refusal may take to be seen: denied packets are dropped.
const SILENCE: Duration = Duration::from_millis(200);
/// Octets of a write to a stream, and of a datagram.
const CHUNK: usize = 128 * 1024;
const DATAGRAM: usize = 64;

const SENDER: usize = 0;
const RECEIVER: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Octets of one connection.
    Throughput,
    /// One octet there and one back, on one connection.
    Exchange,
    /// What the median of these takes.
    Median,
    /// What one in a hundred of them takes, or more.
    Percentile99,
    /// A connection, one octet there and one back, and its end.
    Connection,
    /// Datagrams of one flow that was answered once: an established one to connection tracking.
    Datagram,
    /// Datagrams of one flow that never is: each is as good as the first.
    OneWay,
    /// Datagrams, each from a new socket.
    Flow,
    /// What all processors together spend on a datagram that arrives, of a flow that was answered once.
    Processors,
}

impl Measure {
    pub(crate) const ALL: [Self; 9] = [
        Self::Throughput,
        Self::Exchange,
        Self::Median,
        Self::Percentile99,
        Self::Connection,
        Self::Datagram,
        Self::OneWay,
        Self::Flow,
        Self::Processors,
    ];

    /// Of it, in [`Self::unit`].
    pub(crate) fn take(self, from: &End, to: &End) -> f64 {
        match self {
            Self::Throughput => throughput(from, to) * 8.0 / 1e9,
            Self::Exchange => {
                let took = exchanges(from, to);
                per_second(took.len(), took.iter().sum()) / 1e3
            }
            Self::Median => percentile(exchanges(from, to), 50),
            Self::Percentile99 => percentile(exchanges(from, to), 99),
            Self::Connection => connections(from, to) / 1e3,
            Self::Datagram => datagrams(from, to, answered_flow) / 1e3,
            Self::OneWay => datagrams(from, to, one_flow) / 1e3,
            Self::Flow => datagrams(from, to, new_flows) / 1e3,
            Self::Processors => {
                let (before, begin) = (idle(), now());
                let rate = datagrams(from, to, answered_flow);
                let length = begin.elapsed().as_secs_f64();
                let busy = length * processors() - (idle() - before);
                busy * 1e9 / (rate * LENGTH.as_secs_f64())
            }
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gbit/s",
            Self::Median | Self::Percentile99 => "us",
            Self::Processors => "ns",
            Self::Exchange | Self::Connection | Self::Datagram | Self::OneWay | Self::Flow => "k/s",
        }
    }

    /// Whether less of it is better.
    pub(crate) fn is_cost(self) -> bool {
        matches!(self, Self::Median | Self::Percentile99 | Self::Processors)
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throughput => "TCP throughput",
            Self::Exchange => "TCP request/response",
            Self::Median => "TCP request/response, median",
            Self::Percentile99 => "TCP request/response, 99th percentile",
            Self::Connection => "TCP connect, request, response",
            Self::Datagram => "UDP packets, one flow",
            Self::OneWay => "UDP packets, one flow never answered",
            Self::Flow => "UDP packets, each a new flow",
            Self::Processors => "CPU time of a UDP packet, one flow",
        })
    }
}

/// Whether a connection can be made.
pub(crate) fn is_open(from: &End, to: &End) -> bool {
    let _listener = listen(to);
    let _inside = from.namespace.enter().unwrap();
    TcpStream::connect_timeout(&at(to), SILENCE).is_ok()
}

fn throughput(from: &End, to: &End) -> f64 {
    let listener = listen(to);
    let sender = connect(from, to);
    let (receiver, _) = listener.accept().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            run_on(SENDER);
            let mut sender = sender;
            let chunk = vec![0; CHUNK];
            let begin = now();
            while begin.elapsed() < LENGTH {
                sender.write_all(&chunk).unwrap();
            }
        });
        let received = scope.spawn(|| {
            run_on(RECEIVER);
            let (mut receiver, mut buffer) = (receiver, vec![0; CHUNK]);
            let begin = now();
            let mut octets = 0;
            loop {
                match receiver.read(&mut buffer).unwrap() {
                    0 => return per_second(octets, begin.elapsed()),
                    some => octets += some,
                }
            }
        });
        received.join().unwrap()
    })
}

/// How long each took.
fn exchanges(from: &End, to: &End) -> Vec<Duration> {
    let listener = listen(to);
    let mut client = connect(from, to);
    let (mut server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(move || {
            run_on(SENDER);
            let mut octet = [0];
            while server.read(&mut octet).unwrap() > 0 {
                server.write_all(&octet).unwrap();
            }
        });
        let client = scope.spawn(move || {
            run_on(SENDER);
            let (begin, mut took) = (now(), Vec::with_capacity(1 << 17));
            let mut last = begin;
            while begin.elapsed() < LENGTH {
                client.write_all(&[0]).unwrap();
                client.read_exact(&mut [0]).unwrap();
                took.push(last.elapsed());
                last += *took.last().unwrap();
            }
            took
        });
        client.join().unwrap()
    })
}

/// In microseconds.
fn percentile(mut took: Vec<Duration>, part: usize) -> f64 {
    took.sort();
    took[took.len() * part / 100].as_secs_f64() * 1e6
}

fn connections(from: &End, to: &End) -> f64 {
    /// The request that asks for no more.
    const LAST: u8 = 1;
    let listener = listen(to);
    let exchange = |request: u8| {
        let mut client = TcpStream::connect(at(to)).unwrap();
        client.write_all(&[request]).unwrap();
        client.read_exact(&mut [0]).unwrap();
        // Ended by a reset, so that no port stays taken.
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            run_on(SENDER);
            let mut octet = [0];
            while octet[0] != LAST {
                let (mut server, _) = listener.accept().unwrap();
                server.read_exact(&mut octet).unwrap();
                server.write_all(&octet).unwrap();
            }
        });
        let client = scope.spawn(|| {
            run_on(SENDER);
            let _inside = from.namespace.enter().unwrap();
            let (mut count, begin) = (0, now());
            while begin.elapsed() < LENGTH {
                exchange(0);
                count += 1;
            }
            let rate = per_second(count, begin.elapsed());
            exchange(LAST);
            rate
        });
        client.join().unwrap()
    })
}

/// Counts what arrives of what is sent until a time. A datagram of one octet is answered instead.
fn datagrams(from: &End, to: &End, send: fn(SocketAddr)) -> f64 {
    let receiver = {
        let _inside = to.namespace.enter().unwrap();
        UdpSocket::bind(at(to)).unwrap()
    };
    SockRef::from(&receiver).set_recv_buffer_size(4 << 20).unwrap();
    receiver.set_read_timeout(Some(SILENCE / 10)).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let received = scope.spawn(|| {
            run_on(RECEIVER);
            let (mut buffer, mut count) = ([0; DATAGRAM], 0);
            loop {
                match receiver.recv_from(&mut buffer) {
                    Ok((1, sender)) => drop(receiver.send_to(&[0], sender).unwrap()),
                    Ok(_) => count += 1,
                    Err(error) => {
                        assert!(matches!(error.kind(), ErrorKind::WouldBlock), "{error}");
                        if is_over.load(Ordering::Acquire) {
                            return count;
                        }
                    }
                }
            }
        });
        let took = scope.spawn(|| {
            run_on(SENDER);
            let _inside = from.namespace.enter().unwrap();
            let begin = now();
            send(at(to));
            let took = begin.elapsed();
            is_over.store(true, Ordering::Release);
            took
        });
        let took = took.join().unwrap();
        per_second(received.join().unwrap(), took)
    })
}

fn answered_flow(to: SocketAddr) {
    let sender = sender(to);
    sender.send(&[0]).unwrap();
    sender.recv(&mut [0]).unwrap();
    send_on(&sender);
}

fn one_flow(to: SocketAddr) {
    send_on(&sender(to));
}

fn sender(to: SocketAddr) -> UdpSocket {
    let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
    sender.connect(to).unwrap();
    sender
}

fn send_on(sender: &UdpSocket) {
    let begin = now();
    while begin.elapsed() < LENGTH {
        sender.send(&[0; DATAGRAM]).unwrap();
    }
}

fn new_flows(to: SocketAddr) {
    let begin = now();
    while begin.elapsed() < LENGTH {
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[0; DATAGRAM], to).unwrap();
    }
}

fn at(end: &End) -> SocketAddr {
    (end.address, PORT).into()
}

fn listen(end: &End) -> TcpListener {
    let _inside = end.namespace.enter().unwrap();
    TcpListener::bind(at(end)).unwrap()
}

fn connect(from: &End, to: &End) -> TcpStream {
    let _inside = from.namespace.enter().unwrap();
    TcpStream::connect(at(to)).unwrap()
}

/// How long all processors together have been idle, in seconds (`proc_uptime(5)`).
fn idle() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn processors() -> f64 {
    thread::available_parallelism().unwrap().get() as f64
}

/// Keeps the calling thread on one processor.
fn run_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "the wall clock is what is measured")]
fn now() -> Instant {
    Instant::now()
}
