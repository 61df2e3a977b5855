//! Addresses of pools: whole clusters in mode `pool`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

mod annotation;
mod cluster;
mod life;
mod race;
mod traffic;
