//! The routing tables: what peers said, which path is best, what each peer is told, what collectors are told
//! of all that.
//!
//! [`Rib`] is a pure core. Changes come in by method call, [`Rib::decide`] selects paths for the prefixes that
//! changed and encodes what fills messages, [`Rib::write_pending`] the rest; then [`Rib::take_fib_changes`] and
//! [`Rib::export`] say what the kernel and each peer must learn.
//!
//! ```text
//!  update ─▶ table: prefix -> paths ─decide─┬▶ marks for the kernel
//!            Adj-RIB-In, Loc-RIB            └▶ group: entries ─▶ buckets ─▶ log ─export─▶ slices for each member
//!                                              Adj-RIB-Out       messages that are not full yet
//! ```
//!
//! - Attributes are interned, as received and as told: equality of attributes is equality of numbers.
//! - A prefix has a slot number while it has paths or marks; what a group was told is a flat vector by slot.
//! - Nothing is kept by peer and prefix: who said a path itself is left out of the group's entry, and of the message.
//! - A peer that reads slowly costs a bounded part of the log, or the set of prefixes that it missed.
//!
//! Invariants: the result depends on the current paths only, not on the order in which they came; the order of
//! output depends on the order of input only.

mod adj_in;
mod buckets;
mod bundle;
mod decision;
mod dump;
mod explain;
mod export;
mod fib;
mod group;
mod intern;
mod log;
mod monitor;
mod next_hop;
mod peer;
mod policies;
mod resolve;
mod state;
mod table;
mod weight;

pub use adj_in::LimitReached;
pub use decision::{DecisionOptions, Loss, Step};
pub use dump::Dump;
pub use explain::{Advertisement, Explanation, PathKey};
pub use export::{ExportView, Withheld};
pub use fib::{Fib, FibChange, FibNextHop, FibRoute};
pub use log::{Batch, Segment};
pub use monitor::{MonitorId, Views};
pub use next_hop::Tracking;
pub use peer::{AddPath, Counts, Excess, PeerId, PeerInfo, Policies, Policy, PrefixLimit, Sizes, Source};
pub use policies::{ReceivedView, Refused, Tallies};
pub use resolve::{KernelRoute, KernelRoutes};
pub use state::{PathView, Rib, Speaker};

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod monitor_tests;
#[cfg(test)]
mod tests;
