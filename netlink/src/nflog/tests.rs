//! NFLOG of the real kernel, in namespaces of the test's own; the packets are the kernel's.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};

use super::{Listener, Logged, Packet, Transport};

const GROUP: u16 = 28007;
const PATIENCE: Duration = Duration::from_secs(10);

/// A namespace with a loopback link that tells of all that is sent there to port 9, or over ICMP.
fn in_new_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
            for arguments in ["link set lo up", "address add 2001:db8::1/128 dev lo nodad"] {
                assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
            }
            let table = format!(
                "table inet test {{ chain x {{ type filter hook input priority 0; \
                 meta l4proto {{ tcp, udp }} th dport 9 log prefix \"why\" group {GROUP} snaplen 128 drop; \
                 meta l4proto {{ icmp, ipv6-icmp }} log prefix \"ping\" group {GROUP} snaplen 128; }}; }}"
            );
            assert!(Command::new("nft").arg(table).status().unwrap().success());
            test();
        });
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits until a number of packets have come; gives them with how many were lost.
fn next(listener: &mut Listener, number: usize) -> (Vec<Logged>, u64) {
    let (mut found, mut lost) = (Vec::new(), 0);
    while found.len() < number {
        let timeout = PollTimeout::try_from(PATIENCE).unwrap();
        let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut waiting, timeout).unwrap(), 1, "only {} came: {found:?}", found.len());
        lost += listener.read(&mut found).unwrap();
    }
    (found, lost)
}

fn send(to: IpAddr, number: usize) -> SocketAddr {
    let socket = UdpSocket::bind((to, 0)).unwrap();
    for _ in 0..number {
        socket.send_to(b"hello", (to, 9)).unwrap();
    }
    socket.local_addr().unwrap()
}

#[test]
fn packets_of_both_families_are_told_with_prefix_link_and_time() {
    in_new_namespace(|| {
        let mut listener = Listener::open(GROUP, 128).unwrap();
        assert_eq!(listener.read(&mut Vec::new()).unwrap_err().kind(), ErrorKind::WouldBlock);
        for address in ["127.0.0.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let source = send(address, 1).port();
            let (found, lost) = next(&mut listener, 1);
            assert_eq!((found[0].prefix.as_str(), found.len(), lost), ("why", 1, 0));
            assert_eq!((found[0].in_link, found[0].out_link), (Some(1), None));
            assert!(found[0].time.unwrap() > Duration::from_secs(1_700_000_000));
            let transport = Transport::Ports { source, destination: 9 };
            let expected = Packet { source: address, destination: address, protocol: 17, transport };
            assert_eq!(Packet::parse(&found[0].payload), Some(expected));
            // The first of a connection; what answers it never comes.
            let to = SocketAddr::new(address, 9);
            assert!(TcpStream::connect_timeout(&to, Duration::from_millis(1)).is_err());
            let (found, _) = next(&mut listener, 1);
            let packet = Packet::parse(&found[0].payload).unwrap();
            assert!(matches!(packet.transport, Transport::Ports { destination: 9, .. }), "{packet:?}");
            assert_eq!(packet.protocol, 6);
        }
        for (address, protocol, kind) in [("127.0.0.1", 1, 8), ("2001:db8::1", 58, 128)] {
            let ping = Command::new("ping").args(["-c1", "-W5", address]).output().unwrap();
            assert!(ping.status.success(), "{ping:?}");
            let (found, _) = next(&mut listener, 1);
            let packet = Packet::parse(&found[0].payload).unwrap();
            assert_eq!((packet.protocol, packet.transport), (protocol, Transport::Icmp { kind, code: 0 }));
            if found.len() < 2 {
                next(&mut listener, 1);
            }
        }
    });
}

#[test]
fn a_group_has_one_listener_and_is_free_again_when_that_is_gone() {
    in_new_namespace(|| {
        let first = Listener::open(GROUP, 128).unwrap();
        assert_eq!(Listener::open(GROUP, 128).err().and_then(|error| error.errno()), Some(Errno::EPERM));
        Listener::open(GROUP + 1, 128).unwrap();
        drop(first);
        // A child of another test has it, too, until its program begins.
        let is_free = |_| {
            let outcome = Listener::open(GROUP, 128);
            let is_free = outcome.is_ok();
            if let Err(error) = outcome {
                assert_eq!(error.errno(), Some(Errno::EPERM), "{error}");
                // A signal is no matter.
                poll(&mut [], 1_u8).unwrap_or_default();
            }
            is_free
        };
        assert!((0..PATIENCE.as_millis()).any(is_free));
    });
}

#[test]
fn what_comes_faster_than_it_is_read_is_counted() {
    in_new_namespace(|| {
        let mut listener = Listener::open(GROUP, 128).unwrap();
        let sent = 20_000;
        send("127.0.0.1".parse().unwrap(), sent);
        // More than there is room for: the last tells of those that were lost before it.
        let (mut found, mut lost) = (Vec::new(), 0);
        loop {
            match listener.read(&mut found) {
                Ok(more) => lost += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(found.len() < sent);
        let before = found.len();
        send("127.0.0.1".parse().unwrap(), 1);
        while lost == 0 || found.len() == before {
            let (mut more, missed) = next(&mut listener, 1);
            lost += missed;
            found.append(&mut more);
        }
        assert_eq!(found.len() as u64 + lost, sent as u64 + 1);
    });
}
