//! Wall time of CNI ADD and DEL, beside Debian's `ptp` with `host-local`.
//!
//! Both plugins take turns in one run, each call for a pod in a network namespace of its own; the node is a namespace
//! too. The agent that ours waits for is a stand-in that answers at once. Needs root, the release binary, and the
//! package containernetworking-plugins: `make bench BENCH=cni`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run ends"
)]
#![expect(clippy::print_stdout, reason = "its result is its output")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use margay_api::{
    agent::{Addressing, Response},
    paths,
};
use margay_ipam::Store;
use margay_netlink::netns::Namespace;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const ROUNDS: usize = 200;
const WARM_UP: usize = 5;
const OURS: &str = "target/release/margay";
const OTHERS: &str = "/usr/lib/cni";

/// A plugin with its configuration, and what its calls took.
struct Contender {
    binary: PathBuf,
    config: Value,
    add: Vec<Duration>,
    del: Vec<Duration>,
}

fn main() {
    // A thread of its own, so that the whole machine's namespace is left alone.
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run as root");
        run();
    })
    .join()
    .unwrap();
}

fn run() {
    let dir = tempfile::tempdir().unwrap();
    let mut ours = ours(dir.path());
    let mut ptp = ptp(dir.path());
    for round in 0..WARM_UP + ROUNDS {
        // Who goes first changes from round to round.
        let order = if round % 2 == 0 { [&mut ours, &mut ptp] } else { [&mut ptp, &mut ours] };
        for contender in order {
            contender.one_pod(&format!("pod{round:09}"), round >= WARM_UP);
        }
    }
    let note = "agent: stand-in that answers at once";
    println!("medians (p99) of {ROUNDS} pods, milliseconds; the other: ptp + host-local, {OTHERS}");
    println!("{:<46} {:>15} {:>15} {:>6} {:>9}", "what", "ours (p99)", "other's (p99)", "ratio", "goal");
    row(&format!("CNI ADD ({note})"), &mut ours.add, &mut ptp.add, 0.4);
    row("CNI DEL", &mut ours.del, &mut ptp.del, 0.7);
}

fn row(what: &str, ours: &mut [Duration], others: &mut [Duration], goal: f64) {
    let [our_median, our_tail] = quantiles(ours);
    let [other_median, other_tail] = quantiles(others);
    let ratio = our_median / other_median;
    let verdict = if ratio <= goal { "goal met" } else { "goal missed" };
    let (ours, others) =
        (format!("{our_median:.2} ({our_tail:.2})"), format!("{other_median:.2} ({other_tail:.2})"));
    println!("{what:<46} {ours:>15} {others:>15} {ratio:>5.2}x {:>9}  {verdict}", format!("<= {goal}x"));
}

/// Median and 99th percentile in milliseconds.
fn quantiles(times: &mut [Duration]) -> [f64; 2] {
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100].map(|at| times[at].as_secs_f64() * 1e3)
}

fn ours(dir: &Path) -> Contender {
    let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(OURS);
    let (run, state) = (dir.join("run"), dir.join("state"));
    fs::create_dir_all(&run).unwrap();
    Store::new(&state.join(paths::IPAM)).set_blocks(&["10.202.0.0/24".parse().unwrap()]).unwrap();
    serve(&run.join(paths::AGENT_SOCKET), "10.202.0.0/24");
    let config = json!({
        "cniVersion": "1.0.0", "name": "margay", "type": "margay", "mtu": 1500, "runDir": run, "stateDir": state,
    });
    Contender::new(binary, config)
}

fn ptp(dir: &Path) -> Contender {
    let ipam = json!({"type": "host-local", "dataDir": dir.join("host-local"), "subnet": "10.201.0.0/24"});
    let config = json!({"cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "mtu": 1500, "ipam": ipam});
    Contender::new(Path::new(OTHERS).join("ptp"), config)
}

/// The agent's part: addresses are of one block, and every endpoint is in the kernel at once.
fn serve(socket: &Path, block: &str) {
    let listener = UnixListener::bind(socket).unwrap();
    let blocks = Addressing { blocks: vec![block.parse().unwrap()], ..Addressing::default() };
    let blocks = serde_json::to_string(&Response::Addressing(blocks)).unwrap();
    let done = serde_json::to_string(&Response::Done).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                let answer = if line.contains("\"addressing\"") { &blocks } else { &done };
                // A caller that only tells closes before the answer.
                drop(writeln!(&stream, "{answer}"));
            }
        }
    });
}

impl Contender {
    fn new(binary: PathBuf, config: Value) -> Self {
        assert!(binary.exists(), "{} is not there: run `make bench BENCH=cni`", binary.display());
        Self { binary, config, add: Vec::new(), del: Vec::new() }
    }

    fn one_pod(&mut self, container_id: &str, counts: bool) {
        let namespace = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Namespace::current().unwrap()
        })
        .join()
        .unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
        let add = self.call("ADD", container_id, &path);
        let del = self.call("DEL", container_id, &path);
        if counts {
            self.add.push(add);
            self.del.push(del);
        }
    }

    fn call(&self, verb: &str, container_id: &str, netns: &str) -> Duration {
        let config = self.config.to_string();
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container_id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", OTHERS)
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={container_id}"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[expect(clippy::disallowed_methods, reason = "the wall clock is what is measured")]
        let begin = Instant::now();
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let took = begin.elapsed();
        if !output.status.success() {
            let (stdout, stderr) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            panic!("{} {verb}: {stdout}{stderr}", self.binary.display());
        }
        took
    }
}
