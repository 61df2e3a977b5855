//! The routing tables: what peers said, which path is best, what each peer is told.
//!
//! [`Rib`] is a pure core. Changes come in by method call, [`Rib::decide`] selects paths for the prefixes that
//! changed, then [`Rib::take_fib_changes`] and [`Rib::export`] say what the kernel and each peer must learn.
//!
//! ```text
//!  announce/withdraw ─▶ table: prefix -> [{peer, attr}] ─decide─▶ selected ─┬▶ marks for the kernel
//!                              Adj-RIB-In = the paths of one peer           └▶ a mark per peer ─export─▶ messages
//! ```
//!
//! - Attributes are interned: a path is two `u32`, equality of attributes is equality of ids.
//! - A prefix has a slot number while anything refers to it; marks and Adj-RIB-Out are flat vectors by slot.
//! - A peer that reads slowly holds marks, never queued messages: what it missed in between is not sent at all.
//! - Peers of equal [`ExportView`] share one transformation of each attribute set, and one encoding where their
//!   marks are the same.
//!
//! Invariants: the result depends on the current paths only, not on the order in which they came; the order of
//! output depends on the order of input only.

mod buckets;
mod decision;
mod explain;
mod export;
mod fib;
mod group;
mod intern;
mod log;
mod next_hop;
mod peer;
mod state;
mod table;

pub use decision::{DecisionOptions, Loss, Step};
pub use explain::{Advertisement, Explanation, PathKey};
pub use export::{ExportView, Withheld};
pub use fib::{Fib, FibChange, FibNextHop, FibRoute};
pub use log::{Batch, Segment};
pub use next_hop::Tracking;
pub use peer::{AddPath, Excess, PeerId, PeerInfo, Policy, PrefixLimit, Source};
pub use state::{LimitReached, PathView, Rib, Speaker};

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;
