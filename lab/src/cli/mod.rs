//! The command line.

mod client;
mod conformance;
mod daemon;
mod inside;
mod protocol;
mod up;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use margay_api::resource::Encapsulation;
use margay_lab::{Dataplane, FabricKind, IpFamilies, IpamMode, LabConfig, Port, Routing};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Kubernetes clusters out of network namespaces, running the real Margay.
#[derive(Debug, Parser)]
#[command(
    name = "margay-lab",
    version,
    after_help = "Needs root, and margay, margay-node and margay-bgp beside it \
(cargo build --workspace --bins)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster in the background, and says how to use it.
    Up(Cluster),
    /// Ends the cluster in the background.
    Down,
    /// Shows the nodes, their processes, BGP sessions, routes and pods.
    Status,
    /// Prints where the kubeconfig of the running cluster is.
    Kubeconfig {
        /// Print its content instead.
        #[arg(long)]
        content: bool,
    },
    /// Probes between all pods, and prints who reaches whom.
    Reach {
        /// Pods of this namespace only.
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// NUMBER or NUMBER/PROTOCOL (TCP, UDP, SCTP), as often as wanted [default: all that the pods declare].
        #[arg(long, value_name = "PORT")]
        port: Vec<Port>,
    },
    /// Runs a command in a pod's network.
    Exec {
        /// NAMESPACE/NAME, or NAME in namespace default.
        pod: String,
        /// The command.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Runs a command on a node: in its network, and with its /run, /etc/cni and /var/lib/margay.
    Node {
        /// Its name.
        node: String,
        /// The command.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Shows a cluster that routes and isolates, and cleans up.
    Demo(Cluster),
    /// Runs conformance cases.
    Conformance(conformance::Options),
    /// What `up` runs in the background.
    #[command(hide = true)]
    Run(Cluster),
}

/// What a cluster is made of.
#[derive(Debug, Clone, Args)]
struct Cluster {
    /// How many nodes, 1 to 250.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=250))]
    nodes: u8,
    /// How the nodes are connected.
    #[arg(long, value_enum, default_value_t)]
    fabric: FabricKind,
    /// What enforces policy.
    #[arg(long, value_enum, default_value_t)]
    dataplane: Dataplane,
    /// Address families of nodes and pods.
    #[arg(long, value_enum, default_value_t)]
    ip_families: IpFamilies,
    /// Where the nodes' address blocks come from.
    #[arg(long, value_enum, default_value_t)]
    ipam: IpamMode,
    /// Who makes the routes to pods of other nodes that no tunnel leads to.
    #[arg(long, value_enum, default_value_t)]
    routing: Routing,
    /// How packets of pods travel from node to node: None, VXLAN, `VXLANCrossSubnet`, IPIP, `IPIPCrossSubnet`.
    #[arg(long, value_name = "HOW", default_value = "None", value_parser = encapsulation)]
    encapsulation: Encapsulation,
    /// What pods send to outside of the cluster comes from their nodes.
    #[arg(long)]
    nat_outgoing: bool,
    /// Use this API server instead of one in memory.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl Cluster {
    fn config(&self) -> LabConfig {
        LabConfig {
            nodes: self.nodes,
            fabric: self.fabric,
            dataplane: self.dataplane,
            ip_families: self.ip_families,
            ipam: self.ipam,
            routing: self.routing,
            encapsulation: self.encapsulation,
            nat_outgoing: self.nat_outgoing,
            kubeconfig: self.kubeconfig.clone(),
            ..LabConfig::default()
        }
    }
}

/// Reads it as the API writes it.
fn encapsulation(text: &str) -> Result<Encapsulation, serde_json::Error> {
    serde_json::from_value(text.into())
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "this is where a program's error goes")]
fn report(error: &anyhow::Error) {
    eprintln!("margay-lab: {error:#}");
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Up(cluster) => up::up(&cluster).map(done),
        Command::Down => up::down().map(done),
        Command::Status => client::status().map(done),
        Command::Kubeconfig { content } => client::kubeconfig(content).map(done),
        Command::Reach { namespace, port } => client::reach(namespace, &port).map(done),
        Command::Exec { pod, command } => inside::exec(&pod, &command).map(done),
        Command::Node { node, command } => inside::node(&node, &command).map(done),
        Command::Demo(cluster) => until_interrupted(crate::demo::run(cluster.config())).map(done),
        Command::Conformance(options) => until_interrupted(conformance::run(options)),
        Command::Run(cluster) => block_on(daemon::run(cluster.config())).map(done),
    }
}

/// Runs something until it is done or a signal comes.
fn until_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    block_on(interruptible(work))
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(work)
}

/// Gives something up when a signal comes; dropping it cleans up.
async fn interruptible<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("told to end"),
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
