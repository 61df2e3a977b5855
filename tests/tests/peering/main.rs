//! BGP by objects of Kubernetes: whole clusters, with BIRD as the router beside them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

mod cluster;
mod reflector;
mod router;
mod services;
