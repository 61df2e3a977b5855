//! What is dropped, and why: for operators who watch, for the log, and for the metrics. And what begins on the short way, for
//! those who watch.
//!
//! ```text
//!  kernel: NFLOG ──> task ── packets, in batches ──> core: names pods and policies ──┐
//!                     │ <──────────────────── events ────────────────────────────────┘
//!                     ├──> clients, each with a filter and a bounded queue   (serve/monitor)
//!                     └──> the log, for namespaces that ask for it           (throttle)
//!
//!  kernel: counters ──> core ── tally ──> metrics
//!
//!  programs: a ring ──> flows ── flows, in batches ──> core: names pods and policies ──> clients
//!                         └── what they drop ──> task, as from NFLOG
//! ```
//!
//! The task listens only as long as somebody wants to hear; the rest of the time the kernel keeps nothing. Names are
//! those that are in force when the core is asked, some hundredths of a second after the packet. Who is too slow, loses
//! events and is told how many. The counters are exact, as far as [`tally`] says; what NFLOG tells is limited by the rate
//! of each cause.

mod client;
mod flows;
mod name;
mod tally;
mod task;
mod throttle;

pub(crate) use client::{Said, Subscription};
pub(crate) use flows::{AskedFlows, Denials, named as named_flows, run as run_flows};
pub(crate) use name::named;
pub(crate) use tally::Tally;
pub(crate) use task::{Asked, Observing, start};
