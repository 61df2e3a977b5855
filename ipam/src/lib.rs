//! Address blocks and the allocations in them.
//!
//! A node has blocks: ranges of addresses that no other node hands out. [`Block`] is the pure decision which
//! address comes next; [`Store`] keeps blocks on disk so that a process killed at any instruction neither hands
//! an address out twice nor loses one. Several processes may use a store at once.
//!
//! Where blocks come from [`Pool`]s, [`plan()`] says which a node claims and gives back, and [`report()`] how the
//! pools are doing.

mod allocate;
mod block;
mod occupied;
mod owner;
mod plan;
mod pool;
mod report;
mod store;

pub use block::{Block, Offset, Slot, Window, WindowError};
pub use owner::{Owner, OwnerError};
pub use plan::{
    Action, CLAIM_AHEAD_PERCENT, Claimed, GIVE_BACK_PERCENT, Input, Local, Plan, plan, pool_of, usable,
};
pub use pool::{Assignment, Fault, Pool, Range, Supply, by_age, holds, judge, overlap};
pub use report::{Report, report};
pub use store::{Allocation, Choice, Error, Held, Reserved, Store, Usage};
