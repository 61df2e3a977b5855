//! nftables over netlink (`linux/netfilter/nf_tables.h`): tables written, read and watched, without a process of `nft`.
//!
//! ```text
//!  Transaction = [Change]  --> Connection::commit    all or none
//!  chains, rules, names    <-- Connection::outline   what a table is made of, without its elements
//!  packets, octets         <-- Connection::counters
//!  who changed it          <-- TableMonitor
//! ```
//!
//! Only what Margay needs is here: family `inet`, chains of type `filter`, and the expressions of [`Expr`]. Sets and
//! maps are declared as `nft` declares them, so that `nft list ruleset` shows them as it shows its own.

mod attribute;
mod chain;
mod change;
mod connection;
mod element;
mod expr;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod monitor;
mod read;
mod set;

pub use chain::{Base, Chain, ChainKind, Hook, Policy, Rule};
pub use change::{Change, Transaction};
pub use connection::Connection;
pub use element::{Data, Element, Field, Key, Verdict};
pub use expr::{CmpOp, Expr, Found, Header, MetaKey, Register};
pub use monitor::{TableMonitor, Touched};
pub use read::{Count, Outline};
pub use set::{SetKind, Type};

/// `NFNL_SUBSYS_NFTABLES`, the upper octet of a message's type.
const SUBSYSTEM: u8 = 10;
/// Octets of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Octets of `struct nfgenmsg`, after the header.
const FAMILY_HEADER: usize = 4;

/// `NFT_MSG_*`, the lower octet of a message's type.
mod message {
    pub(super) const NEW_TABLE: u8 = 0;
    pub(super) const DELETE_TABLE: u8 = 2;
    pub(super) const NEW_CHAIN: u8 = 3;
    pub(super) const GET_CHAIN: u8 = 4;
    pub(super) const DELETE_CHAIN: u8 = 5;
    pub(super) const NEW_RULE: u8 = 6;
    pub(super) const GET_RULE: u8 = 7;
    pub(super) const DELETE_RULE: u8 = 8;
    pub(super) const NEW_SET: u8 = 9;
    pub(super) const GET_SET: u8 = 10;
    pub(super) const DELETE_SET: u8 = 11;
    pub(super) const NEW_ELEMENT: u8 = 12;
    pub(super) const DELETE_ELEMENT: u8 = 14;
    pub(super) const NEW_GENERATION: u8 = 15;
    pub(super) const GET_GENERATION: u8 = 16;
    pub(super) const NEW_OBJECT: u8 = 18;
    pub(super) const GET_OBJECT: u8 = 19;
    pub(super) const DELETE_OBJECT: u8 = 20;
}

/// `NFTA_*_TABLE`: the same in messages about chains, rules, sets, elements and objects; `NFTA_TABLE_NAME` too.
const TABLE: u16 = 1;
/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;
/// `NFT_OBJECT_COUNTER`.
const OBJECT_COUNTER: u32 = 1;

#[cfg(test)]
mod tests;
