//! A node: a machine with the node's processes and its hollow kubelet.

use crate::api::Api;
use crate::binaries::Binaries;
use crate::cni::Runtime;
use crate::config::{FabricKind, LabConfig};
use crate::fabric::{Fabric, ROUTER_ASN, prepare_namespace};
use crate::kubelet::{self, Context as KubeletContext, NodeObject, Registered};
use crate::machine::{Machine, Process, ProcessSpec};
use crate::plan::NodePlan;
use crate::pods::Pods;
use crate::station::Station;
use anyhow::Context;
use margay_api::paths;
use margay_bgp::control::{self, Status};
use margay_netlink::route::Protocol;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::{process::Command, sync::watch, task::JoinSet};

/// Directories that a node has for itself.
const PRIVATE: &[&str] = &["/etc/cni", "/var/lib/margay", "/var/lib/cni", "/opt/cni"];
/// Those of them on its disk: what is there outlives the node's power.
const ON_DISK: &[&str] = &["/etc/cni", "/var/lib/margay", "/var/lib/cni"];
const KUBECONFIG: &str = "/run/lab/kubeconfig";
const AGENT_CONFIG: &str = "/run/lab/margay-node.yaml";

/// The processes that a node runs for Margay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// `margay-node`.
    Agent,
    /// `margay-bgp`.
    Bgp,
}

/// What nodes are made with, beside a plan each.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a LabConfig,
    pub(crate) fabric: &'a Fabric,
    pub(crate) api: &'a Api,
    pub(crate) binaries: &'a Binaries,
    pub(crate) pods: &'a Pods,
}

/// A node without power: who it was, and its disk.
#[derive(Debug)]
pub(crate) struct Off {
    pub(crate) plan: NodePlan,
    registered: Registered,
    disk: TempDir,
}

/// A node of the lab.
#[derive(Debug)]
pub struct Node {
    plan: NodePlan,
    registered: Registered,
    reported: watch::Sender<Vec<IpAddr>>,
    agent: Process,
    speaker: Process,
    kubelet: Arc<KubeletContext>,
    // Last, so that the processes above are told to end before their machine goes.
    tasks: JoinSet<()>,
}

impl Node {
    /// One that is new.
    pub(crate) async fn start(parts: &Parts<'_>, plan: NodePlan) -> anyhow::Result<Self> {
        Self::boot(parts, plan, None).await
    }

    /// One that had no power.
    pub(crate) async fn restart(parts: &Parts<'_>, off: Off) -> anyhow::Result<Self> {
        let node = Self::boot(parts, off.plan, Some(off.disk.path())).await?;
        Ok(Self { registered: off.registered, ..node })
    }

    async fn boot(parts: &Parts<'_>, plan: NodePlan, disk: Option<&Path>) -> anyhow::Result<Self> {
        let Parts { config, fabric, api, binaries, pods } = parts;
        let machine = Arc::new(Machine::start(&plan.name, PRIVATE).await?);
        prepare_namespace(machine.namespace())?;
        fabric.attach_node(&plan, machine.namespace())?;
        api.serve_in(machine.namespace())?;
        let plugin = binaries.plugin.clone();
        let kubeconfig = api.node_kubeconfig(&plan.name)?;
        let settings = settings(config, &plan);
        machine.run(move || furnish(&plugin, &kubeconfig, &settings)).await??;
        if let Some(disk) = disk {
            copy(ON_DISK, disk, &machine.root()).await?;
        }
        let object = NodeObject {
            name: plan.name.clone(),
            addresses: plan.addresses(),
            pod_cidrs: plan.pod_cidrs.iter().map(ToString::to_string).collect(),
        };
        let registered = kubelet::create_node(api.client(), &object).await?;
        let speaker = Process::start(Arc::clone(&machine), speaker(binaries.speaker.clone(), config));
        let agent = Process::start(Arc::clone(&machine), agent(binaries.agent.clone(), &plan.name, config));
        let kubelet = Arc::new(KubeletContext {
            node: plan.name.clone(),
            addresses: plan.addresses(),
            station: Station::open(Arc::clone(machine.namespace()))?,
            runtime: Runtime::new(Arc::clone(&machine)),
            machine: Arc::clone(&machine),
            pods: (*pods).clone(),
        });
        let mut tasks = JoinSet::new();
        let (reported, addresses) = watch::channel(plan.addresses());
        tasks.spawn(kubelet::keep_ready(api.client().clone(), object, addresses, machine));
        tasks.spawn(kubelet::run(Arc::clone(&kubelet), api.client().clone()));
        Ok(Self { plan, registered, reported, agent, speaker, kubelet, tasks })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its addresses at the start.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.plan.addresses()
    }

    /// Has its kubelet report these addresses from now on, whether the node has them or not.
    pub fn report_addresses(&self, addresses: Vec<IpAddr>) {
        self.reported.send_replace(addresses);
    }

    /// `spec.podCIDRs`.
    pub fn pod_cidrs(&self) -> &[ipnetwork::IpNetwork] {
        &self.plan.pod_cidrs
    }

    pub(crate) fn plan(&self) -> &NodePlan {
        &self.plan
    }

    pub(crate) fn station(&self) -> &Arc<Station> {
        &self.kubelet.station
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.kubelet.machine
    }

    /// A file of the node, as the host finds it: a node has its own `/run`, `/etc/cni`, `/var/lib/margay`, ...
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.machine().path(inside)
    }

    /// The directory in `/proc` whose `ns` holds the node's namespaces.
    pub fn proc_entry(&self) -> PathBuf {
        self.machine().proc_entry()
    }

    /// Runs a program on the node to its end, and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub async fn output(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        self.machine().output(program, args).await
    }

    /// Runs `work` in the node's namespaces. It must be short: it holds up the node's thread.
    ///
    /// # Errors
    /// When the node is gone.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        self.machine().run(work).await
    }

    /// The routes that BGP has brought, as `ip route show proto bgp` prints them.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub async fn bgp_routes(&self) -> anyhow::Result<Vec<String>> {
        self.routes_of(Protocol::BGP).await
    }

    /// The routes to other nodes' pods that the agent has made, likewise.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub async fn overlay_routes(&self) -> anyhow::Result<Vec<String>> {
        self.routes_of(Protocol::MARGAY_OVERLAY).await
    }

    /// Both.
    pub(crate) async fn pod_routes(&self) -> anyhow::Result<Vec<String>> {
        let mut routes = self.bgp_routes().await?;
        routes.extend(self.overlay_routes().await?);
        Ok(routes)
    }

    async fn routes_of(&self, protocol: Protocol) -> anyhow::Result<Vec<String>> {
        let mut routes = Vec::new();
        let number = protocol.0.to_string();
        for network in &self.plan.networks {
            let family = if network.is_ipv4() { "-4" } else { "-6" };
            let text = self.output("ip", &[family, "route", "show", "proto", &number]).await?;
            routes.extend(text.lines().map(|line| line.trim().to_owned()));
        }
        Ok(routes)
    }

    /// What the node's BGP speaker says of its sessions.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn bgp_status(&self) -> anyhow::Result<Status> {
        let socket = self.path(Path::new(paths::RUN_DIR).join(paths::BGP_SOCKET));
        Ok(control::Client::connect(socket).await?.status().await?)
    }

    /// Changes the agent's configuration file, which its next start reads.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
        let path = self.path(AGENT_CONFIG);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut settings = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        change(&mut settings);
        fs::write(&path, settings.to_string()).with_context(|| format!("write {}", path.display()))
    }

    /// Sends a signal. A process that ends is started again, the first time at once.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, daemon: Daemon, signal: Signal) -> anyhow::Result<()> {
        self.process(daemon).signal(signal)
    }

    /// Kills a process and leaves it dead until [`Self::start_daemon`].
    pub async fn stop_daemon(&self, daemon: Daemon) {
        self.process(daemon).stop().await;
    }

    /// Starts a process that was stopped.
    pub async fn start_daemon(&self, daemon: Daemon) {
        self.process(daemon).restart().await;
    }

    /// Has the programs of a directory in the place of those that are there, as an upgrade or a rollback has: the plugin from its
    /// next call on, the processes from their next start on.
    ///
    /// # Errors
    /// When one of them is not there, or the plugin cannot be written.
    pub async fn install(&self, programs: &Path) -> anyhow::Result<()> {
        let Binaries { plugin, agent, speaker } = Binaries::find(Some(programs))?;
        self.agent.replace(agent);
        self.speaker.replace(speaker);
        self.machine().run(move || install_plugin(&plugin)).await?
    }

    /// The process ID, while it runs.
    pub fn pid(&self, daemon: Daemon) -> Option<u32> {
        self.process(daemon).pid()
    }

    /// How often in a row a process has ended soon after its start.
    pub fn quick_ends(&self, daemon: Daemon) -> u32 {
        self.process(daemon).quick_ends()
    }

    /// The newest lines that a process has written, oldest first.
    pub fn log(&self, daemon: Daemon, lines: usize) -> Vec<String> {
        self.process(daemon).log().tail(lines)
    }

    /// The newest lines of both, for an error message.
    pub fn log_tail(&self, lines: usize) -> String {
        let mut text = String::new();
        for (name, daemon) in [("margay-bgp", Daemon::Bgp), ("margay-node", Daemon::Agent)] {
            for line in self.log(daemon, lines) {
                // Writing to a String cannot fail.
                let _ok = write!(text, "\n  {} {name}: {line}", self.name());
            }
        }
        text
    }

    fn process(&self, daemon: Daemon) -> &Process {
        match daemon {
            Daemon::Agent => &self.agent,
            Daemon::Bgp => &self.speaker,
        }
    }

    /// Cuts its power: whatever ran ends at once, and nobody is told.
    pub(crate) async fn cut_power(self, parts: &Parts<'_>) -> anyhow::Result<Off> {
        let Self { mut tasks, agent, speaker, registered, plan, kubelet, .. } = self;
        parts.fabric.detach_node(&plan)?;
        parts.api.leave(kubelet.machine.namespace()).await;
        agent.stop().await;
        speaker.stop().await;
        tasks.shutdown().await;
        parts.pods.lose(&plan.name);
        let disk = TempDir::new().context("make a disk")?;
        copy(ON_DISK, &kubelet.machine.root(), disk.path()).await?;
        Ok(Off { plan, registered, disk })
    }

    /// Ends its processes; an object that it made on an API server of others goes too.
    pub(crate) async fn stop(self, api: &Api) {
        let Self { mut tasks, agent, speaker, registered, plan, .. } = self;
        tasks.shutdown().await;
        agent.stop().await;
        speaker.stop().await;
        if api.memory().is_none()
            && registered == Registered::New
            && let Err(error) = kubelet::delete_node(api.client(), &plan.name).await
        {
            tracing::warn!("{error:#}");
        }
    }
}

/// Copies directories with all that is in them from below one root to below another.
async fn copy(directories: &[&str], from: &Path, to: &Path) -> anyhow::Result<()> {
    for directory in directories {
        let inside = directory.trim_start_matches('/');
        let (from, to) = (from.join(inside), to.join(inside));
        fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
        let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(&to).status().await;
        let copied = copied.context("run cp")?;
        anyhow::ensure!(copied.success(), "copy {} to {}: {copied}", from.display(), to.display());
    }
    Ok(())
}

/// The files that a node starts with. Runs on its machine.
fn furnish(plugin: &Path, kubeconfig: &str, settings: &Value) -> anyhow::Result<()> {
    install_plugin(plugin)?;
    fs::create_dir_all(paths::CNI_CONF_DIR)?;
    fs::create_dir_all(paths::RUN_DIR)?;
    fs::write(KUBECONFIG, kubeconfig)?;
    fs::write(AGENT_CONFIG, settings.to_string())?;
    Ok(())
}

/// Puts the plugin where runtimes look, in the place of one that is there. Runs on the node's machine.
fn install_plugin(plugin: &Path) -> anyhow::Result<()> {
    let directory = Path::new("/opt/cni/bin");
    fs::create_dir_all(directory)?;
    for name in [paths::CNI_TYPE, "loopback"] {
        let new = directory.join(format!(".{name}"));
        symlink(plugin, &new)
            .and_then(|()| fs::rename(&new, directory.join(name)))
            .with_context(|| format!("install plugin {name}"))?;
    }
    Ok(())
}

/// The agent's configuration file; JSON is YAML.
fn settings(config: &LabConfig, plan: &NodePlan) -> Value {
    let mut bgp = json!({"asn": plan.asn, "enabled": config.routing.has_bgp()});
    if config.fabric == FabricKind::Routed {
        bgp["mesh"] = false.into();
        bgp["peers"] =
            plan.gateways.iter().take(1).map(|at| json!({"address": at, "asn": ROUTER_ASN})).collect();
    }
    json!({
        "ipam": {"mode": config.ipam.text(), "giveBackSeconds": config.give_back_after.as_secs()},
        "kubeconfig": KUBECONFIG,
        "dataplane": config.dataplane.text(),
        "logLevel": config.log_level,
        "bgp": bgp,
        "routing": config.routing.text(),
        "overlay": {"encapsulation": config.encapsulation},
        "natOutgoing": config.nat_outgoing,
    })
}

fn agent(program: PathBuf, node: &str, config: &LabConfig) -> ProcessSpec {
    let args = ["--node-name", node, "--kubeconfig", KUBECONFIG, "--config", AGENT_CONFIG];
    ProcessSpec {
        name: "margay-node".into(),
        program,
        args: args.map(str::to_owned).into(),
        environment: config.environment.clone(),
    }
}

fn speaker(program: PathBuf, config: &LabConfig) -> ProcessSpec {
    let log = ("RUST_LOG".to_owned(), config.log_level.clone());
    ProcessSpec {
        name: "margay-bgp".into(),
        program,
        args: Vec::new(),
        environment: config.environment.iter().cloned().chain([log]).collect(),
    }
}
