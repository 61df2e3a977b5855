//! The node agent: watches the API, decides what the node's kernel must hold, and makes it so.
//!
//! ```text
//!   API server --> watch/* ----+                       +--> program/nft    nftables
//!   CNI plugin --> serve/cni --+--> core: one task ----+--> program/endpoint, leak (links, routes, addresses)
//!   kernel ------> watch/drift-+    owns the state     +--> peering, a task of its own --> program/bgp    margay-bgp
//!                                   decide/* is pure   +--> program/cni    /etc/cni/net.d
//!   kernel ------> program/overlay, a task of its own: tunnels and routes to other nodes' pods
//!   serve/http reads what the core publishes            addresses: one task more in mode `pool`, see there
//!   kernel ------> observe: what is dropped, named by the core, to serve/monitor and the log
//!   kernel ------> node_address: where other nodes reach this one
//!   other nodes -> ways: whether packets of full size and connections get there
//!   all of them -> notice: Events, for who looks at the API and not at the log
//! ```
//!
//! Tasks talk over bounded channels; the core is the only one that owns state. Nothing is written to the kernel
//! before the first complete state from the API is known, and what an earlier run wrote stays until then.

mod addresses;
mod causes;
mod conditions;
mod config;
mod core;
mod decide;
mod definitions;
mod facts;
mod freshness;
mod install;
mod log;
mod metrics;
mod network_config;
mod news;
mod node_address;
mod node_status;
mod notice;
mod observe;
mod pace;
mod peering;
mod program;
mod readiness;
mod serve;
mod traffic;
mod tunnels;
mod watch;
mod ways;

use std::{ffi::OsString, process::ExitCode};

use config::{Cli, Command, LogFormat, Sources};
use log::Log;

/// A change makes and frees some thousand small objects: a tenth of its time went to the allocator of the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = Cli::read(&arguments).unwrap_or_else(|error| error.exit());
    let outcome = match &cli.command {
        Some(Command::InstallCni { from, to }) => {
            Log::to_stderr("info", LogFormat::Text).and_then(|_| install::run(from, to))
        }
        Some(Command::Crds) => definitions::print(),
        None => run(cli),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the log may not be there yet when the start fails")]
fn report(error: &anyhow::Error) {
    eprintln!("margay-node: {error:#}");
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let sources = Sources::read(cli)?;
    let settings = sources.settings(None)?;
    let log = Log::to_stderr(&settings.log_level, settings.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The core, a few sockets and the watches: one thread beside the blocking ones is enough on most nodes.
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(core::run(sources, settings, log))
}
