//! `margayctl`: what Margay knows, in words; as `kubectl-margay` in the path it is also `kubectl margay`. `status`, `version`,
//! `policy` and `bgp status` ask the API server and run anywhere, `diag` does what it can; all else runs on a node, or in the
//! agent's container.
//!
//! There it reads what the node's processes leave on disk and asks their sockets; `policy` also reads files. It changes nothing but the sessions that `bgp reset` and `bgp refresh` name, the file that `bgp dump` has the
//! speaker write, and with `node cleanup` whatever Margay has left on a node.

mod bgp;
mod bgp_status;
mod check;
mod cleanup;
mod cluster;
mod diag;
mod ebpf;
mod endpoints;
mod ipam;
mod monitor;
mod node_status;
mod output;
mod policy;
mod status;
mod table;
mod version;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use margay_api::paths;
use margay_bgp::Prefix;
use output::Output;

/// How kubectl finds the program as its own subcommand.
const PLUGIN: &str = "kubectl-margay";

/// Shows what Margay does in a cluster, and on this node.
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

#[derive(Debug, Subcommand)]
enum Command {
    /// The cluster at a glance: nodes, sessions, pools, and what is wrong with what to do about it. Exit status 1 when
    /// something is, 2 when it is not known.
    Status(status::Options),
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
    /// Gathers what a bug report needs, of this node and of the cluster, into one file, without secrets.
    Diag(diag::Options),
    /// The version of this program, and what the nodes run.
    Version(version::Options),
    /// Prints what a shell needs to complete this program's arguments: source <(margayctl completion bash)
    Completion {
        /// Which shell.
        shell: Shell,
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
    /// Is this node ready for pods? Exit status 1 when it is not.
    Status,
    /// Takes from the node what Margay has made on it, once no agent and no pod is there any more: its configuration and
    /// plugin, links, programs, routes, table of nftables, records and addresses.
    Cleanup(cleanup::Options),
}

#[derive(Debug, Subcommand)]
enum Ipam {
    /// Pools, blocks and their use, and who has which address.
    Show,
    /// Do disk, records and kernel agree? Exit status 1 when they do not, 2 when it is not known.
    Check,
}

#[derive(Debug, Subcommand)]
enum Bgp {
    /// Sessions and their states.
    Neighbors,
    /// BMP collectors (RFC 7854) and the sessions with them.
    Collectors,
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
    let name = std::env::args_os().next().unwrap_or_default();
    let mut command = Cli::command();
    if Path::new(&name).file_stem().is_some_and(|name| name == PLUGIN) {
        command = command.bin_name("kubectl margay");
    }
    let cli = match Cli::from_arg_matches(&command.clone().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut command).exit(),
    };
    // Where 1 is an answer, denied or not well, what keeps from one is 2.
    let unknown = if judges(&cli.command) { ExitCode::from(policy::ERROR) } else { ExitCode::FAILURE };
    match run(&cli, &mut command) {
        Ok((text, status)) => print(&text, status),
        Err(error) => fail(&error, unknown),
    }
}

fn judges(command: &Command) -> bool {
    matches!(
        command,
        Command::Status(_)
            | Command::Policy { .. }
            | Command::Bgp { command: Bgp::Status { .. }, .. }
            | Command::Ipam { command: Ipam::Check }
    )
}

/// What to print, and the exit status.
fn run(cli: &Cli, command: &mut clap::Command) -> anyhow::Result<(String, ExitCode)> {
    let Cli { run_dir, state_dir, output, .. } = cli;
    let answer = match &cli.command {
        Command::Status(options) => status::run(options)?,
        Command::Endpoints => endpoints::run(run_dir)?,
        Command::Ipam { command: Ipam::Show } => ipam::show(run_dir, state_dir)?,
        Command::Ipam { command: Ipam::Check } => check::run(run_dir, state_dir)?,
        Command::Ebpf(options) => ebpf::run(run_dir, options)?,
        Command::Node { command: Node::Status } => node_status::run(run_dir, state_dir),
        Command::Node { command: Node::Cleanup(options) } => cleanup::run(run_dir, state_dir, options)?,
        Command::Diag(options) => match diag::run(&diag::Places { run_dir, state_dir }, options)? {
            Some(answer) => answer,
            None => return Ok((String::new(), ExitCode::SUCCESS)),
        },
        Command::Version(options) => version::run(options)?,
        Command::Bgp { socket, command } => {
            let socket = socket.clone().unwrap_or_else(|| run_dir.join(paths::BGP_SOCKET));
            bgp_command(&socket, command)?
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, command, "margayctl", &mut script);
            return Ok((String::from_utf8(script)?, ExitCode::SUCCESS));
        }
        Command::Monitor(options) => {
            monitor::run(run_dir, options, *output)?;
            return Ok((String::new(), ExitCode::SUCCESS));
        }
        Command::Policy { command } => {
            let answer = policy::run(command, *output)?;
            return Ok((answer.text, answer.status));
        }
    };
    Ok((answer.text(*output), answer.status))
}

fn bgp_command(socket: &Path, command: &Bgp) -> anyhow::Result<Answer> {
    match command {
        Bgp::Neighbors => bgp::neighbors(socket),
        Bgp::Collectors => bgp::collectors(socket),
        Bgp::Status { kubeconfig } => bgp_status::run(kubeconfig.as_deref()),
        Bgp::Routes { prefix, received, advertised } => bgp::routes(socket, *prefix, *received, *advertised),
        Bgp::Explain { prefix } => bgp::explain(socket, *prefix),
        Bgp::Reset { neighbor } => bgp::reset(socket, *neighbor),
        Bgp::Refresh { neighbor } => bgp::refresh(socket, *neighbor),
        Bgp::Dump { file } => bgp::dump(socket, file),
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
