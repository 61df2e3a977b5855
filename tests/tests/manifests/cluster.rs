//! An API server of a test's own, and kubectl for it.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use margay_lab::apiserver::ApiServer;
use margay_tests::guide;
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

    /// What kubectl prints; it must succeed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(self.home.path(), arguments).await
    }

    /// Runs a line as an operator's shell in the project's folder does, with the programs that were built beside the test.
    pub(crate) fn shell(&self, line: &str) -> std::process::Command {
        let mut command = guide::shell(line, &self.home.path().join("config"));
        command.env("HOME", self.home.path());
        command
    }

    /// The same to its end, on a thread of its own: what it printed, and its exit status.
    pub(crate) async fn run(&self, line: &str) -> (String, Option<i32>) {
        let mut command = self.shell(line);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.code())
    }

    pub(crate) async fn succeed(&self, line: &str) -> String {
        let (said, status) = self.run(line).await;
        assert_eq!(status, Some(0), "{line}: {said}");
        said
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
