//! The eBPF dataplane in a cluster: what takes the short way, what does not, and what nobody notices.
//!
//! (The programs by themselves are in `tests/ebpf`; all conformance cases run on both dataplanes.)
#![expect(clippy::unwrap_used, reason = "a test helper fails its test by panicking")]

mod cluster;
mod denials;
mod fallback;
mod flows;
mod full;
mod load;
mod monitor;
mod operate;
mod others;
mod policy;
mod restart;
mod service;
mod tunnel;
