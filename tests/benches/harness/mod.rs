//! What the benchmarks with a real agent share: the agent with its API server, and calls of plugins.

pub(crate) mod agent;
pub(crate) mod plugin;
