//! The command line.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use margay_lab::{Dataplane, FabricKind, IpFamilies, LabConfig};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Kubernetes clusters out of network namespaces, running the real Margay.
#[derive(Debug, Parser)]
#[command(name = "margay-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows a cluster that routes and isolates, and cleans up.
    Demo(Cluster),
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
            kubeconfig: self.kubeconfig.clone(),
            ..LabConfig::default()
        }
    }
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
    match cli.command {
        Command::Demo(cluster) => {
            until_interrupted(crate::demo::run(cluster.config())).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Runs something until it is done or a signal comes; dropping it cleans up.
fn until_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            done = work => done,
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("told to end"),
        }
    })
}
