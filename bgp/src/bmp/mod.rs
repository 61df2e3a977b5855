//! Messages of the BGP Monitoring Protocol, version 3 (RFC 7854), as a speaker sends them to a collector.
//!
//! Owns the form of the messages only: what is said, to whom and when is `rib/monitor.rs`, the sockets are `daemon/bmp.rs`.
//! Nothing is read here: a collector says nothing.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod message;
mod peer;

pub use message::{
    DownReason, Opened, Statistic, TerminationReason, count, initiation, peer_down, peer_up,
    route_monitoring, statistics, termination,
};
pub use peer::{Instance, MonitoredPeer, Timestamp, View};

#[cfg(test)]
mod tests;
