//! What `kubectl apply -f manifests/margay.yaml` puts into a cluster, by the real kubectl and the lab's API server.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers fail a test by panicking and are not test functions"
)]

mod chart;
mod cluster;
mod examples;
mod guide;
mod install;
mod overlays;
mod readme;
mod rules;
