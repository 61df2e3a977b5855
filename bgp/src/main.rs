//! `margay-bgp`: the BGP speaker of a node, or a stand-alone one.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use margay_bgp::check;
use margay_bgp::config::Config;
use margay_bgp::control;
use margay_bgp::daemon::{self, Options, RoutesOnExit};
use tracing_subscriber::EnvFilter;

/// Speaks BGP-4 to neighbours and installs what it learns in the kernel. Ends on SIGTERM.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Flags {
    /// Configuration in YAML; without it the speaker waits for one on the control socket.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to make the control socket.
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH)]
    control: PathBuf,
    /// Leave our kernel routes in place at the end, so that a restart costs no packet.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    keep_routes_on_exit: bool,
    /// The form of the log on standard error; `RUST_LOG` filters it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says whether a configuration can be used, and whether its policies pass its tests. Exit status 1 if not.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// More tests, in a file with `tests:`.
        #[arg(long, value_name = "FILE")]
        tests: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    if let Some(Command::Check { config, tests }) = &flags.command {
        let report = check::run(config, tests.as_deref());
        write!(std::io::stdout(), "{report}").context("write the report")?;
        return Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match flags.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    let config = flags
        .config
        .map(|path| {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Config::from_yaml(&text).with_context(|| format!("read {}", path.display()))
        })
        .transpose()?;
    let routes_on_exit = if flags.keep_routes_on_exit { RoutesOnExit::Keep } else { RoutesOnExit::Remove };
    // One thread for the tables, one for the sessions beside it; more would only move between caches.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(daemon::run(Options { config, control: flags.control, routes_on_exit }))?;
    Ok(ExitCode::SUCCESS)
}
