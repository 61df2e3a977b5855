//! What asks about a cluster as a whole, as a shell runs it: `status`, `version`, `diag`, `completion`.

#![expect(clippy::unwrap_used, reason = "helpers fail a test by panicking and are not test functions")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use margay_lab::apiserver::ApiServer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

const PROGRAM: &str = env!("CARGO_BIN_EXE_margayctl");

/// An API server with these objects, and a folder with a kubeconfig for it.
async fn cluster(objects: &[Value]) -> (TempDir, ApiServer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let home = tempfile::tempdir().unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "users": [{"name": "lab", "user": {}}],
    });
    fs::write(home.path().join("config"), config.to_string()).unwrap();
    let api = ApiServer::new();
    for object in objects {
        api.put_raw(object.clone()).unwrap();
    }
    let serving = api.clone();
    tokio::spawn(async move { serving.serve(listener, std::future::pending()).await.unwrap() });
    (home, api)
}

/// Runs it where it sees no node.
async fn run(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--run-dir", "none", "--state-dir", "none"])
        .args(arguments)
        .current_dir(home)
        .env("KUBECONFIG", home.join("config"))
        .stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "spec": {"podCIDRs": ["10.244.1.0/24"]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn agent(ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "margay-x", "namespace": "kube-system", "labels": {"app.kubernetes.io/name": "margay"},
        },
        "spec": {"nodeName": "n1", "containers": [{
            "name": "margay-node", "image": "margay:dev", "env": [{"name": "A_TOKEN", "value": "hunter2"}],
        }]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "margay-node", "ready": ready, "image": "margay:dev", "imageID": "", "restartCount": 0},
        ]},
    })
}

#[tokio::test]
async fn the_exit_status_says_whether_all_is_well_something_is_not_or_nobody_knows() {
    let (home, api) = cluster(&[node(), agent(true)]).await;
    let well = run(home.path(), &["status"]).await;
    assert_eq!(well.status.code(), Some(0), "{}", text(&well));
    assert!(text(&well).contains("nodes   1 of 1 ready"), "{}", text(&well));

    api.put_raw(agent(false)).unwrap();
    let ill = run(home.path(), &["status", "-o", "yaml"]).await;
    assert_eq!(ill.status.code(), Some(1), "{}", text(&ill));
    let report: Value = serde_saphyr::from_str(&String::from_utf8(ill.stdout).unwrap()).unwrap();
    assert_eq!(report["problems"][0]["of"], "node n1");
    assert_eq!(report["problems"][0]["problem"], "container margay-node of its agent is not ready");

    let unknown = run(home.path(), &["status", "--kubeconfig", "none"]).await;
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown));
    assert!(text(&unknown).contains("read kubeconfig none"), "{}", text(&unknown));
}

#[test]
fn a_check_of_addresses_that_cannot_be_made_is_told_from_one_that_finds_something() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let state = file.path().to_str().unwrap();
    let output = Command::new(PROGRAM)
        .args(["--run-dir", "none", "--state-dir", state, "ipam", "check"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains(state), "{}", text(&output));
}

#[tokio::test]
async fn the_version_is_its_own_and_what_the_nodes_run() {
    let (home, _api) = cluster(&[node(), agent(true)]).await;
    let both = text(&run(home.path(), &["version"]).await);
    assert!(both.contains(env!("CARGO_PKG_VERSION")) && both.contains("margay:dev  1"), "{both}");
    let own = run(home.path(), &["version", "--client", "--kubeconfig", "none"]).await;
    assert_eq!(own.status.code(), Some(0), "{}", text(&own));
}

#[tokio::test]
async fn a_bundle_has_what_there_is_says_what_is_missing_and_keeps_no_secret() {
    let configured = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "margay-node", "namespace": "kube-system"},
        "data": {"margay-node.yaml": "logLevel: info"},
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "margay-bgp", "namespace": "kube-system"},
        "data": {"rack-7": "aHVudGVyMg=="},
    });
    let (home, _api) = cluster(&[node(), agent(true), configured, secret]).await;
    let said = run(home.path(), &["diag", "--file", "bundle.tar.gz"]).await;
    assert_eq!(said.status.code(), Some(0), "{}", text(&said));
    assert!(text(&said).contains("node: there is no none; run it on a node"), "{}", text(&said));

    let status = Command::new("tar")
        .args(["--strip-components=1", "-xzf", "bundle.tar.gz"])
        .current_dir(home.path())
        .status()
        .unwrap();
    assert!(status.success());
    let read = |name: &str| fs::read_to_string(home.path().join(name)).unwrap();
    assert!(read("cluster/status.txt").contains("nodes   1 of 1 ready"));
    assert!(read("cluster/nodes.json").contains("10.244.1.0/24"));
    assert!(read("agents/configmap.json").contains("logLevel: info"));
    let pods = read("agents/pods.json");
    assert!(pods.contains("A_TOKEN") && pods.contains("(removed)"), "{pods}");
    let all =
        Command::new("grep").args(["-rlE", "hunter2|aHVudGVyMg", "."]).current_dir(home.path()).output();
    assert_eq!(text(&all.unwrap()), "");

    let mode = fs::metadata(home.path().join("bundle.tar.gz")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let piped = run(home.path(), &["diag", "--file", "-"]).await;
    assert_eq!(&piped.stdout[..2], b"\x1f\x8b", "no gzip: {}", text(&piped));
    assert!(String::from_utf8(piped.stderr).unwrap().contains("run it on a node"));

    let again = run(home.path(), &["diag", "--file", "bundle.tar.gz"]).await;
    assert_eq!(again.status.code(), Some(1), "a bundle that is there was overwritten");
    assert!(
        text(&again).contains("create bundle.tar.gz; --file names another place: File exists"),
        "{}",
        text(&again)
    );
}

#[test]
fn shells_get_completions_and_kubectl_a_plugin() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(PROGRAM).args(["completion", shell]).output().unwrap();
        assert!(output.status.success() && text(&output).contains("margayctl"), "{shell}: {}", text(&output));
    }
    let script = Command::new(PROGRAM).args(["completion", "bash"]).output().unwrap();
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), &script.stdout).unwrap();
    assert!(bash.wait().unwrap().success(), "bash cannot read it");

    let folder = tempfile::tempdir().unwrap();
    symlink(PROGRAM, folder.path().join("kubectl-margay")).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let output =
        Command::new("kubectl").args(["margay", "node", "--help"]).env("PATH", path).output().unwrap();
    assert!(text(&output).contains("Usage: kubectl margay node"), "{}", text(&output));
}
