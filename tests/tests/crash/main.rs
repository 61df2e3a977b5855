//! Processes killed at awkward moments, in a lab under traffic. (The plugin killed at each of its system calls is in
//! `cni-plugin/tests/crash.rs`; the speaker against BIRD in `interop/restart.rs`.)
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

mod adding;
mod cluster;
mod policy;
mod session;
