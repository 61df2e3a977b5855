//! The plugin as runtimes call it: the real binary, in namespaces of the test's own, with a stand-in agent.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails its test by panicking"
)]

mod chain;
mod crash;
mod node;
mod shrink;
mod spec;
mod verbs;
