//! Our node: the real agent and an API server that knows all pods of the run.

use std::path::Path;

use margay_lab::apiserver::ApiServer;
use serde_json::json;

use crate::{
    harness::{
        agent::{Agent, Serving},
        plugin::Plugin,
    },
    node::Contender,
};

/// The plugin, with the pods of these names in the API, on the node of the agent.
pub(crate) fn contender(dir: &Path, pods: &[String]) -> Contender {
    Contender::new(Plugin::margay(dir), || daemons(dir, pods))
}

/// The agent goes before its API server.
fn daemons(dir: &Path, pods: &[String]) -> (Agent, Serving) {
    let api = ApiServer::new();
    let put = |object| drop(api.put_raw(object).unwrap());
    put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}));
    put(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.202.0.0/23"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    }));
    for name in pods {
        let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
        let metadata = json!({"namespace": "bench", "name": name});
        put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
    }
    let serving = Serving::start(api);
    let agent = Agent::start(dir, "n1", &json!({"dataplane": "nftables"}));
    agent.until_ready();
    (agent, serving)
}
