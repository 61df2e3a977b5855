//! A node without traffic: its links, the maps that say what they are, and one packet at a time by `BPF_PROG_TEST_RUN`.

use std::{fs, net::IpAddr, os::fd::AsFd, process::Command, thread, time::Duration};

use aya::{
    programs::{TestRun, TestRunOptions},
    util::KernelVersion,
};
use margay_ebpf_common::{
    counter::Counter,
    endpoint::{Endpoint, PEER},
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    time::{ClockId, clock_gettime},
};

use crate::{dataplane::Dataplane, packet::Packet, sys::test_run};

/// A link that a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Of the pod that most packets come from.
    Client,
    /// Of the pod that they go to.
    Server,
    /// To other nodes.
    Uplink,
}

/// Three links, two pods and their peers elsewhere, of one family.
pub(crate) struct World {
    pub(crate) dataplane: Dataplane,
    pub(crate) client: (IpAddr, u16),
    pub(crate) server: (IpAddr, u16),
    pub(crate) remote: (IpAddr, u16),
    pub(crate) router: IpAddr,
    pub(crate) outside: (IpAddr, u16),
    pub(crate) is_ipv6: bool,
    links: [(u32, [u8; 6]); 3],
    /// Of `BPF_PROG_TEST_RUN`.
    flags: u32,
    /// The mark of packets.
    pub(crate) mark: u32,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fate {
    /// Whether it takes the short way; if not, it went to the stack with the octets it had.
    pub(crate) is_short: bool,
    /// What was counted.
    pub(crate) counted: Option<Counter>,
    /// Its octets.
    pub(crate) octets: Vec<u8>,
}

/// The policy sets of the pods.
pub(crate) const CLIENT_EGRESS: u32 = 7;
pub(crate) const SERVER_INGRESS: u32 = 8;
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(crate) const SERVER_HOST_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
/// MTU of the way to other nodes.
pub(crate) const UPLINK_MTU: usize = 1400;

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_REDIRECT: u32 = 7;
const TC_ACT_SHOT: u32 = 2;
/// Offsets in `__sk_buff` (`linux/bpf.h`), and its size.
const MARK: usize = 8;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;
const CONTEXT: usize = 192;
/// Flag of `BPF_PROG_TEST_RUN` (`linux/bpf.h`): the packet comes with the sum of its octets, as from a network card, and is not to go
/// without.
const CHECKSUM_COMPLETE: u32 = 1 << 2;
/// The first kernel that knows it.
const CHECKSUM_COMPLETE_SINCE: KernelVersion = KernelVersion::new(6, 11, 0);

/// Runs a test once for each family, in a network namespace of its own.
pub(crate) fn with_worlds(test: impl Fn(&mut World) + Sync) {
    for is_ipv6 in [false, true] {
        thread::scope(|scope| {
            let handle = scope.spawn(|| test(&mut World::new(is_ipv6)));
            if let Err(panic) = handle.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl World {
    fn new(is_ipv6: bool) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
        let links = ["client", "server", "uplink"].map(|name| {
            ip(&format!("link add {name} type veth peer name {name}-far"));
            ip(&format!("link set {name}-far up"));
            ip(&format!("link set {name} up mtu {}", if name == "uplink" { UPLINK_MTU } else { 1500 }));
            link(name)
        });
        let address = |v4: &str, v6: &str| -> IpAddr { if is_ipv6 { v6 } else { v4 }.parse().unwrap() };
        let mut world = Self {
            // One family with the barriers of machines that need them, so that these are run too.
            dataplane: Dataplane::load_for(u32::from(is_ipv6 || !cfg!(target_arch = "x86_64"))),
            client: (address("10.1.0.2", "fd00:1::2"), 40000),
            server: (address("10.1.0.3", "fd00:1::3"), 80),
            remote: (address("10.2.0.4", "fd00:2::4"), 80),
            router: address("192.0.2.1", "2001:db8::1"),
            outside: (address("203.0.113.5", "2001:db8:5::5"), 80),
            is_ipv6,
            links,
            flags: 0,
            mark: 0,
        };
        world.route(address("192.0.2.2", "2001:db8::2"));
        let pods = if is_ipv6 { ["fd00:1::", "fd00:2::"] } else { ["10.1.0.0", "10.2.0.0"] };
        for pods in pods {
            world.dataplane.add_pods((pods.parse().unwrap(), if is_ipv6 { 64 } else { 16 }));
        }
        let [client, server, uplink] = links.map(|(ifindex, _)| ifindex);
        let endpoint = Endpoint {
            flags: PEER,
            mtu: 1500,
            mac: CLIENT_MAC,
            host_mac: [2, 0, 0, 0, 2, 1],
            ..Endpoint::default()
        };
        world.dataplane.add_pod(client, Endpoint { egress: CLIENT_EGRESS, ..endpoint }, &[world.client.0]);
        let endpoint = Endpoint { mac: SERVER_MAC, host_mac: SERVER_HOST_MAC, ..endpoint };
        world.dataplane.add_pod(server, Endpoint { ingress: SERVER_INGRESS, ..endpoint }, &[world.server.0]);
        world.dataplane.add_uplink(uplink);
        world
    }

    /// The way to other nodes, and that packets are forwarded at all.
    fn route(&self, own: IpAddr) {
        let family = if self.is_ipv6 { "ipv6" } else { "ipv4" };
        for link in ["all", "client", "server", "uplink"] {
            fs::write(format!("/proc/sys/net/{family}/conf/{link}/forwarding"), "1").unwrap();
        }
        let nodad = if self.is_ipv6 { " nodad" } else { "" };
        ip(&format!("addr add {own}/24 dev uplink{nodad}"));
        ip(&format!("route add {} via {}", self.remote.0, self.router));
        ip(&format!("neigh replace {} lladdr 02:00:00:00:03:03 dev uplink nud permanent", self.router));
    }

    /// The index of a link.
    pub(crate) const fn ifindex(&self, of: From) -> u32 {
        self.links[of as usize].0
    }

    /// The link-layer address of a link.
    pub(crate) const fn mac(&self, of: From) -> [u8; 6] {
        self.links[of as usize].1
    }

    /// A packet, addressed to the link that it comes from.
    pub(crate) fn run(&mut self, from: From, packet: &Packet) -> Fate {
        let mac = self.mac(from);
        self.run_octets(from, &Packet { mac, ..packet.clone() }.octets(), 0)
    }

    /// Any octets; `gso_size` is the payload of the segments that they are to be cut into.
    pub(crate) fn run_octets(&mut self, from: From, octets: &[u8], gso_size: u32) -> Fate {
        let program = if from == From::Uplink { "from_uplink" } else { "from_pod" };
        let before = self.dataplane.all_counted();
        let (action, after_octets) = self.run_program(program, from, octets, gso_size);
        let after = self.dataplane.all_counted();
        let counted: Vec<Counter> = Counter::ALL
            .into_iter()
            .filter(|c| after[c.index() as usize] != before[c.index() as usize])
            .collect();
        assert!(counted.len() <= 1, "{counted:?}");
        let is_short = match action {
            TC_ACT_UNSPEC => false,
            TC_ACT_REDIRECT => true,
            TC_ACT_SHOT => {
                assert_eq!(counted, [Counter::Denied]);
                false
            }
            other => panic!("action {other}"),
        };
        assert!(is_short || after_octets == octets, "what goes to the stack is as it was");
        let is_counted_short =
            matches!(counted.as_slice(), [Counter::ToPod | Counter::ToNode | Counter::ToTunnel]);
        assert_eq!(is_short, is_counted_short);
        assert!(action == TC_ACT_SHOT || counted != [Counter::Denied]);
        Fate { is_short, counted: counted.first().copied(), octets: after_octets }
    }

    /// Octets that the kernel may refuse to run a program with, as they are no packet at all.
    pub(crate) fn try_octets(&mut self, from: From, octets: &[u8]) -> Option<Fate> {
        let program = if from == From::Uplink { "from_uplink" } else { "from_pod" };
        let options = TestRunOptions { data_in: Some(octets), ..TestRunOptions::new() };
        self.dataplane.program(program).test_run(options).is_ok().then(|| self.run_octets(from, octets, 0))
    }

    /// One of the programs that note what the stack sends.
    pub(crate) fn stack_sends(&mut self, program: &str, packet: &Packet) {
        let octets = packet.octets();
        let (action, after) = self.run_program(program, From::Server, &octets, 0);
        assert_eq!((action, after), (TC_ACT_UNSPEC, octets));
    }

    /// A `__sk_buff` of a packet at a link, which is to be cut into segments of so many octets if that is not zero.
    pub(crate) fn context(&self, at: From, gso_size: u32) -> [u8; CONTEXT] {
        let mut context = [0; CONTEXT];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&self.ifindex(at).to_ne_bytes());
        context[MARK..MARK + 4].copy_from_slice(&self.mark.to_ne_bytes());
        context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&gso_size.to_ne_bytes());
        context
    }

    /// Has packets from now on come with the sum of all of their octets from the IP header on, as network cards tell it, and a test fail in
    /// which that is not right any more afterwards. False when the kernel is too old for that.
    #[expect(clippy::print_stdout, reason = "who reads that a test passed is to know that it tested nothing")]
    pub(crate) fn sum_up(&mut self) -> bool {
        self.flags = CHECKSUM_COMPLETE;
        let octets = Packet::udp(self.outside, self.outside).octets();
        match self.try_program("from_pod", From::Client, &octets, 0) {
            Ok(_) => return true,
            Err(error) => assert_eq!(error, Errno::EINVAL, "a packet that is nobody's"),
        }
        let kernel = KernelVersion::current().unwrap();
        assert!(kernel < CHECKSUM_COMPLETE_SINCE, "{kernel:?} should know the flag");
        println!(
            "not tested: {kernel:?} has no packets with sums for tests; {CHECKSUM_COMPLETE_SINCE:?} has"
        );
        self.flags = 0;
        false
    }

    fn run_program(&mut self, name: &str, at: From, octets: &[u8], gso_size: u32) -> (u32, Vec<u8>) {
        let outcome = self.try_program(name, at, octets, gso_size);
        outcome.unwrap_or_else(|error| panic!("{name} at {at:?}, {} octets: {error}", octets.len()))
    }

    fn try_program(
        &mut self,
        name: &str,
        at: From,
        octets: &[u8],
        gso_size: u32,
    ) -> Result<(u32, Vec<u8>), Errno> {
        let context = self.context(at, gso_size);
        let mut out = vec![0; octets.len() + 256];
        let program = self.dataplane.program(name).fd().unwrap();
        let (action, length) = test_run(program.as_fd(), octets, &context, self.flags, &mut out)?;
        out.truncate(length);
        Ok((action, out))
    }

    /// Runs a packet and asserts what became of it.
    pub(crate) fn expect(&mut self, from: From, packet: &Packet, counted: Counter) -> Fate {
        let fate = self.run(from, packet);
        assert_eq!(fate.counted, Some(counted), "{from:?} {packet:?}");
        fate
    }
}

/// Nanoseconds since the start of the machine.
pub(crate) fn now() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    now.as_nanos().try_into().unwrap()
}

/// The index and the link-layer address of a link.
pub(crate) fn link(name: &str) -> (u32, [u8; 6]) {
    let shown = Command::new("ip").args(["-o", "link", "show", name]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let ifindex = shown.split(':').next().unwrap().parse().unwrap();
    let mac = shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let mac: Vec<u8> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    (ifindex, mac.try_into().unwrap())
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs `tc`.
pub(crate) fn tc(arguments: &str) {
    run("tc", arguments);
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
