//! One real agent with its speaker, on a node that is a network namespace, against the lab's API server.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails its test by panicking"
)]

mod announce;
mod connections;
mod containerd;
mod drops;
mod events;
mod faults;
mod monitoring;
mod node;
mod plugin;
mod pods;
mod readiness;
mod rollout;
mod sequence;
mod status;
mod tls;
