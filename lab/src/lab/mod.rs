//! A running cluster.

mod balance;
mod nodes;
mod objects;
mod pools;
mod reach;
mod ready;

pub(crate) use balance::Balanced;
pub use objects::PodSpec;
pub(crate) use reach::PROBE_LIMIT;

use crate::api::Api;
use crate::apiserver::ApiServer;
use crate::binaries::Binaries;
use crate::config::{ExternalConfig, IpamMode, LabConfig};
use crate::definitions::cluster_network_policies;
use crate::fabric::{External, Fabric};
use crate::kubectl::{self, KubectlOutput};
use crate::node::{Node, Parts};
use crate::plan::NodePlan;
use crate::pods::Pods;
use crate::scheduler;
use anyhow::Context;
use futures::future::try_join_all;
use kube::Client;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::task::JoinSet;

/// A running cluster; dropping it ends it, and leaves nothing.
///
/// It needs root, and a tokio runtime with time, I/O and processes.
#[derive(Debug)]
pub struct Lab {
    config: LabConfig,
    binaries: Binaries,
    // Dropped in this order.
    tasks: JoinSet<()>,
    nodes: Vec<Node>,
    externals: BTreeMap<String, External>,
    externals_made: usize,
    fabric: Fabric,
    pods: Pods,
    api: Api,
}

impl Lab {
    /// Makes the cluster and starts its processes; [`Self::wait_ready`] waits for them.
    ///
    /// # Errors
    /// When a part cannot be made, with what to do.
    pub async fn start(config: LabConfig) -> anyhow::Result<Self> {
        anyhow::ensure!((1..=250).contains(&config.nodes), "{} nodes: it takes 1 to 250", config.nodes);
        anyhow::ensure!(nix::unistd::geteuid().is_root(), "the lab makes namespaces: run it as root");
        let binaries = Binaries::find(config.binaries.as_deref())?;
        let plans: Vec<NodePlan> = (1..=config.nodes).map(|number| NodePlan::new(number, &config)).collect();
        let api = Api::start(config.kubeconfig.as_deref()).await?;
        if let Some(server) = api.memory() {
            let defined = server.put_raw(cluster_network_policies());
            defined.map_err(|error| anyhow::anyhow!("define ClusterNetworkPolicy: {}", error.message))?;
        }
        Box::pin(pools::define(api.client())).await?;
        if config.ipam == IpamMode::Pool {
            pools::create(api.client(), &config).await?;
        }
        let fabric = Fabric::start(config.fabric, config.ip_families, &plans).await?;
        let pods = Pods::new();
        let parts = Parts { config: &config, fabric: &fabric, api: &api, binaries: &binaries, pods: &pods };
        let nodes = plans.into_iter().map(|plan| {
            let name = plan.name.clone();
            let node = Node::start(&parts, plan);
            async move { node.await.with_context(|| format!("start node {name}")) }
        });
        let nodes = try_join_all(nodes).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(scheduler::run(api.client().clone()));
        let externals = BTreeMap::new();
        let lab = Self { config, binaries, tasks, nodes, externals, externals_made: 0, fabric, pods, api };
        std::fs::write(lab.kubeconfig(), lab.api.host_kubeconfig()?).context("write the kubeconfig")?;
        Ok(lab)
    }

    /// What it was started with.
    pub fn config(&self) -> &LabConfig {
        &self.config
    }

    /// The nodes, in the order of their numbers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this number, from 0.
    ///
    /// # Panics
    /// When there are not as many.
    #[expect(clippy::indexing_slicing, reason = "documented to panic, as an index does")]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The node with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node_named(&self, name: &str) -> anyhow::Result<&Node> {
        let names = || self.nodes.iter().map(Node::name).collect::<Vec<_>>().join(", ");
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("there is no node {name}; there are {}", names()))
    }

    /// A client of the API server.
    pub fn client(&self) -> Client {
        self.api.client().clone()
    }

    /// The API server, when it is the one in memory.
    pub fn api_server(&self) -> Option<&ApiServer> {
        self.api.memory()
    }

    /// Cuts every connection to the API server and accepts no more, as when it is down.
    pub async fn cut_api(&self) {
        self.api.cut().await;
    }

    /// Ends what [`Self::cut_api`] began.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn restore_api(&self) -> anyhow::Result<()> {
        self.api.restore()
    }

    /// The kubeconfig for programs on the host. It is in the fabric's own `/run`, so it goes with the lab.
    pub fn kubeconfig(&self) -> PathBuf {
        self.fabric.machine().path("/run/lab/kubeconfig")
    }

    /// Its content.
    ///
    /// # Errors
    /// When it cannot be written as text.
    pub fn kubeconfig_text(&self) -> anyhow::Result<String> {
        self.api.host_kubeconfig()
    }

    /// Runs kubectl to its end; a failure is an error with what it said.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub async fn kubectl(&self, args: &[&str], stdin: &str) -> anyhow::Result<String> {
        let output = self.try_kubectl(args, stdin).await?;
        anyhow::ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), output.stderr.trim());
        Ok(output.stdout)
    }

    /// Runs kubectl to its end, however that is.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_kubectl(&self, args: &[&str], stdin: &str) -> anyhow::Result<KubectlOutput> {
        let cache = self.fabric.machine().path("/run/lab/kubectl");
        kubectl::run(&self.kubeconfig(), &cache, args, stdin).await
    }

    /// Connects a host outside the cluster, in the place of one of the same name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn attach_external(&mut self, config: &ExternalConfig) -> anyhow::Result<()> {
        self.externals.remove(&config.name);
        self.externals_made += 1;
        let mut external = self.fabric.attach_external(self.externals_made, &config.addresses).await?;
        external.serve(&config.ports)?;
        self.externals.insert(config.name.clone(), external);
        Ok(())
    }

    /// Runs BIRD where the nodes of a flat fabric have their default gateway (172.18.0.1), with this configuration, or has
    /// the one that runs there take it.
    ///
    /// # Errors
    /// When there is no BIRD, or it refuses.
    pub async fn run_router(&mut self, configuration: &str) -> anyhow::Result<()> {
        self.fabric.run_router(configuration).await
    }

    /// What that BIRD answers to a command of `birdc`.
    ///
    /// # Errors
    /// When it does not run, or refuses.
    pub async fn ask_router(&self, command: &str) -> anyhow::Result<String> {
        self.fabric.ask_router(command).await
    }

    /// Runs a line of the shell in the network between the nodes, where each is plugged in at an interface of its name; what it
    /// prints.
    ///
    /// # Errors
    /// When it fails.
    pub async fn on_fabric(&self, command: &str) -> anyhow::Result<String> {
        self.fabric.machine().output("sh", &["-e", "-c", command]).await
    }

    /// Disconnects all hosts outside the cluster.
    pub fn detach_externals(&mut self) {
        self.externals.clear();
    }

    /// The newest lines of all processes, for an error message.
    pub fn log_tail(&self, lines: usize) -> String {
        let mut text: String = self.nodes.iter().map(|node| node.log_tail(lines)).collect();
        for line in self.fabric.log(lines) {
            text.push_str("\n  bird: ");
            text.push_str(&line);
        }
        text
    }

    /// Ends everything, and comes back when it has ended.
    pub async fn stop(self) {
        let Self { mut tasks, nodes, externals, fabric, api, .. } = self;
        tasks.shutdown().await;
        futures::future::join_all(nodes.into_iter().map(|node| node.stop(&api))).await;
        drop((externals, fabric));
    }
}
