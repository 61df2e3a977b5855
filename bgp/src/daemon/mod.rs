//! The speaker as a process: sockets, timers, tasks and the kernel around the pure cores.
//!
//! ```text
//!  control socket ──requests──▶ ┌────────────┐ ◀──accepted── listener (one task per address)
//!  (one task per client)        │ supervisor │
//!  signals ───────────────────▶ └─────┬──────┘
//!                    start/stop/accept│ settings
//!                 ┌───────────────────┼──────────────────┐
//!                 ▼                   │                  ▼
//!          session (one task   ──updates──▶  rib (one  ──changes──▶ kernel (one task; requests on
//!          per neighbour:      ◀──batches──  task, owns             a blocking thread, changes of
//!          sockets, timers)                  the tables)            links and routes as events)
//!                 ▲
//!                 └──losses── BFD (a thread of its own, told by the supervisor whom to watch)
//!
//!          rib ──batches──▶ collector (one task per BMP collector: a socket, dialled anew when it is lost)
//! ```
//!
//! - All channels are bounded. A session that cannot hand on what it read stops reading, but keeps its timers: a
//!   long computation in the rib task never costs a session.
//! - The rib task never waits for a session or a collector: it has at most two batches of messages under way to each, and forms
//!   the next when there is room. What is little it writes to a session's socket itself (`sender`), and wakes the session
//!   only if the socket does not take it. It waits for the kernel task only in a select, and what changes meanwhile is merged.
//! - The kernel task shows the rib task the routes of others, by which next hops are resolved, and is shown which next
//!   hops there are, so that it need not look whenever a route changes. Both are the latest values, which nobody waits
//!   for.
//! - The order of a session's `Up`, updates and `Down` is that of one channel.
//! - Nothing is written to the kernel before the first configuration, and routes of an earlier run stay until all
//!   neighbours have said what they know, or the settle time is over.

mod bfd;
mod bmp;
mod clock;
mod control_server;
mod convergence;
mod dump;
mod interfaces;
mod kernel;
mod kernel_plan;
mod kernel_routes;
mod listener;
mod metrics;
mod rib_task;
mod sender;
mod session;
mod supervisor;
mod sys;
mod timer;
mod transport;
mod view;

use std::path::PathBuf;

pub use listener::PasswordError;
pub use supervisor::{DaemonError, run};

use crate::config::Config;

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stand-alone configuration; without one the speaker waits for it on the control socket.
    pub config: Option<Config>,
    /// Where to make the control socket.
    pub control: PathBuf,
    /// What becomes of our kernel routes when the speaker ends in an orderly way.
    pub routes_on_exit: RoutesOnExit,
}

/// What becomes of our kernel routes when the speaker ends in an orderly way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutesOnExit {
    /// They stay, so that an upgrade of the speaker costs no packet; the next run takes them over.
    Keep,
    /// They go.
    Remove,
}
