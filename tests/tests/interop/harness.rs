//! Namespaces, processes and waiting, all undone on drop.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use margay_bgp::config::{Config, Neighbor, Network};
use margay_bgp::control::{Client, ControlError, RouteView, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

/// The one place that polls: BIRD has no way to tell what happens to it.
#[expect(clippy::disallowed_methods, reason = "the deadline is here, and BIRD can only be asked")]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut found = String::new();
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        match attempt() {
            Ok(value) => return value,
            Err(problem) => found = problem,
        }
        std::thread::sleep(POLL);
    }
    panic!("{what}: not within {PATIENCE:?}; at last: {found}");
}

/// `Ok` if the text has all of the parts.
pub(crate) fn contains(text: &str, parts: &[&str]) -> Result<(), String> {
    match parts.iter().find(|part| !text.contains(**part)) {
        None => Ok(()),
        Some(part) => Err(format!("no `{part}` in:\n{text}")),
    }
}

/// `Ok` if the text has none of the parts.
pub(crate) fn lacks(text: &str, parts: &[&str]) -> Result<(), String> {
    match parts.iter().find(|part| text.contains(**part)) {
        None => Ok(()),
        Some(part) => Err(format!("still `{part}` in:\n{text}")),
    }
}

pub(crate) fn run<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = command.output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}; the interop tests need root",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments.split_whitespace())
}

/// A network namespace, deleted on drop.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mgyt-{}-{number}-{role}", std::process::id());
        ip(&format!("netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.name]).status());
    }
}

/// A process, killed on drop.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(
        namespace: &Namespace,
        program: impl AsRef<OsStr>,
        arguments: &[&OsStr],
        output: File,
    ) -> Self {
        // `ip netns exec` becomes the program, so the child's process is the program's.
        let child = Command::new("ip")
            .args(["netns", "exec", &namespace.name])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Over which addresses, and within or between autonomous systems, the two speak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// The addresses of the session: BIRD's and ours.
    pub(crate) addresses: (&'static str, &'static str),
    pub(crate) local_as: u32,
}

pub(crate) const BIRD_AS: u32 = 64496;

/// eBGP over IPv4.
pub(crate) const EXTERNAL: Session = Session { addresses: ("192.0.2.1", "192.0.2.2"), local_as: 64497 };
/// iBGP over IPv6.
pub(crate) const INTERNAL: Session = Session { addresses: ("2001:db8::1", "2001:db8::2"), local_as: BIRD_AS };

/// BIRD in one namespace, the speaker in another.
pub(crate) struct Pair {
    // Dropped in this order: processes before the namespaces that they are in.
    pub(crate) bird: Option<Process>,
    pub(crate) speaker: Option<Process>,
    session: Session,
    runtime: tokio::runtime::Runtime,
    router: Namespace,
    node: Namespace,
    folder: TempDir,
}

impl Pair {
    /// Joined namespaces in which nothing runs yet.
    pub(crate) fn new(session: Session) -> Self {
        let (router, node) = (Namespace::new("r"), Namespace::new("n"));
        ip(&format!("link add eth0 netns {} type veth peer name eth0 netns {}", router.name, node.name));
        for (namespace, last) in [(&router, 1), (&node, 2)] {
            namespace.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"));
            namespace.ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"));
            namespace.ip("link set eth0 up");
        }
        // BIRD's second session, which the speaker knows of in one test only.
        // Each has a local address of its own, as BIRD locks the neighbour's address.
        router.ip("addr add 192.0.2.3/24 dev eth0");
        node.ip("addr add 192.0.2.4/24 dev eth0");
        router.ip("addr add 2001:db8::3/64 dev eth0 nodad");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { bird: None, speaker: None, session, runtime, router, node, folder }
    }

    /// Both running and in touch.
    pub(crate) fn established(session: Session) -> Self {
        let mut pair = Self::new(session);
        pair.start_bird();
        pair.start_speaker(&[]);
        pair.configure(&pair.config());
        pair.wait_established();
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// BIRD with two static routes to tell, on a session and on a second one from 192.0.2.3 and `2001:db8::3`.
    pub(crate) fn start_bird(&mut self) {
        let Session { addresses: (bird, speaker), local_as } = self.session;
        let log_path = self.path("bird.log");
        let log = log_path.display();
        let config = format!(
            "router id 192.0.2.1;
            log \"{log}\" all;
            debug protocols {{ states }};
            protocol device {{}}
            protocol static s4 {{ ipv4; route 198.51.100.0/24 blackhole {{
                bgp_community.add((64496,7)); }}; }}
            protocol static s6 {{ ipv6; route 2001:db8:100::/40 blackhole; }}
            protocol bgp peer {{
                local {bird} as {BIRD_AS}; neighbor {speaker} as {local_as};
                error wait time 1, 2; connect retry time 1; connect delay time 1;
                ipv4 {{ import all; export filter {{ if proto != \"s4\" then reject; bgp_med = 10; accept; }};
                    next hop address 192.0.2.1; }};
                ipv6 {{ import all; export where proto = \"s6\"; next hop address 2001:db8::1; }};
            }}
            protocol bgp second {{
                local 192.0.2.3 as {BIRD_AS}; neighbor 192.0.2.4 as {local_as}; passive;
                error wait time 1, 2; connect retry time 1; connect delay time 1;
                ipv4 {{ import none; export where proto = \"s4\"; next hop address 192.0.2.3; }};
                ipv6 {{ import none; export where proto = \"s6\"; next hop address 2001:db8::3; }};
            }}"
        );
        std::fs::write(self.path("bird.conf"), config).unwrap();
        let output = File::create(self.path("bird.out")).unwrap();
        let (config, control) = (self.path("bird.conf"), self.path("bird.ctl"));
        let arguments: [&OsStr; 5] =
            ["-f".as_ref(), "-c".as_ref(), config.as_ref(), "-s".as_ref(), control.as_ref()];
        self.bird = Some(Process::start(&self.router, "bird", &arguments, output));
        eventually("bird answers", || self.try_birdc("show status").map(drop));
    }

    pub(crate) fn start_speaker(&mut self, flags: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path("speaker.log")).unwrap();
        let control = self.path("bgp.sock");
        let mut arguments: Vec<&OsStr> = vec!["--control".as_ref(), control.as_ref()];
        arguments.extend(flags.iter().map(OsStr::new));
        self.speaker = Some(Process::start(&self.node, speaker_binary(), &arguments, log));
        eventually("the speaker answers", || self.try_status().map(drop));
    }

    /// The speaker's side of the session with two networks of its own.
    pub(crate) fn config(&self) -> Config {
        let Session { addresses: (bird, _), local_as } = self.session;
        let asn = |number: u32| number.to_string().parse().unwrap();
        let mut config = Config::from_yaml(&format!("asn: {local_as}\nrouter_id: 192.0.2.2")).unwrap();
        config.networks =
            ["203.0.113.0/25", "2001:db8:200::/40"].map(|text| Network::from(prefix(text))).to_vec();
        config.neighbors = vec![Neighbor::new(bird.parse().unwrap(), asn(BIRD_AS))];
        config.connect_retry = 1;
        config.ebgp_requires_policy = false;
        config
    }

    fn control<T>(
        &self,
        ask: impl AsyncFnOnce(&mut Client) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        self.runtime.block_on(async { ask(&mut Client::connect(self.path("bgp.sock")).await?).await })
    }

    pub(crate) fn configure(&self, config: &Config) {
        self.control(async |client| client.configure(config).await).unwrap();
    }

    pub(crate) fn try_configure(&self, config: &Config) -> Result<(), ControlError> {
        self.control(async |client| client.configure(config).await)
    }

    pub(crate) fn try_status(&self) -> Result<Status, String> {
        self.control(Client::status).map_err(|error| error.to_string())
    }

    pub(crate) fn routes(&self) -> Vec<RouteView> {
        self.control(Client::routes).unwrap()
    }

    /// The speaker's word for the state of the session with BIRD.
    pub(crate) fn state(&self) -> Result<String, String> {
        let status = self.try_status()?;
        let address: std::net::IpAddr = self.session.addresses.0.parse().unwrap();
        let neighbor = status.neighbors.iter().find(|neighbor| neighbor.address == address);
        neighbor.map(|neighbor| neighbor.state.clone()).ok_or_else(|| format!("{status:?}"))
    }

    pub(crate) fn wait_established(&self) {
        eventually("session is up on both ends", || {
            contains(&self.try_birdc("show protocols peer")?, &["Established"])?;
            contains(&self.state()?, &["Established"])
        });
    }

    /// How often the session changed its state at BIRD's end.
    pub(crate) fn state_changes(&self) -> usize {
        let log = std::fs::read_to_string(self.path("bird.log")).unwrap();
        log.lines().filter(|line| line.contains("peer: State changed to")).count()
    }

    pub(crate) fn try_birdc(&self, command: &str) -> Result<String, String> {
        let mut birdc = Command::new("birdc");
        birdc.arg("-s").arg(self.path("bird.ctl")).args(command.split_whitespace());
        let output = birdc.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    pub(crate) fn birdc(&self, command: &str) -> String {
        self.try_birdc(command).unwrap()
    }

    /// The kernel routes in the speaker's namespace that have its protocol, of both families.
    pub(crate) fn kernel_routes(&self) -> String {
        self.node.ip("-4 route show proto bgp") + &self.node.ip("-6 route show proto bgp")
    }

    /// Runs `ip` in the speaker's namespace.
    pub(crate) fn node_ip(&self, arguments: &str) -> String {
        self.node.ip(arguments)
    }

    /// A record of all changes to routes in the speaker's namespace, from now on.
    pub(crate) fn watch_routes(&self) -> RouteLog {
        let path = self.path("routes.log");
        let arguments = ["-o", "monitor", "route"].map(OsStr::new);
        let process = Process::start(&self.node, "ip", &arguments, File::create(&path).unwrap());
        let log = RouteLog { _process: process, path };
        // The record has begun once it shows a change made on purpose.
        let mut metric = 1000;
        eventually("the route monitor has begun", || {
            metric += 1;
            self.node.ip(&format!("route add blackhole 233.252.0.0/24 metric {metric}"));
            contains(&log.text(), &["233.252.0.0/24"])
        });
        log
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["speaker.log", "bird.log"] {
                let log = std::fs::read_to_string(self.path(name)).unwrap_or_default();
                let text = format!("--- {name}\n{log}");
                drop(std::io::stderr().write_all(text.as_bytes()));
            }
        }
    }
}

/// Changes to routes, as `ip monitor` writes them.
pub(crate) struct RouteLog {
    _process: Process,
    path: PathBuf,
}

impl RouteLog {
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }
}

pub(crate) fn prefix(text: &str) -> margay_bgp::Prefix {
    text.parse().unwrap()
}

/// The speaker that was built beside this test.
pub(crate) fn speaker_binary() -> PathBuf {
    binary("margay-bgp")
}

/// A program of ours.
pub(crate) fn binary(name: &str) -> PathBuf {
    margay_lab::program(name).unwrap()
}
