//! Ways between nodes other than BGP: whole clusters with tunnels and direct routes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

mod cluster;
mod direct;
mod ipv6;
mod life;
mod live;
mod modes;
mod mtu;
mod sources;
mod tunnel;
mod uplinks;
mod ways;
