//! Which of its addresses other nodes reach this one at: a task beside the core.
//!
//! ```text
//!   kernel --links, addresses, routes--> task --> choose (pure) --> annotation margay.dev/node-ips of the own Node
//!   core ----Facts (what it says now)---->  |
//!                                           +--> core: whether there is one, and else why
//! ```
//! It owns that annotation and nothing else. All that goes by a node's address, also on the node itself, goes by what its
//! object says ([`crate::watch::Node::addresses`]): sessions, tunnels, direct routes, who may send into tunnels, and the MTU.

mod choose;
mod method;
mod task;

pub(crate) use method::{File, NodeAddress};
pub(crate) use task::run;
