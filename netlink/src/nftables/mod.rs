//! nftables over netlink: who changes a table, and changes of elements without a process of `nft`.
//!
//! Tables, chains, rules and sets are `nft`'s to write. Elements of sets change with every pod, and starting a program
//! for each costs more than all the rest of it.

mod elements;
mod monitor;

pub use elements::{Element, Elements, Transaction, Value};
pub use monitor::{TableMonitor, Touched};

/// `NFNL_SUBSYS_NFTABLES`, the upper octet of a message's type.
const SUBSYSTEM: u8 = 10;
/// Octets of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Octets of `struct nfgenmsg`, after the header.
const FAMILY_HEADER: usize = 4;
