//! Tests the ways to other nodes with packets of full size and with connections: a task beside the core.
//!
//! ```text
//!   core --Peers (addresses and blocks of nodes)--> task --> ledger (pure): which way is due
//!   kernel --links, addresses, routes------------>  |  --> probe: UDP that is not cut, TCP --> judge (pure)
//!                                                   |  --> listen: answers other nodes
//!                                                   +--> report (pure) --> log, Event, condition, metrics, ways.json
//! ```
//! A way is a tunnel to a node where a route leads through one, else the way between the two nodes' own addresses. What is found makes no node
//! unready: what a test cannot pass may be a firewall in front of the test alone. The one thing that it changes is where the checksums of
//! packets in a tunnel are computed.

mod file;
mod judge;
mod ledger;
mod listen;
mod message;
mod probe;
mod report;
mod sys;
mod task;

pub(crate) use file::File;
pub(crate) use sys::has_tx_checksum_offload;
#[cfg(test)]
pub(crate) use sys::set_tx_checksum_offload;
pub(crate) use task::run;
