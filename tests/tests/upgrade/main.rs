//! Nodes that go from the programs of an older commit to those of now and back: `make test-upgrade`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

#[path = "../faults/cluster.rs"]
#[expect(dead_code, reason = "the tests of other faults use the rest")]
mod cluster;
mod denied;
mod older;
mod rollback;
#[path = "../faults/traffic.rs"]
mod traffic;
