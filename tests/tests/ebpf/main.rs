//! The kernel programs, loaded into the running kernel by `aya`.
//!
//! Each test has network namespaces of its own. Needs root, and the objects that `make ebpf` builds.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers fail a test by panicking and are not test functions"
)]

mod branch;
mod dataplane;
mod full;
mod ipip;
mod model;
mod packet;
mod pod;
mod site;
mod size;
mod stack;
mod sys;
mod traffic;
mod tun;
mod tunnel;
mod world;
