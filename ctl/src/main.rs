//! `margayctl`: what one node knows, in words. Run it on the node, or in the agent's container; `policy` and
//! `bgp status` anywhere.
//!
//! It reads what the node's processes leave on disk and asks their sockets; `policy` reads the cluster's objects, or
//! files. It changes nothing but the sessions that `bgp reset` and `bgp refresh` name, the file that `bgp dump` has the
//! speaker write, and with `node cleanup` whatever Margay has left on a node.

mod bgp;
mod bgp_status;
mod check;
mod cleanup;
mod ebpf;
mod endpoints;
mod ipam;
mod monitor;
mod policy;
mod status;
mod table;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use margay_api::paths;
use margay_bgp::Prefix;

/// Shows what Margay does on this node.
#[derive(Debug, Parser)]
#[command(name = "margayctl", version)]
struct Cli {
    /// Sockets and endpoint records.
    #[arg(long, global = true, value_name = "DIR", default_value = paths::RUN_DIR, env = "MARGAY_RUN_DIR")]
    run_dir: PathBuf,
    /// Address allocations.
    #[arg(long, global = true, value_name = "DIR", default_value = paths::STATE_DIR, env = "MARGAY_STATE_DIR")]
    state_dir: PathBuf,
    /// Form of the answer.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns for a person.
    Table,
    /// JSON for a program.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Is the node ready for pods? Exit status 1 when it is not.
    Status,
    /// The pod interfaces of this node.
    Endpoints,
    /// Addresses.
    Ipam {
        #[command(subcommand)]
        command: Ipam,
    },
    /// The BGP speaker.
    Bgp {
        /// Its control socket. Default: `bgp.sock` in the run directory.
        #[arg(long, global = true, value_name = "PATH")]
        socket: Option<PathBuf>,
        #[command(subcommand)]
        command: Bgp,
    },
    /// The maps of the eBPF dataplane.
    Ebpf(ebpf::Options),
    /// This node as a whole.
    Node {
        #[command(subcommand)]
        command: Node,
    },
    /// Packets that are dropped on this node, as they are: who sent them to whom, and which policies drop them.
    Monitor(monitor::Options),
    /// What NetworkPolicy says: of the cluster's objects, or of files.
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
}

#[derive(Debug, Subcommand)]
enum Node {
    /// Takes from the node what Margay has made on it, once no agent and no pod is there any more: its configuration and
    /// plugin, links, programs, routes, table of nftables, records and addresses.
    Cleanup(cleanup::Options),
}

#[derive(Debug, Subcommand)]
enum Ipam {
    /// Pools, blocks and their use, and who has which address.
    Show,
    /// Do disk, records and kernel agree? Exit status 1 when they do not.
    Check,
}

#[derive(Debug, Subcommand)]
enum Bgp {
    /// Sessions and their states.
    Neighbors,
    /// The sessions of all nodes, as their agents tell the API server. Exit status 1 when something is not well, 2 when
    /// it is not known.
    Status {
        /// How to reach the API server. Default: $KUBECONFIG, ~/.kube/config, or the service account of the pod.
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,
    },
    /// Paths, the best first.
    Routes {
        /// Of this prefix only.
        prefix: Option<Prefix>,
        /// What this neighbour announces, before the import policy.
        #[arg(long, value_name = "NEIGHBOR", conflicts_with = "advertised")]
        received: Option<IpAddr>,
        /// What this neighbour is told.
        #[arg(long, value_name = "NEIGHBOR")]
        advertised: Option<IpAddr>,
    },
    /// Why a path to a prefix is used, and who is told of it.
    Explain {
        /// The prefix.
        prefix: Prefix,
    },
    /// Ends the session with a neighbour (Cease, administrative reset), which begins anew at once.
    Reset {
        /// Its address.
        neighbor: IpAddr,
    },
    /// Has a neighbour announce all its routes again.
    Refresh {
        /// Its address.
        neighbor: IpAddr,
    },
    /// Writes all paths to a file of the speaker's, as MRT (RFC 6396).
    Dump {
        /// The file, which is replaced if it is there.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let answer = match &cli.command {
        Command::Status => Ok(status::run(&cli.run_dir, &cli.state_dir)),
        Command::Endpoints => endpoints::run(&cli.run_dir),
        Command::Ipam { command: Ipam::Show } => ipam::show(&cli.run_dir, &cli.state_dir),
        Command::Ipam { command: Ipam::Check } => check::run(&cli.run_dir, &cli.state_dir),
        Command::Ebpf(options) => ebpf::run(&cli.run_dir, options),
        Command::Node { command: Node::Cleanup(options) } => {
            cleanup::run(&cli.run_dir, &cli.state_dir, options)
        }
        Command::Bgp { socket, command } => {
            let socket = socket.clone().unwrap_or_else(|| cli.run_dir.join(paths::BGP_SOCKET));
            match command {
                Bgp::Neighbors => bgp::neighbors(&socket),
                Bgp::Status { kubeconfig } => {
                    return match bgp_status::run(kubeconfig.as_deref()) {
                        Ok(answer) => print(&answer.text(cli.output), answer.status),
                        Err(error) => fail(&error, ExitCode::from(policy::ERROR)),
                    };
                }
                Bgp::Routes { prefix, received, advertised } => {
                    bgp::routes(&socket, *prefix, *received, *advertised)
                }
                Bgp::Explain { prefix } => bgp::explain(&socket, *prefix),
                Bgp::Reset { neighbor } => bgp::reset(&socket, *neighbor),
                Bgp::Refresh { neighbor } => bgp::refresh(&socket, *neighbor),
                Bgp::Dump { file } => bgp::dump(&socket, file),
            }
        }
        Command::Monitor(options) => {
            return match monitor::run(&cli.run_dir, options, cli.output) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, ExitCode::FAILURE),
            };
        }
        Command::Policy { command } => {
            // 1 is an answer there: denied.
            return match policy::run(command, cli.output) {
                Ok(answer) => print(&answer.text, answer.status),
                Err(error) => fail(&error, ExitCode::from(policy::ERROR)),
            };
        }
    };
    match answer {
        Ok(answer) => print(&answer.text(cli.output), answer.status),
        Err(error) => fail(&error, ExitCode::FAILURE),
    }
}

fn print(text: &str, status: ExitCode) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => status,
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => status,
        Err(error) => {
            fail(&anyhow::Error::new(error).context("write the answer"), ExitCode::from(policy::ERROR))
        }
    }
}

fn fail(error: &anyhow::Error, status: ExitCode) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    drop(writeln!(io::stderr(), "margayctl: {error:#}"));
    status
}

/// What a command answers.
struct Answer {
    table: table::Table,
    /// Instead of the one table, several with names.
    sections: Vec<(&'static str, table::Table)>,
    status: ExitCode,
}

impl Answer {
    fn of_sections(sections: Vec<(&'static str, table::Table)>) -> Self {
        Self { sections, ..table::Table::default().into() }
    }

    fn text(&self, output: Output) -> String {
        match &self.sections[..] {
            [] => self.table.text(output),
            sections => table::sections(sections, output),
        }
    }
}

impl From<table::Table> for Answer {
    fn from(table: table::Table) -> Self {
        Self { table, sections: Vec::new(), status: ExitCode::SUCCESS }
    }
}
