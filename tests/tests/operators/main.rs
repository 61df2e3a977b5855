//! What an operator sees through the API, in clusters of real agents that may do what the manifests let them and no more.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

mod admission;
mod cluster;
mod conditions;
mod events;
mod forms;
mod host;
mod network;
mod rules;
mod settings;
mod walkthrough;
