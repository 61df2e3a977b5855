//! Two network namespaces joined by a veth pair that carries nothing but what a test sends.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use margay_netlink::{
    MacAddr, Socket, addr,
    link::{self, End, IfIndex, IfName, Mtu, Veth},
    neigh,
    netns::Namespace,
};
use nix::sched::{CloneFlags, unshare};

/// The end in the test's own namespace.
pub(crate) const NEAR: &str = "near0";
pub(crate) const NEAR_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const FAR_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

const NEAR_MAC: MacAddr = MacAddr::local([1; 6]);
const FAR_MAC: MacAddr = MacAddr::local([2; 6]);

/// Runs a test in a namespace of its own, and gives it that of the far end.
pub(crate) fn with_pair(test: impl FnOnce(&Namespace) + Send) {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            enter_new_namespace();
            let far = thread::spawn(|| {
                enter_new_namespace();
                Namespace::current().unwrap()
            })
            .join()
            .unwrap();
            join(&far);
            until_it_carries(&far);
            test(&far);
        });
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The kernel opens the queues of a new link some time after the link is up (`linkwatch`), and drops what is sent
/// before: nothing that this sends arrives late.
fn until_it_carries(far: &Namespace) {
    let socket = |address: IpAddr| {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket
    };
    let near = socket(NEAR_ADDRESS);
    let far = {
        let _inside = far.enter().unwrap();
        socket(FAR_ADDRESS)
    };
    for (from, to) in [(&near, &far), (&far, &near)] {
        let arrives = || {
            from.send_to(b"?", to.local_addr().unwrap()).unwrap();
            to.recv(&mut [0; 8]).is_ok()
        };
        assert!((0..200).any(|_attempt| arrives()), "nothing passes between the two ends");
    }
}

/// Without IPv6, which would say things by itself.
fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
    for group in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{group}/disable_ipv6");
        if fs::exists(&path).unwrap() {
            fs::write(&path, "1").unwrap();
        }
    }
}

fn join(far: &Namespace) {
    let (near_name, far_name): (IfName, IfName) = (NEAR.parse().unwrap(), "far0".parse().unwrap());
    let mut socket = Socket::open().unwrap();
    let pair = Veth {
        near: End { name: &near_name, address: Some(NEAR_MAC), netns: None },
        far: End { name: &far_name, address: Some(FAR_MAC), netns: Some(far.as_fd()) },
        mtu: Mtu::new(1500),
    };
    socket.execute(&link::add_veth(&pair)).unwrap();
    configure(&mut socket, &near_name, NEAR_ADDRESS, (FAR_ADDRESS, FAR_MAC));
    let _inside = far.enter().unwrap();
    configure(&mut Socket::open().unwrap(), &far_name, FAR_ADDRESS, (NEAR_ADDRESS, NEAR_MAC));
}

/// With the neighbour known beforehand, nobody asks for it.
fn configure(socket: &mut Socket, name: &IfName, address: IpAddr, neighbour: (IpAddr, MacAddr)) {
    let index: IfIndex = link::by_name(socket, name).unwrap().unwrap().index;
    socket.execute(&addr::add(index, format!("{address}/24").parse().unwrap())).unwrap();
    socket.execute(&link::set_up(index)).unwrap();
    socket.execute(&neigh::replace_permanent(index, neighbour.0, neighbour.1)).unwrap();
}
