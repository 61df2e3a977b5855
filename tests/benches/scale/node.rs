//! The node that is measured: a network namespace with the real agent, the real speaker and real pods, on a link on which
//! its cluster's reflectors are.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use margay_lab::apiserver::{ApiServer, ApiServerConfig};
use margay_netlink::netns::Namespace;
use serde_json::json;
use tokio::time::{interval, timeout};

use crate::{
    feed::ip,
    harness::{
        agent::{Agent, Serving, built},
        plugin::{Plugin, new_namespace},
    },
    kernel::Kernel,
    life, now,
    object::{self, NODES, OWN, Phase, REFLECTORS, namespace_name, node_address, node_name},
    process::{PEAK, mib, processor_time},
    reflector::Reflector,
    result::address,
};

/// How often it is looked whether all routes are there, and how long that may take.
const PERIOD: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Node {
    pub(crate) api: ApiServer,
    pub(crate) kernel: Kernel,
    pub(crate) reflectors: Vec<Reflector>,
    dir: PathBuf,
    // The agent goes before the speaker and its API server.
    agent: Option<Agent>,
    speaker: Speaker,
    _serving: Serving,
    namespace: Namespace,
    _fabric: Namespace,
    _pods: Vec<Namespace>,
}

/// What a start took.
pub(crate) struct Start {
    pub(crate) wall: Duration,
    pub(crate) processor: Duration,
    /// The most memory that it had until then.
    pub(crate) peak_mib: f64,
    /// Octets from the API, by resource.
    pub(crate) octets: BTreeMap<String, u64>,
}

/// The speaker, killed when it is dropped.
struct Speaker {
    child: Child,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.end();
    }
}

impl Node {
    /// A cluster with all its objects, and a node of it that is ready.
    pub(crate) fn new(dir: &Path) -> Self {
        let config = ApiServerConfig { writer: Some(object::write), ..ApiServerConfig::default() };
        let api = ApiServer::with_config(config);
        life::populate(&api);
        let local: Vec<_> = life::local().collect();
        let put = |object| drop(api.put_raw(object).unwrap());
        for pod in &local {
            put(object::pod(pod.namespace(), pod.app(), &pod.name(), OWN, Phase::Bound));
        }
        let (namespace, fabric) = (new_namespace(), new_namespace());
        let reflectors = connect(&namespace, &fabric);
        let inside = namespace.enter().unwrap();
        let serving = Serving::start(api.clone());
        fs::create_dir_all(dir.join("run")).unwrap();
        let speaker = Speaker::start(dir);
        let agent = start_agent(dir);
        agent.until_ready();
        let plugin = Plugin::margay(dir, 1500);
        let pods: Vec<Namespace> = local.iter().map(|_| new_namespace()).collect();
        for (pod, netns) in local.iter().zip(&pods) {
            let printed = plugin.call("ADD", &namespace_name(pod.namespace()), &pod.name(), netns);
            let phase = Phase::Running(address(&printed));
            put(object::pod(pod.namespace(), pod.app(), &pod.name(), OWN, phase));
        }
        let kernel = Kernel::listen();
        drop(inside);
        let (dir, agent) = (dir.to_owned(), Some(agent));
        Self {
            api,
            kernel,
            reflectors,
            dir,
            agent,
            speaker,
            _serving: serving,
            namespace,
            _fabric: fabric,
            _pods: pods,
        }
    }

    /// Starts the agent as after a reboot: with no table in the kernel.
    pub(crate) fn restart_agent(&mut self) -> Start {
        drop(self.agent.take());
        let inside = self.namespace.enter().unwrap();
        let delete = Command::new("nft").args(["delete", "table", "inet", "margay"]).status();
        assert!(delete.unwrap().success());
        let before = self.api.sent();
        let begin = now();
        let agent = self.agent.insert(start_agent(&self.dir));
        agent.until_ready();
        let wall = begin.elapsed();
        drop(inside);
        let id = agent.child.id();
        let octets = since(&before, &self.api.sent());
        Start { wall, processor: processor_time(id), peak_mib: mib(id, PEAK), octets }
    }

    /// Starts the speaker, and waits until the routes to all nodes are in the kernel, of which there are none before.
    pub(crate) async fn restart_speaker(&mut self) -> Start {
        self.speaker.end();
        let _inside = self.namespace.enter().unwrap();
        let flush = Command::new("ip").args(["-4", "route", "flush", "proto", "bgp"]).status();
        assert!(flush.unwrap().success());
        let begin = now();
        self.speaker = Speaker::start(&self.dir);
        let complete = async {
            let mut tick = interval(PERIOD);
            while routes() < NODES as usize - 1 {
                tick.tick().await;
            }
        };
        let complete = timeout(PATIENCE, complete).await;
        assert!(complete.is_ok(), "{} routes after {PATIENCE:?}:\n{}", routes(), self.speaker_log());
        let wall = begin.elapsed();
        let id = self.speaker.child.id();
        Start { wall, processor: processor_time(id), peak_mib: mib(id, PEAK), octets: BTreeMap::new() }
    }

    pub(crate) fn agent_id(&self) -> u32 {
        self.agent.as_ref().unwrap().child.id()
    }

    pub(crate) fn speaker_id(&self) -> u32 {
        self.speaker.child.id()
    }

    /// How many elements the table has.
    pub(crate) fn elements(&self) -> usize {
        let _inside = self.namespace.enter().unwrap();
        let listed = Command::new("nft").args(["list", "table", "inet", "margay"]).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).matches(" : ").count()
    }

    fn speaker_log(&self) -> String {
        fs::read_to_string(self.dir.join("speaker.log")).unwrap_or_default()
    }
}

impl Speaker {
    fn start(dir: &Path) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(built().join("release/margay-bgp"))
            .arg("--control")
            .arg(dir.join("run/bgp.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("speaker.log")).unwrap())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn end(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What was sent between two looks.
pub(crate) fn since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    now.iter()
        .map(|(kind, octets)| (kind.clone(), octets - before.get(kind).copied().unwrap_or_default()))
        .collect()
}

/// Nobody answers its tests of the ways to other nodes, of which there are none but in the API.
fn start_agent(dir: &Path) -> Agent {
    let settings = json!({
        "dataplane": "nftables", "bgp": {"enabled": true, "asn": 64512}, "selfTest": {"enabled": false},
    });
    Agent::start(dir, &node_name(OWN), &settings)
}

/// Routes of the speaker's in the caller's namespace.
fn routes() -> usize {
    let listed = Command::new("ip").args(["-4", "route", "show", "proto", "bgp"]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains(" via ")).count()
}

/// The node's link to all others, which are the reflectors alone.
fn connect(node: &Namespace, fabric: &Namespace) -> Vec<Reflector> {
    let path = format!("/proc/{}/fd/{}", std::process::id(), fabric.as_fd().as_raw_fd());
    let mut inside = node.enter().unwrap();
    ip(&format!(
        "link set lo up\nlink add uplink type veth peer name uplink netns {path}\n\
         address add {}/16 dev uplink\nlink set uplink up\n",
        node_address(OWN)
    ));
    drop(inside);
    inside = fabric.enter().unwrap();
    let addresses = REFLECTORS.map(node_address);
    ip(&format!(
        "link set lo up\naddress add {}/16 dev uplink\naddress add {}/16 dev uplink\nlink set uplink up\n",
        addresses[0], addresses[1]
    ));
    let reflectors = addresses.map(Reflector::start).into();
    drop(inside);
    reflectors
}
