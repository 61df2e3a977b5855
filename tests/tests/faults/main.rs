//! What goes wrong around a cluster under traffic: other versions, full disks, others' hands, wrong objects, storms.
//!
//! (Processes that are killed while something else happens are in `crash`.)
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

mod addresses;
mod clock;
mod cluster;
mod disk;
mod killed;
mod neighbours;
mod outage;
mod rolling;
mod sabotage;
mod storm;
mod traffic;
mod upgrade;
