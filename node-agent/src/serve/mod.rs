//! What the agent serves: the plugin, on a Unix socket; operators and the kubelet, over HTTP.

pub(crate) mod http;
mod monitor;
pub(crate) mod plugin;
