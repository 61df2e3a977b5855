//! A node with the real agent, in a cluster of some size.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use margay_lab::apiserver::ApiServer;
use margay_netlink::{
    netns::Namespace,
    nftables::{TableMonitor, Touched},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::{
    change::Change,
    cluster::{self, NODE, POD_CIDR, Place},
    harness::{
        agent::{Agent, Serving},
        plugin::{Plugin, new_namespace},
    },
    process::{PEAK, mib, processor_time},
    result::address,
};

/// The kernel's table has the last of a change when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(30);
/// The agent is idle when it uses no more than that meanwhile.
const IDLE: Duration = Duration::from_micros(500);
/// How long a change may take to begin in the kernel.
const PATIENCE: Duration = Duration::from_secs(30);
/// In how many namespaces there are pods of this node: one of each app.
const LOCAL_NAMESPACES: usize = 10;

/// How large a cluster is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) policies: usize,
    pub(crate) pods: usize,
    pub(crate) local: usize,
}

/// What a change cost.
pub(crate) struct Cost {
    /// From the request to the kernel's news of its last part.
    pub(crate) wall: Duration,
    /// Of the agent, on all its threads, in the kernel on its behalf too.
    pub(crate) processor: Duration,
}

/// What a start took.
pub(crate) struct Start {
    pub(crate) wall: Duration,
    pub(crate) processor: Duration,
    /// The most memory that it had until then.
    pub(crate) peak_mib: f64,
}

/// What there was before a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// No table, as after a reboot.
    Empty,
    /// The table of the agent before.
    Kept,
}

pub(crate) struct Node {
    pub(crate) size: Size,
    dir: PathBuf,
    // The agent goes before its API server.
    agent: Option<Agent>,
    _serving: Serving,
    monitor: TableMonitor,
    namespace: Namespace,
    _pods: Vec<Namespace>,
}

impl Node {
    /// A cluster of so many namespaces, with some pods on the node, made by the plugin.
    pub(crate) fn new(dir: &Path, namespaces: usize) -> Self {
        let api = ApiServer::new();
        let put = |object| drop(api.put_raw(object).unwrap());
        put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {"podCIDRs": [POD_CIDR]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        }));
        for number in 0..namespaces {
            put(cluster::namespace(number));
            for app in 0..cluster::APPS {
                put(cluster::policy(number, app));
            }
        }
        let is_local = |place: &Place| place.namespace < LOCAL_NAMESPACES && place.replica == 0;
        let (local, remote): (Vec<Place>, Vec<Place>) = cluster::places(namespaces).partition(is_local);
        for place in &local {
            put(place.object(NODE, None));
        }
        for place in &remote {
            put(place.object("n2", Some(&place.remote_address().to_string())));
        }

        let namespace = new_namespace();
        let inside = namespace.enter().unwrap();
        for arguments in ["link set lo up", "address add 192.0.2.1/32 dev lo"] {
            assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
        }
        let serving = Serving::start(api.clone());
        let agent = Agent::start(dir, NODE, &json!({"dataplane": "nftables"}));
        agent.until_ready();
        let plugin = Plugin::margay(dir, 1500);
        let pods: Vec<Namespace> = local.iter().map(|_| new_namespace()).collect();
        for (place, pod) in local.iter().zip(&pods) {
            let printed = plugin.call("ADD", &cluster::namespace_name(place.namespace), &place.name(), pod);
            put(place.object(NODE, Some(&address::<IpAddr>(&printed).to_string())));
        }
        let monitor = TableMonitor::open("margay").unwrap();
        drop(inside);
        let size = Size {
            policies: namespaces * cluster::APPS,
            pods: local.len() + remote.len(),
            local: local.len(),
        };
        let dir = dir.to_owned();
        let mut node =
            Self { size, dir, agent: Some(agent), _serving: serving, monitor, namespace, _pods: pods };
        node.settle();
        node
    }

    /// Makes a change, and waits until the kernel has it.
    pub(crate) fn measure(&mut self, change: &Change) -> Cost {
        let inside = self.namespace.enter().unwrap();
        let mut stream = TcpStream::connect("127.0.0.1:6443").unwrap();
        drop(inside);
        let request = change.request();
        self.settle();
        let before = self.processor_time();
        let begin = now();
        stream.write_all(request.as_bytes()).unwrap();
        let mut end = None;
        while self.touched(if end.is_none() { PATIENCE } else { QUIET }) {
            end = Some(now());
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{}: {answer}", change.what);
        let Some(end) = end else { panic!("{}: nothing in the kernel after {PATIENCE:?}", change.what) };
        self.idle();
        Cost { wall: end - begin, processor: self.processor_time().saturating_sub(before) }
    }

    /// Ends the agent as a crash would, and starts it again.
    pub(crate) fn restart(&mut self, kernel: Kernel) -> Start {
        drop(self.agent.take());
        let inside = self.namespace.enter().unwrap();
        if kernel == Kernel::Empty {
            let delete = Command::new("nft").args(["delete", "table", "inet", "margay"]).status();
            assert!(delete.unwrap().success());
        }
        let begin = now();
        let agent = self.agent.insert(Agent::start(&self.dir, NODE, &json!({"dataplane": "nftables"})));
        agent.until_ready();
        let wall = begin.elapsed();
        let peak_mib = mib(agent.child.id(), PEAK);
        drop(inside);
        let start = Start { wall, processor: self.processor_time(), peak_mib };
        self.settle();
        start
    }

    /// The part inside the agent as it measures itself: seconds of all changes, and how many there were.
    pub(crate) fn inside(&self) -> [f64; 2] {
        self.metrics(["program_seconds_sum", "program_seconds_count"])
    }

    /// How much the agent has changed in its table so far: elements, most of all.
    pub(crate) fn changed(&self) -> f64 {
        let [changes] = self.metrics(["nft_changes_total"]);
        changes
    }

    fn metrics<const N: usize>(&self, names: [&str; N]) -> [f64; N] {
        let _inside = self.namespace.enter().unwrap();
        let mut stream = TcpStream::connect("127.0.0.1:9099").unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        names.map(|name| {
            let name = format!("margay_{name} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        })
    }

    /// Waits until the agent has nothing to do any more: after a change that forbids something it looks for connections.
    #[expect(clippy::disallowed_methods, reason = "that nothing more is done is no event")]
    fn idle(&self) {
        loop {
            let before = self.processor_time();
            thread::sleep(QUIET);
            if self.processor_time().saturating_sub(before) < IDLE {
                return;
            }
        }
    }

    /// Waits until nothing happens any more.
    fn settle(&mut self) {
        while self.touched(QUIET) {}
    }

    /// Whether the table changes within that time.
    fn touched(&mut self, patience: Duration) -> bool {
        loop {
            match self.monitor.read() {
                Ok(Touched::By(ports)) if ports.is_empty() => {}
                Ok(_) => return true,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            let mut descriptors = [PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(patience).unwrap();
            if poll(&mut descriptors, timeout).unwrap() == 0 {
                return false;
            }
        }
    }

    fn processor_time(&self) -> Duration {
        processor_time(self.agent.as_ref().unwrap().child.id())
    }
}

#[expect(clippy::disallowed_methods, reason = "the wall clock is what is measured")]
fn now() -> Instant {
    Instant::now()
}
