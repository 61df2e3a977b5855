//! Address blocks and the allocations in them.
//!
//! A node has blocks: ranges of addresses that no other node hands out. [`Block`] is the pure decision which
//! address comes next; [`Store`] keeps blocks on disk so that a process killed at any instruction neither hands
//! an address out twice nor loses one. Several processes may use a store at once.

mod allocate;
mod block;
mod owner;
mod store;

pub use block::{Block, Offset, Slot, Window, WindowError};
pub use owner::{Owner, OwnerError};
pub use store::{Allocation, Error, Held, Reserved, Store};
