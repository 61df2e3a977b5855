//! The speaker in the middle of BIRD, FRR and GoBGP, each in a namespace of its own on one link.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use margay_bgp::config::{BfdOptions, Config, Neighbor, Network};
use margay_bgp::control::{Client, ControlError, NeighborStatus, RouteView, Status};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::{Namespace, Process, binary, contains, eventually, ip, prefix, run, speaker_binary};

/// The networks that the speaker originates.
pub(crate) const OURS: [&str; 2] = ["203.0.113.0/25", "2001:db8:200::/40"];

/// Whose implementation a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Daemon {
    Bird,
    Frr,
    Gobgp,
}

/// What a peer is to do besides the usual.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a line of a configuration or none")]
pub(crate) struct Setup {
    pub(crate) daemon: Daemon,
    pub(crate) asn: u32,
    pub(crate) password: Option<&'static str>,
    pub(crate) ttl_security: bool,
    /// Several paths to a prefix, both ways.
    pub(crate) add_path: bool,
    /// Seconds for which its routes may be kept.
    pub(crate) restart_time: u32,
    /// Seconds beyond that; 0: no long-lived restart.
    pub(crate) long_lived_time: u32,
    /// Whether it knows four-octet AS numbers.
    pub(crate) four_octet_as: bool,
    /// Speak over link-local addresses.
    pub(crate) link_local: bool,
    /// Speak over IPv6.
    pub(crate) ipv6: bool,
    /// Have BFD watch the path.
    pub(crate) bfd: bool,
    /// As a neighbour that may be behind a router; FRR only.
    pub(crate) multihop: bool,
    /// The next hops of its IPv4 and IPv6 routes, if not itself; BIRD only.
    pub(crate) next_hops: Option<[&'static str; 2]>,
    /// Megabits a second that its routes are worth; BIRD and FRR only.
    pub(crate) bandwidth: Option<u16>,
    /// The networks that it originates.
    pub(crate) networks: Vec<&'static str>,
}

impl Setup {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self {
            daemon,
            asn: 64496,
            password: None,
            ttl_security: false,
            add_path: false,
            restart_time: 60,
            long_lived_time: 0,
            four_octet_as: true,
            link_local: false,
            ipv6: false,
            bfd: false,
            multihop: false,
            next_hops: None,
            bandwidth: None,
            networks: vec!["198.51.100.0/25", "198.51.100.128/25", "2001:db8:100::/40"],
        }
    }
}

/// A peer in its namespace.
pub(crate) struct Peer {
    pub(crate) process: Option<Process>,
    /// Those that FRR's BGP daemon needs beside it.
    helpers: Vec<Process>,
    pub(crate) setup: Setup,
    /// The last part of its addresses.
    pub(crate) last: u32,
    neighbor_as: u32,
    namespace: Namespace,
    folder: TempDir,
}

/// How a daemon begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// For the first time.
    Fresh,
    /// To come back from a graceful restart.
    Recovering,
}

impl Peer {
    pub(crate) fn address(&self) -> String {
        self.of_transport(self.last)
    }

    /// The speaker's address on the session.
    fn neighbor(&self) -> String {
        self.of_transport(2)
    }

    fn of_transport(&self, last: u32) -> String {
        match (self.setup.link_local, self.setup.ipv6) {
            (true, _) => format!("fe80::{last}"),
            (false, true) => format!("2001:db8::{last}"),
            (false, false) => format!("192.0.2.{last}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn of_family(&self, v6: bool) -> impl Iterator<Item = &&'static str> {
        self.setup.networks.iter().filter(move |network| network.contains(':') == v6)
    }

    /// A line of configuration for each network of a family.
    fn lines(&self, v6: bool, before: &str, after: &str) -> String {
        self.of_family(v6).flat_map(|network| [before, network, after, "\n"]).collect()
    }

    pub(crate) fn start(&mut self, start: Start) {
        // GoBGP would not listen where a killed one did.
        drop(std::fs::remove_file(self.path("control")));
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let config = self.path("config");
        let folder = self.folder.path().display().to_string();
        match self.setup.daemon {
            Daemon::Bird => {
                std::fs::write(&config, self.bird_config()).unwrap();
                let control = self.path("control");
                let mut arguments: Vec<&OsStr> =
                    vec!["-f".as_ref(), "-c".as_ref(), config.as_ref(), "-s".as_ref(), control.as_ref()];
                if start == Start::Recovering {
                    arguments.push("-R".as_ref());
                }
                self.process = Some(Process::start(&self.namespace, "bird", &arguments, log));
            }
            Daemon::Frr => {
                std::fs::write(&config, self.frr_config()).unwrap();
                let config = config.display().to_string();
                if self.setup.bfd {
                    self.start_bfdd(&folder);
                }
                let (pid, zserv) = (format!("{folder}/pid"), format!("{folder}/zserv"));
                // Without its user, without a port for telnet, and without zebra unless it leads to BFD.
                let mut line = vec!["-f", &config, "-S", "-P", "0", "-i", &pid, "--vty_socket", &folder];
                line.extend(["--log", "stdout"]);
                let zebra: &[&str] = if self.setup.bfd { &["-z", &zserv] } else { &["-Z"] };
                line.extend(zebra);
                let arguments: Vec<&OsStr> = line.into_iter().map(OsStr::new).collect();
                self.process = Some(Process::start(&self.namespace, "/usr/lib/frr/bgpd", &arguments, log));
            }
            Daemon::Gobgp => {
                std::fs::write(&config, self.gobgp_config()).unwrap();
                let hosts = format!("unix://{folder}/control");
                let config = config.display().to_string();
                let mut line = vec!["-t", "toml", "-p", "-l", "debug", "-f", &config, "--api-hosts", &hosts];
                if start == Start::Recovering {
                    line.push("-r");
                }
                let arguments: Vec<&OsStr> = line.into_iter().map(OsStr::new).collect();
                self.process = Some(Process::start(&self.namespace, "gobgpd", &arguments, log));
            }
        }
        eventually("the daemon answers", || self.try_ask(self.status_command()).map(drop));
        if self.setup.daemon == Daemon::Gobgp {
            for network in self.of_family(false) {
                self.ask(&format!("global rib add {network} nexthop 192.0.2.{}", self.last));
            }
            for network in self.of_family(true) {
                self.ask(&format!("global rib add -a ipv6 {network} nexthop 2001:db8::{}", self.last));
            }
        }
    }

    /// Has BIRD read its configuration again.
    pub(crate) fn configure(&self) {
        std::fs::write(self.path("config"), self.bird_config()).unwrap();
        self.ask("configure");
    }

    /// FRR's BGP daemon asks its BFD daemon through zebra. Both insist on a user of their own.
    fn start_bfdd(&mut self, folder: &str) {
        run("chown", ["frr:frr", folder]);
        run("chmod", ["755", folder]);
        let bfdctl = format!("{folder}/bfdctl");
        for (daemon, own) in [("zebra", [].as_slice()), ("bfdd", &["--bfdctl", &bfdctl])] {
            let file = |what: &str| format!("{folder}/{daemon}.{what}");
            let (config, pid, zserv) = (file("conf"), file("pid"), format!("{folder}/zserv"));
            std::fs::write(&config, "").unwrap();
            let mut line = vec!["-f", &config, "-P", "0", "-i", &pid, "-z", &zserv, "--vty_socket", folder];
            line.extend(["--log", "stdout"]);
            line.extend(own);
            let arguments: Vec<&OsStr> = line.into_iter().map(OsStr::new).collect();
            let log = File::create(file("log")).unwrap();
            let program = format!("/usr/lib/frr/{daemon}");
            self.helpers.push(Process::start(&self.namespace, program, &arguments, log));
            let socket = self.path(&format!("{daemon}.vty"));
            eventually("the daemon listens", || {
                if socket.exists() { Ok(()) } else { Err(std::fs::read_to_string(file("log")).unwrap()) }
            });
        }
    }

    /// What the daemon shows of BFD with us.
    pub(crate) fn bfd(&self) -> Result<String, String> {
        self.try_ask(match self.setup.daemon {
            Daemon::Bird => "show bfd sessions",
            Daemon::Frr => "show bfd peers json",
            Daemon::Gobgp => return Err("GoBGP has no BFD".to_owned()),
        })
    }

    /// `Ok` while the daemon holds the path to us to be good, or broken.
    pub(crate) fn is_bfd(&self, up: bool) -> Result<(), String> {
        let (mark_up, mark_down) = match self.setup.daemon {
            Daemon::Bird => (" Up ", " Down "),
            _ => ("\"status\":\"up\"", "\"status\":\"down\""),
        };
        contains(&self.bfd()?, &[if up { mark_up } else { mark_down }])
    }

    /// Ends the daemon without a word to anybody.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().end(Signal::SIGKILL);
    }

    fn bird_config(&self) -> String {
        let Setup { asn, restart_time, long_lived_time, .. } = self.setup;
        let (last, neighbor_as) = (self.last, self.neighbor_as);
        let own = self.address();
        let neighbor = if self.setup.link_local { "fe80::2 % 'eth0'".to_owned() } else { self.neighbor() };
        let mut statics = String::new();
        for (v6, channel) in [(false, "ipv4"), (true, "ipv6")] {
            let bandwidth = self.setup.bandwidth.map(|megabits| {
                // In octets a second, as what IEEE 754 makes of it.
                let bits = (f32::from(megabits) * 125_000.0).to_bits();
                format!(" {{ bgp_ext_community.add((generic, 0x4004fbf0, {bits:#x})); }}")
            });
            let after = format!(" blackhole{};", bandwidth.unwrap_or_default());
            let routes = self.lines(v6, "route ", &after);
            // A second one says the same, which is two paths to whoever takes several.
            for copy in 0..=u8::from(self.setup.add_path) {
                writeln!(statics, "protocol static {channel}_{copy} {{ {channel}; {routes} }}").unwrap();
            }
        }
        let mut session = String::new();
        if let Some(password) = self.setup.password {
            write!(session, "password \"{password}\";").unwrap();
        }
        if self.setup.ttl_security {
            session += "ttl security on;";
        }
        if !self.setup.four_octet_as {
            session += "enable as4 off;";
        }
        if long_lived_time > 0 {
            write!(session, "long lived graceful restart on; long lived stale time {long_lived_time};")
                .unwrap();
        }
        let mut bfd = "";
        if self.setup.bfd {
            session += "bfd on;";
            bfd = "protocol bfd { interface \"*\" { interval 300 ms; multiplier 3; }; \
                   multihop { interval 300 ms; multiplier 3; }; }";
        }
        let add_path = if self.setup.add_path { "add paths on;" } else { "" };
        let extended = if self.setup.link_local { "extended next hop on;" } else { "" };
        let next_hops = match self.setup.next_hops {
            Some(next_hops) => next_hops.map(str::to_owned),
            None => [format!("192.0.2.{last}"), format!("2001:db8::{last}")],
        };
        let [ipv4, ipv6] = next_hops.map(|address| format!("next hop address {address};"));
        let ipv4 = if self.setup.link_local { String::new() } else { ipv4 };
        format!(
            "router id 192.0.2.{last};
            log \"{log}\" all;
            debug protocols {{ states, packets }};
            protocol device {{}}
            {bfd}
            {statics}
            protocol bgp peer {{
                local {own} as {asn}; neighbor {neighbor} as {neighbor_as};
                error wait time 1, 2; connect retry time 1; connect delay time 1;
                graceful restart on; graceful restart time {restart_time}; {session}
                ipv4 {{ import all; export where source = RTS_STATIC; {ipv4} {add_path} {extended} }};
                ipv6 {{ import all; export where source = RTS_STATIC; {ipv6} {add_path} }};
            }}",
            log = self.path("log").display(),
        )
    }

    fn frr_config(&self) -> String {
        let Setup { asn, restart_time, long_lived_time, .. } = self.setup;
        let (last, neighbor_as, neighbor) = (self.last, self.neighbor_as, self.neighbor());
        let mut session = String::new();
        if let Some(password) = self.setup.password {
            writeln!(session, " neighbor {neighbor} password {password}").unwrap();
        }
        if self.setup.ttl_security {
            writeln!(session, " neighbor {neighbor} ttl-security hops 1").unwrap();
        }
        if self.setup.multihop {
            writeln!(session, " neighbor {neighbor} ebgp-multihop 2").unwrap();
        }
        if self.setup.bfd {
            writeln!(session, " neighbor {neighbor} bfd 3 300 300").unwrap();
        }
        if long_lived_time > 0 {
            writeln!(session, " bgp long-lived-graceful-restart stale-time {long_lived_time}").unwrap();
        }
        let networks = |v6| self.lines(v6, "  network ", "");
        let (mut v4_map, mut bandwidth) = (String::new(), String::new());
        if let Some(megabits) = self.setup.bandwidth {
            v4_map = format!("  neighbor {neighbor} route-map v4 out\n");
            bandwidth = format!(" set extcommunity bandwidth {megabits}\n");
        }
        let add_path = if self.setup.add_path {
            format!("  neighbor {neighbor} addpath-tx-all-paths\n")
        } else {
            String::new()
        };
        format!(
            "frr defaults traditional
router bgp {asn}
 bgp router-id 192.0.2.{last}
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time {restart_time}
 neighbor {neighbor} remote-as {neighbor_as}
 neighbor {neighbor} timers connect 1
{session} address-family ipv4 unicast
{v4}{v4_map}{add_path} exit-address-family
 address-family ipv6 unicast
  neighbor {neighbor} activate
  neighbor {neighbor} route-map v6 out
{v6}{add_path} exit-address-family
route-map v6 permit 10
 set ipv6 next-hop global 2001:db8::{last}
{bandwidth}route-map v4 permit 10
{bandwidth}",
            v4 = networks(false),
            v6 = networks(true),
        )
    }

    fn gobgp_config(&self) -> String {
        let Setup { asn, restart_time, long_lived_time, .. } = self.setup;
        let neighbor_as = self.neighbor_as;
        let neighbor = if self.setup.link_local { "fe80::2%eth0" } else { "192.0.2.2" };
        let password =
            self.setup.password.map(|password| format!("auth-password = \"{password}\"")).unwrap_or_default();
        let long_lived = if long_lived_time > 0 { "long-lived-enabled = true" } else { "" };
        let ttl = if self.setup.ttl_security {
            "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n"
        } else {
            ""
        };
        let mut families = String::new();
        for family in ["ipv4-unicast", "ipv6-unicast"] {
            writeln!(
                families,
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n\
                 [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true"
            )
            .unwrap();
            if self.setup.add_path {
                families += "[neighbors.afi-safis.add-paths.config]\nreceive = true\nsend-max = 8\n";
            }
            if long_lived_time > 0 {
                writeln!(
                    families,
                    "[neighbors.afi-safis.long-lived-graceful-restart.config]\nenabled = true\nrestart-time = {long_lived_time}"
                )
                .unwrap();
            }
        }
        format!(
            "[global.config]\nas = {asn}\nrouter-id = \"192.0.2.{last}\"\n\
             [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{neighbor}\"\npeer-as = {neighbor_as}\n{password}\n\
             [neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\n\
             [neighbors.graceful-restart.config]\nenabled = true\nrestart-time = {restart_time}\n{long_lived}\n\
             {ttl}{families}",
            last = self.last,
        )
    }

    fn status_command(&self) -> &'static str {
        match self.setup.daemon {
            Daemon::Bird => "show status",
            Daemon::Frr => "show bgp summary json",
            Daemon::Gobgp => "neighbor",
        }
    }

    /// What the daemon's own client says.
    pub(crate) fn try_ask(&self, command: &str) -> Result<String, String> {
        let mut client = match self.setup.daemon {
            Daemon::Bird => {
                let mut client = client("birdc");
                client.arg("-s").arg(self.path("control")).args(command.split_whitespace());
                client
            }
            Daemon::Frr => {
                let mut client = client("vtysh");
                client.arg("--vty_socket").arg(self.folder.path());
                for part in command.split(';') {
                    client.args(["-c", part.trim()]);
                }
                client
            }
            Daemon::Gobgp => {
                let mut client = client("gobgp");
                client.arg("--target").arg(format!("unix://{}", self.path("control").display()));
                client.args(command.split_whitespace());
                client
            }
        };
        let output = client.output().map_err(|error| format!("{client:?}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // vtysh has no exit code of its own when nobody listens.
        if output.status.success() && !text.contains("is not running") && !text.contains("failed to connect")
        {
            Ok(text)
        } else {
            Err(text + &String::from_utf8_lossy(&output.stderr))
        }
    }

    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    /// What the daemon shows of the session with us.
    pub(crate) fn session(&self) -> Result<String, String> {
        let neighbor = self.neighbor();
        self.try_ask(&match self.setup.daemon {
            Daemon::Bird => "show protocols all peer".to_owned(),
            Daemon::Frr => format!("show bgp neighbors {neighbor} json"),
            Daemon::Gobgp if self.setup.link_local => format!("neighbor {neighbor}%eth0"),
            Daemon::Gobgp => format!("neighbor {neighbor}"),
        })
    }

    /// `Ok` while the daemon holds the session to be up.
    pub(crate) fn is_established(&self) -> Result<(), String> {
        let session = self.session()?;
        let mark = match self.setup.daemon {
            Daemon::Bird => "BGP state:          Established",
            Daemon::Frr => "\"bgpState\":\"Established\"",
            Daemon::Gobgp => "BGP state = ESTABLISHED",
        };
        contains(&session, &[mark])
    }

    /// What the daemon shows of a prefix, all paths and attributes; an error if it has none.
    pub(crate) fn route(&self, network: &str) -> Result<String, String> {
        let family = if network.contains(':') { "ipv6" } else { "ipv4" };
        let (command, mark) = match self.setup.daemon {
            Daemon::Bird => (format!("show route for {network} all"), "BGP.origin"),
            Daemon::Frr => (format!("show bgp {family} unicast {network} json"), "\"paths\""),
            Daemon::Gobgp => (format!("global rib -a {family} {network} -j"), "\"nlri\""),
        };
        let shown = self.try_ask(&command)?;
        contains(&shown, &[mark]).map(|()| shown)
    }

    /// `Ok` if it has both of our networks.
    pub(crate) fn has_ours(&self) -> Result<(), String> {
        OURS.iter().try_for_each(|network| self.route(network).map(drop))
    }

    /// Stops to announce a network.
    pub(crate) fn withdraw(&self, network: &str) {
        let family = if network.contains(':') { "ipv6" } else { "ipv4" };
        match self.setup.daemon {
            Daemon::Bird => drop(self.ask(&format!("disable {family}_0"))),
            Daemon::Frr => drop(self.ask(&format!(
                "configure terminal; router bgp {}; address-family {family} unicast; no network {network}",
                self.setup.asn
            ))),
            Daemon::Gobgp => drop(self.ask(&format!("global rib del -a {family} {network}"))),
        }
    }
}

/// The client of a daemon; that of GoBGP waits for ever where nobody answers.
fn client(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["5", program]);
    command
}

/// The speaker and its peers.
pub(crate) struct Lab {
    // Dropped in this order: processes before the namespaces that they are in.
    pub(crate) speaker: Option<Process>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) asn: u32,
    runtime: OnceCell<tokio::runtime::Runtime>,
    pub(crate) node: Namespace,
    folder: TempDir,
}

impl Lab {
    /// A link with all of them on it, on which nothing runs yet. Peers have the addresses .1, .3, .4 and so on.
    pub(crate) fn new(asn: u32, setups: Vec<Setup>) -> Self {
        let node = Namespace::new("n");
        node.ip("link add eth0 type bridge");
        node.ip("addr add 192.0.2.2/24 dev eth0");
        node.ip("addr add 2001:db8::2/64 dev eth0 nodad");
        node.ip("addr add fe80::2/64 dev eth0 nodad");
        node.ip("link set eth0 up");
        let peers = setups.into_iter().zip([1, 3, 4, 5]).map(|(setup, last)| {
            let namespace = Namespace::new("p");
            ip(&format!(
                "link add port{last} netns {} type veth peer name eth0 netns {}",
                node.name, namespace.name
            ));
            node.ip(&format!("link set port{last} master eth0 up"));
            namespace.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"));
            namespace.ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"));
            namespace.ip(&format!("addr add fe80::{last}/64 dev eth0 nodad"));
            namespace.ip("link set eth0 up");
            let folder = tempfile::tempdir().unwrap();
            Peer { process: None, helpers: Vec::new(), setup, last, neighbor_as: asn, namespace, folder }
        });
        let peers = peers.collect();
        let folder = tempfile::tempdir().unwrap();
        Self { speaker: None, peers, asn, runtime: OnceCell::new(), node, folder }
    }

    /// All of them running and in touch, with all routes where they belong.
    pub(crate) fn converged(asn: u32, setups: Vec<Setup>) -> Self {
        let mut lab = Self::new(asn, setups);
        lab.start_all(&lab.config());
        lab.wait_converged();
        lab
    }

    pub(crate) fn start_all(&mut self, config: &Config) {
        for peer in &mut self.peers {
            peer.start(Start::Fresh);
        }
        self.start_speaker();
        self.configure(config);
    }

    pub(crate) fn wait_converged(&self) {
        for peer in &self.peers {
            self.wait_established(peer);
            eventually("the peer has our networks", || peer.has_ours());
            eventually("we have the peer's networks", || {
                let known = self.routes_of(peer);
                let missing = peer
                    .setup
                    .networks
                    .iter()
                    .find(|network| !known.iter().any(|route| route.prefix == prefix(network)));
                missing.map_or(Ok(()), |missing| Err(format!("no {missing} among {known:?}")))
            });
        }
    }

    pub(crate) fn wait_established(&self, peer: &Peer) {
        eventually("the session is up on both ends", || {
            peer.is_established()?;
            contains(&self.neighbor(peer)?.state, &["Established"])
        });
    }

    pub(crate) fn start_speaker(&mut self) {
        self.start_speaker_with(&[]);
    }

    pub(crate) fn start_speaker_with(&mut self, flags: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let control = self.path("control");
        let mut arguments: Vec<&OsStr> = vec!["--control".as_ref(), control.as_ref()];
        arguments.extend(flags.iter().map(OsStr::new));
        self.speaker = Some(Process::start(&self.node, speaker_binary(), &arguments, log));
        eventually("the speaker answers", || self.try_status().map(drop));
    }

    /// Ends the speaker without a word to anybody.
    pub(crate) fn kill_speaker(&mut self) {
        self.speaker.take().unwrap().end(Signal::SIGKILL);
    }

    /// The speaker's side of all sessions, with what the peers' setups need of it.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::from_yaml(&format!("asn: {}\nrouter_id: 192.0.2.2", self.asn)).unwrap();
        config.networks = OURS.map(|text| Network::from(prefix(text))).to_vec();
        config.connect_retry = 1;
        config.ebgp_requires_policy = false;
        config.neighbors = self
            .peers
            .iter()
            .map(|peer| {
                let Setup { asn, ttl_security, password, add_path, long_lived_time, bfd, .. } = peer.setup;
                let mut neighbor =
                    Neighbor::new(peer.address().parse().unwrap(), asn.to_string().parse().unwrap());
                neighbor.ttl_security = ttl_security.then_some(1);
                neighbor.password =
                    password.map(|password| margay_bgp::config::Password(password.to_owned()));
                if add_path {
                    neighbor.add_path = margay_bgp::config::AddPathOption::Both;
                }
                neighbor.ttl = peer.setup.multihop.then_some(2);
                neighbor.bfd = bfd.then(BfdOptions::default);
                neighbor.graceful_restart.long_lived_time = long_lived_time;
                neighbor.interface = peer.setup.link_local.then(|| "eth0".to_owned());
                neighbor
            })
            .collect();
        config
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn control<T>(
        &self,
        ask: impl AsyncFnOnce(&mut Client) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let runtime = self
            .runtime
            .get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        runtime.block_on(async { ask(&mut Client::connect(self.path("control")).await?).await })
    }

    pub(crate) fn configure(&self, config: &Config) {
        self.control(async |client| client.configure(config).await).unwrap();
    }

    /// What `margayctl bgp` answers: standard output, or else the error.
    pub(crate) fn margayctl(&self, arguments: &str) -> Result<String, String> {
        let mut command = Command::new(binary("margayctl"));
        command.args(["bgp", "--socket"]).arg(self.path("control")).args(arguments.split_whitespace());
        let output = command.output().unwrap();
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What the speaker shows Prometheus at this address of its own.
    pub(crate) fn metrics(&self, address: std::net::SocketAddr) -> Result<String, String> {
        let script = format!(
            "exec 3<>/dev/tcp/{}/{}; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3",
            address.ip(),
            address.port(),
        );
        let mut command = Command::new("ip");
        let output =
            command.args(["netns", "exec", &self.node.name, "bash", "-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if text.ends_with("# EOF\n") { Ok(text) } else { Err(text) }
    }

    pub(crate) fn try_status(&self) -> Result<Status, String> {
        self.control(Client::status).map_err(|error| error.to_string())
    }

    pub(crate) fn dump(&self, file: &Path) -> Result<(), ControlError> {
        self.control(async |client| client.dump(file).await)
    }

    /// What the speaker says of its session with a peer.
    pub(crate) fn neighbor(&self, peer: &Peer) -> Result<NeighborStatus, String> {
        let status = self.try_status()?;
        let found = status.neighbors.iter().find(|neighbor| neighbor.address.to_string() == peer.address());
        found.cloned().ok_or_else(|| format!("{status:?}"))
    }

    /// The paths that a peer told us.
    pub(crate) fn routes_of(&self, peer: &Peer) -> Vec<RouteView> {
        let address = peer.address().parse().unwrap();
        let routes = self.control(Client::routes).unwrap();
        routes.into_iter().filter(|route| route.neighbor == Some(address)).collect()
    }

    pub(crate) fn kernel_routes(&self) -> String {
        self.node.ip("-4 route show proto bgp") + &self.node.ip("-6 route show proto bgp")
    }

    /// A counter of the kernel's TCP in the speaker's namespace.
    pub(crate) fn tcp_counter(&self, name: &str) -> u64 {
        let netstat = ip(&format!("netns exec {} cat /proc/net/netstat", self.node.name));
        let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
        let (names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.into_iter().position(|known| known == name).unwrap();
        values.nth(at).unwrap().parse().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            for peer in &self.peers {
                let log = peer.log();
                let tail = log.len().saturating_sub(6000);
                write!(text, "--- {:?}\n{}\n", peer.setup.daemon, log.get(tail..).unwrap_or_default())
                    .unwrap();
            }
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
    }
}
