//! Packets that rules of a firewall tell of (NFLOG), by `nfnetlink_log` (`linux/netfilter/nfnetlink_log.h`).
//!
//! ```text
//!  rule `log group N` --> kernel, in batches --> Listener::read --> Logged --> Packet::parse
//! ```
//!
//! A group has one listener at a time in a network namespace. Without one, such a rule costs the kernel a look whether
//! there is one, and nothing is kept.

#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod listener;
mod packet;
mod read;

pub use listener::Listener;
pub use packet::{Packet, Transport};
pub use read::Logged;

/// `NFNL_SUBSYS_ULOG`, the upper octet of a message's type.
const SUBSYSTEM: u8 = 4;
/// Octets of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Octets of `struct nfgenmsg`, after the header.
const FAMILY_HEADER: usize = 4;

#[cfg(test)]
mod tests;
