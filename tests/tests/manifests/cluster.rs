//! An API server of a test's own, and kubectl for it.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use margay_lab::apiserver::ApiServer;
use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command, task::JoinHandle};

const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    home: tempfile::TempDir,
    pub(crate) api: ApiServer,
    serving: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let home = tempfile::tempdir().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": {}}],
        });
        std::fs::write(home.path().join("config"), config.to_string()).unwrap();
        let api = ApiServer::new();
        let server = api.clone();
        let serving = tokio::spawn(async move {
            server.serve(listener, std::future::pending()).await.unwrap();
        });
        Self { home, api, serving }
    }

    /// The file with which clients find it, alone in the home of the test.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("config")
    }

    /// What kubectl prints; it must succeed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(self.home.path(), arguments).await
    }

    pub(crate) async fn apply(&self, file: &Path) -> String {
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]).await
    }

    /// Applies an object, or says why the API server did not take it.
    pub(crate) async fn send(&self, object: &Value) -> Result<(), String> {
        let file = self.home.path().join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        let output = run(self.home.path(), &["apply", "-f", file.to_str().unwrap()]).await;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
    }

    /// The object as the API server has it.
    pub(crate) async fn read(&self, arguments: &[&str]) -> Value {
        let output = self.kubectl(&[&["get", "-o", "json"], arguments].concat()).await;
        serde_json::from_str(&output).unwrap()
    }
}

/// Runs kubectl with a home of the test's own, whose `config` it uses if there is one.
pub(crate) async fn kubectl(home: &Path, arguments: &[&str]) -> String {
    let output = run(home, arguments).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "kubectl {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

async fn run(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("kubectl");
    command
        .args(arguments)
        .env("HOME", home)
        .env("KUBECONFIG", home.join("config"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    tokio::time::timeout(DEADLINE, command.output())
        .await
        .unwrap_or_else(|_| panic!("kubectl {arguments:?} did not end"))
        .unwrap_or_else(|error| panic!("run kubectl: {error}; ./setup installs it"))
}

pub(crate) fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}
