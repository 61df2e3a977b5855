//! A node with two pods, and behind a router a pod of another node, with the programs at their places: real packets.
//!
//! ```text
//! client --+
//!          +-- node ---- router ---- remote
//! server --+
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use margay_ebpf_common::{
    endpoint::Endpoint,
    tunnel::{IPIP, Tunnel, TunnelKey, VXLAN},
};
use margay_netlink::{
    MacAddr, Socket,
    link::{self, End, Mtu, Veth},
    netns::Namespace,
};
use nix::sched::{CloneFlags, unshare};

use crate::{dataplane::Dataplane, tun, world::ip};

/// Addresses of one family.
pub(crate) struct Family {
    pub(crate) client: IpAddr,
    pub(crate) server: IpAddr,
    pub(crate) remote: IpAddr,
    /// Of a Service, which nobody has.
    pub(crate) service: IpAddr,
    pods: [(IpAddr, u32); 2],
    node: IpAddr,
    router: IpAddr,
    router_inside: IpAddr,
    gateway: IpAddr,
}

pub(crate) struct Site {
    pub(crate) dataplane: Dataplane,
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) router: Namespace,
    pub(crate) remote: Namespace,
}

/// Octets of a packet in the tunnel, at most.
const TUNNEL_MTU: u32 = 1450;
const IPIP_MTU: u32 = 1480;
/// On either side of a tunnel of IP-in-IP.
pub(crate) const IPIP_DEVICE: &str = "ipip";

const fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

/// Both families.
pub(crate) fn families() -> [Family; 2] {
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    [
        Family {
            client: address("10.1.0.2"),
            server: address("10.1.0.3"),
            remote: address("10.2.0.4"),
            service: address("10.96.0.1"),
            pods: [(address("10.1.0.0"), 16), (address("10.2.0.0"), 16)],
            node: address("192.0.2.2"),
            router: address("192.0.2.1"),
            router_inside: address("198.51.100.1"),
            gateway: address("169.254.1.1"),
        },
        Family {
            client: address("fd00:1::2"),
            server: address("fd00:1::3"),
            remote: address("fd00:2::4"),
            service: address("fd00:96::1"),
            pods: [(address("fd00:1::"), 64), (address("fd00:2::"), 64)],
            node: address("2001:db8::2"),
            router: address("2001:db8::1"),
            router_inside: address("2001:db8:1::1"),
            gateway: address("fe80::1"),
        },
    ]
}

/// Runs a test at a site of its own; packets into the pods go as `flags` of their links say.
pub(crate) fn with_site(flags: u32, test: impl FnOnce(&mut Site) + Send) {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
            test(&mut Site::new(flags));
        });
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Site {
    fn new(flags: u32) -> Self {
        let [client, server, router, remote] = [(); 4].map(|()| {
            thread::spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                Namespace::current().unwrap()
            })
            .join()
            .unwrap()
        });
        pair("client", 1, "eth0", 11, &client);
        pair("server", 2, "eth0", 12, &server);
        pair("uplink", 3, "node", 13, &router);
        {
            let _inside = router.enter().unwrap();
            pair("inside", 4, "eth0", 14, &remote);
        }
        let mut site = Self { dataplane: Dataplane::load(), client, server, router, remote };
        site.configure();
        let endpoint = Endpoint { flags, mtu: 1500, ..Endpoint::default() };
        for (name, last) in [("client", 1), ("server", 2)] {
            let addresses = families().map(|f| if name == "client" { f.client } else { f.server });
            let endpoint = Endpoint { mac: mac(last + 10), host_mac: mac(last), ..endpoint };
            site.dataplane.add_pod(ifindex(name), endpoint, &addresses);
            site.dataplane.attach(name, "from_pod", "to_pod");
        }
        site.dataplane.add_uplink(ifindex("uplink"));
        site.dataplane.attach("uplink", "from_uplink", "to_uplink");
        for family in families() {
            family.pods.into_iter().for_each(|pods| site.dataplane.add_pods(pods));
        }
        site
    }

    /// Has what goes between the node and the router be in a tunnel of VXLAN, with the device `vxlan` on either side, and its entries
    /// in `TUNNELS`.
    pub(crate) fn tunnel(&mut self) {
        for (namespace, device) in [(&self.client, "eth0"), (&self.server, "eth0"), (&self.remote, "eth0")] {
            let _inside = namespace.enter().unwrap();
            ip(&format!("link set {device} mtu {TUNNEL_MTU}"));
        }
        let [v4, _] = families();
        let (IpAddr::V4(node), IpAddr::V4(router)) = (v4.node, v4.router) else { panic!("IPv4 comes first") };
        tunnel_end(node, router, [21, 22], |family| family.pods[1]);
        {
            let _inside = self.router.enter().unwrap();
            tunnel_end(router, node, [22, 21], |family| family.pods[0]);
        }
        let ifindex = ifindex("vxlan");
        self.dataplane.add_uplink(ifindex);
        self.dataplane.attach("vxlan", "from_uplink", "to_uplink");
        let tunnel = Tunnel {
            local: node.octets(),
            remote: router.octets(),
            vni: [0, 0, 7, 0],
            destination_mac: mac(22),
            source_mac: mac(21),
            port: 4789_u16.to_be_bytes(),
            kind: VXLAN,
            padding: [0; 5],
        };
        for gateway in ["10.2.0.0", "fe80::22"] {
            let next_hop = gateway.parse::<IpAddr>().unwrap().into();
            let key = TunnelKey { ifindex, padding: [0; 4], next_hop };
            self.dataplane.hash("TUNNELS").insert(key, tunnel, 0).unwrap();
        }
    }

    /// Likewise in one of IP-in-IP, for IPv4 alone; the program that is the other side of the devices is there as long as what is given back.
    /// What leaves the node is cut up there.
    pub(crate) fn ipip(&mut self) -> [tun::End; 2] {
        for namespace in [&self.client, &self.server, &self.remote] {
            let _inside = namespace.enter().unwrap();
            ip(&format!("link set eth0 mtu {IPIP_MTU}"));
        }
        let [v4, _] = families();
        let (IpAddr::V4(node), IpAddr::V4(router)) = (v4.node, v4.router) else { panic!("IPv4 comes first") };
        let end = |to: Ipv4Addr, (network, bits): (IpAddr, u32)| {
            let end = tun::End::new(IPIP_DEVICE, IPIP_MTU, to);
            ip(&format!("route replace {network}/{bits} via {to} dev {IPIP_DEVICE} onlink"));
            end
        };
        let near = end(router, v4.pods[1]);
        let far = {
            let _inside = self.router.enter().unwrap();
            end(node, v4.pods[0])
        };
        tun::without_offload("uplink");
        let ifindex = ifindex(IPIP_DEVICE);
        self.dataplane.add_bare(ifindex);
        self.dataplane.attach(IPIP_DEVICE, "from_tunnel", "to_tunnel");
        let key = TunnelKey { ifindex, padding: [0; 4], next_hop: v4.router.into() };
        let (local, remote) = (node.octets(), router.octets());
        let tunnel = Tunnel { local, remote, kind: IPIP, ..Tunnel::default() };
        self.dataplane.hash("TUNNELS").insert(key, tunnel, 0).unwrap();
        [near, far]
    }

    /// Addresses and routes, and all neighbours, so that nobody asks for one.
    fn configure(&self) {
        let [v4, v6] = families();
        for f in [v4, v6] {
            let (bits, nodad) = if f.node.is_ipv4() { (32, "") } else { (128, " nodad") };
            forward(&f);
            for (link, address, last) in [("client", f.client, 1), ("server", f.server, 2)] {
                ip(&format!("route add {address}/{bits} dev {link}"));
                neighbour(address, last + 10, link);
                let _inside = if last == 1 { &self.client } else { &self.server }.enter().unwrap();
                ip(&format!("addr add {address}/{bits} dev eth0{nodad}"));
                neighbour(f.gateway, last, "eth0");
                ip(&format!("route add default via {} dev eth0 onlink", f.gateway));
            }
            ip(&format!("addr add {}/{} dev uplink{nodad}", f.node, bits - 8));
            ip(&format!("route add {}/{} via {}", f.pods[1].0, f.pods[1].1, f.router));
            neighbour(f.router, 13, "uplink");
            {
                let _inside = self.router.enter().unwrap();
                forward(&f);
                ip(&format!("addr add {}/{} dev node{nodad}", f.router, bits - 8));
                ip(&format!("addr add {}/{} dev inside{nodad}", f.router_inside, bits - 8));
                ip(&format!("route add {}/{} via {}", f.pods[0].0, f.pods[0].1, f.node));
                ip(&format!("route add {} dev inside", f.remote));
                neighbour(f.node, 3, "node");
                neighbour(f.remote, 14, "inside");
            }
            let _inside = self.remote.enter().unwrap();
            ip(&format!("addr add {}/{bits} dev eth0{nodad}", f.remote));
            neighbour(f.gateway, 4, "eth0");
            ip(&format!("route add default via {} dev eth0 onlink", f.gateway));
        }
    }
}

/// One end of the tunnel, in the current namespace: the last octets of its and the other's link-layer addresses, and the pods behind it.
fn tunnel_end(local: Ipv4Addr, remote: Ipv4Addr, [own, other]: [u8; 2], to: fn(&Family) -> (IpAddr, u32)) {
    let (address, far) = (MacAddr::new(mac(own)), MacAddr::new(mac(other)));
    ip(&format!(
        "link add vxlan address {address} mtu {TUNNEL_MTU} type vxlan id 7 local {local} dstport 4789 nolearning"
    ));
    ip("link set vxlan up");
    let fdb = format!("fdb replace {far} dev vxlan dst {remote} self permanent");
    assert!(Command::new("bridge").args(fdb.split(' ')).status().unwrap().success(), "{fdb}");
    for family in families() {
        let (network, bits) = to(&family);
        let gateway = if network.is_ipv4() { network.to_string() } else { format!("fe80::{other}") };
        ip(&format!("route replace {network}/{bits} via {gateway} dev vxlan onlink"));
        ip(&format!("neigh replace {gateway} lladdr {far} dev vxlan nud permanent"));
    }
}

fn forward(family: &Family) {
    let of = if family.node.is_ipv4() { "ipv4" } else { "ipv6" };
    std::fs::write(format!("/proc/sys/net/{of}/conf/all/forwarding"), "1").unwrap();
}

fn neighbour(address: IpAddr, last: u8, link: &str) {
    let mac = MacAddr::new(mac(last));
    ip(&format!("neigh replace {address} lladdr {mac} dev {link} nud permanent"));
}

fn pair(near: &str, near_last: u8, far: &str, far_last: u8, namespace: &Namespace) {
    let (near_name, far_name) = (near.parse().unwrap(), far.parse().unwrap());
    let veth = Veth {
        near: End { name: &near_name, address: Some(MacAddr::new(mac(near_last))), netns: None },
        far: End {
            name: &far_name,
            address: Some(MacAddr::new(mac(far_last))),
            netns: Some(namespace.as_fd()),
        },
        mtu: Mtu::new(1500),
    };
    Socket::open().unwrap().execute(&link::add_veth(&veth)).unwrap();
    ip(&format!("link set {near} up"));
    let _inside = namespace.enter().unwrap();
    ip("link set lo up");
    ip(&format!("link set {far} up"));
}

pub(crate) fn ifindex(name: &str) -> u32 {
    let name = name.parse().unwrap();
    link::by_name(&mut Socket::open().unwrap(), &name).unwrap().unwrap().index.number()
}

/// Loads rules of nftables into the current namespace.
pub(crate) fn nft(rules: &str) {
    use std::io::Write;
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

/// A socket of UDP in a namespace, which does not wait for ever.
pub(crate) fn udp(namespace: &Namespace, address: IpAddr) -> UdpSocket {
    let _inside = namespace.enter().unwrap();
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Sends one datagram from the first to the second, at the address by which it knows it, and back.
pub(crate) fn ping(from: &UdpSocket, to: &UdpSocket, known_as: SocketAddr, octets: usize) {
    let datagram: Vec<u8> = (0..octets).map(|index| u8::try_from(index % 251).unwrap()).collect();
    let mut buffer = vec![0; octets + 1];
    from.send_to(&datagram, known_as).unwrap();
    let (length, source) = to.recv_from(&mut buffer).expect("the datagram arrives");
    assert_eq!(buffer[..length], datagram);
    to.send_to(&datagram, source).unwrap();
    let (length, source) = from.recv_from(&mut buffer).expect("the answer arrives");
    assert_eq!((&buffer[..length], source), (datagram.as_slice(), known_as));
}

/// A connection of TCP between two namespaces; the client knows the server as `known_as`.
pub(crate) fn connect(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    known_as: impl FnOnce(u16) -> SocketAddr,
) -> (TcpStream, TcpStream) {
    let listener = {
        let _inside = to.enter().unwrap();
        TcpListener::bind((address, 0)).unwrap()
    };
    let port = listener.local_addr().unwrap().port();
    let near = {
        let _inside = from.enter().unwrap();
        TcpStream::connect_timeout(&known_as(port), Duration::from_secs(5)).expect("connect")
    };
    let (far, _) = listener.accept().unwrap();
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    (near, far)
}

/// Sends so many octets from one to the other, and asserts that they arrive as they were.
pub(crate) fn transfer(mut from: &TcpStream, mut to: &TcpStream, octets: usize) {
    use std::io::{Read, Write};
    let sent: Vec<u8> = (0..octets).map(|index| u8::try_from((index / 3) % 253).unwrap()).collect();
    let mut received = vec![0; octets];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).unwrap());
        to.read_exact(&mut received).unwrap();
    });
    assert!(sent == received, "the octets are others");
}
