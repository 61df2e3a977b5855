//! Our node: the real agent and an API server that knows all pods of the run.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use margay_lab::{apiserver::ApiServer, clock};
use serde_json::json;

use crate::node::Contender;

const API: &str = "127.0.0.1:6443";

/// The plugin, with the pods of these names in the API, on the node of the agent.
pub(crate) fn contender(dir: &Path, pods: &[String]) -> Contender {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    // As it is shipped: `make plugin`.
    let plugin = built.join(format!("{}-unknown-linux-gnu/release", std::env::consts::ARCH));
    let (run, state) = (dir.join("run"), dir.join("state"));
    let config = json!({
        "cniVersion": "1.0.0", "name": "margay", "type": "margay", "mtu": 1500, "runDir": run, "stateDir": state,
    });
    let program = built.join("release/margay-node");
    Contender::new("margay", &plugin, &config, || daemons(dir, &program, pods))
}

fn daemons(dir: &Path, program: &Path, pods: &[String]) -> Agent {
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
    // The thread, and so its listener, stays in the node's namespace.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(API).await.unwrap();
            api.serve(listener, std::future::pending()).await.unwrap();
        });
    });
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": format!("http://{API}")}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "users": [{"name": "lab", "user": {}}],
    });
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let kubeconfig: PathBuf = write("kubeconfig", kubeconfig.to_string());
    let settings = json!({
        "nodeName": "n1", "kubeconfig": kubeconfig, "runDir": dir.join("run"), "stateDir": dir.join("state"),
        "cniConfDir": dir.join("cni"), "bgp": {"enabled": false, "asn": 64512},
    });
    let settings = write("settings", settings.to_string());
    let log = File::create(dir.join("log")).unwrap();
    let child =
        Command::new(program).arg("--config").arg(settings).stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let agent = Agent(child);
    // It comes last.
    let written = || dir.join("cni/10-margay.conflist").exists().then_some(());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ready = runtime.block_on(clock::until(Duration::from_secs(30), "the agent", async || written()));
    assert!(ready.is_ok(), "{}", fs::read_to_string(dir.join("log")).unwrap());
    agent
}

/// Killed when it is dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
