//! A node for one test: a namespace, directories, an API server, and processes that end with it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use margay_lab::{apiserver::ApiServer, identity};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{interval, timeout},
};

pub(crate) const API: &str = "127.0.0.1:6443";
const HTTP: &str = "127.0.0.1:9099";
/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Node {
    dir: tempfile::TempDir,
    pub(crate) api: ApiServer,
    serving: Option<JoinHandle<()>>,
    agent: Option<Process>,
    speaker: Option<Process>,
}

/// Runs a test on a thread in a namespace of its own, which is gone with it.
pub(crate) fn on_node(test: impl AsyncFnOnce(&mut Node) + Send) {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
            for arguments in ["link set lo up", "address add 192.0.2.1/32 dev lo"] {
                assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut node = Node::new().await;
                test(&mut node).await;
            });
        });
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = ApiServer::new();
        identity::admit_agent(&api).unwrap();
        let mut node = Self { dir, api, serving: None, agent: None, speaker: None };
        node.put_kubeconfig(&json!({"server": format!("http://{API}")}));
        node.start_api().await;
        node
    }

    /// What agents that are started from now on know of the API server, and who they are to it.
    pub(crate) fn put_kubeconfig(&self, cluster: &Value) {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": identity::NAMESPACE}}],
            "users": [{"name": "lab", "user": {"token": identity::TOKEN}}],
        });
        fs::write(self.path("kubeconfig"), kubeconfig.to_string()).unwrap();
    }

    pub(crate) async fn start_api(&mut self) {
        let listener = TcpListener::bind(API).await.unwrap();
        let api = self.api.clone();
        self.serving =
            Some(tokio::spawn(async move { api.serve(listener, std::future::pending()).await.unwrap() }));
    }

    /// Cuts all connections and accepts no more.
    pub(crate) async fn stop_api(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
    }

    /// What agents that are started from now on find in their configuration file.
    pub(crate) fn configure_agent(&self, config: &Value) {
        fs::write(self.path("margay-node.yaml"), config.to_string()).unwrap();
    }

    pub(crate) fn start_agent(&mut self) {
        let path = |name: &str| self.path(name).display().to_string();
        let config = self.path("margay-node.yaml");
        if !config.exists() {
            self.configure_agent(&json!({}));
        }
        let agent = Process::start(
            "margay-node",
            &[
                "--node-name=n1",
                &format!("--config={}", config.display()),
                &format!("--kubeconfig={}", path("kubeconfig")),
                &format!("--run-dir={}", path("run")),
                &format!("--state-dir={}", path("lib")),
                &format!("--cni-conf-dir={}", path("cni")),
            ],
            &self.path("agent.log"),
        );
        self.agent = Some(agent);
    }

    pub(crate) fn signal_speaker(&self, signal: Signal) {
        self.speaker.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn start_speaker(&mut self) {
        fs::create_dir_all(self.path("run")).unwrap();
        let control = format!("--control={}", self.path("run/bgp.sock").display());
        self.speaker = Some(Process::start("margay-bgp", &[&control], &self.path("speaker.log")));
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill_agent(&mut self) {
        self.agent = None;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn put_node(&self, spec: &Value) {
        let status = json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": spec, "status": status,
        });
        self.api.put_raw(node).unwrap();
    }

    /// A policy that lets the pods of one `app` in to those of another, and nobody else.
    pub(crate) fn put_policy(&self, name: &str, to: &str, from: &str) {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
            "spec": {"podSelector": {"matchLabels": {"app": to}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}]}]},
        });
        self.api.put_raw(policy).unwrap();
    }

    /// An endpoint record as an ADD leaves it, without the interface.
    pub(crate) fn put_record(&self, pod: &str, address: &str) {
        let endpoint = margay_api::endpoint::Endpoint {
            container_id: pod.to_owned(),
            ifname: "eth0".into(),
            network: "margay".into(),
            netns: String::new(),
            host_ifname: margay_api::endpoint::EndpointId::of(pod, "eth0").host_ifname(),
            mac: "02:00:00:00:00:01".into(),
            host_mac: "02:00:00:00:00:02".into(),
            addresses: vec![address.parse().unwrap()],
            mtu: 1500,
            pod: Some(margay_api::endpoint::PodRef {
                namespace: "default".into(),
                name: pod.to_owned(),
                uid: None,
            }),
        };
        margay_api::endpoint::Records::below(&self.path("run")).write(&endpoint).unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Result<String, String> {
        get(HTTP, path).await
    }

    /// Deletes what is at a path of the API server.
    pub(crate) async fn delete(&self, path: &str) {
        let mut stream = TcpStream::connect(API).await.unwrap();
        let request = format!("DELETE {path} HTTP/1.1\r\nHost: {API}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 "), "{path}: {text}");
    }

    /// Waits until an attempt succeeds: the one place that polls, as a kernel table and a health page can only be
    /// asked.
    pub(crate) async fn eventually<T>(&self, what: &str, attempt: impl AsyncFn() -> Result<T, String>) -> T {
        self.within(PATIENCE, what, attempt).await
    }

    /// Likewise, with another limit.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        attempt: impl AsyncFn() -> Result<T, String>,
    ) -> T {
        let mut tick = interval(Duration::from_millis(20));
        let last = std::cell::RefCell::new(String::new());
        let waiting = async {
            loop {
                tick.tick().await;
                match attempt().await {
                    Ok(value) => return value,
                    Err(problem) => last.replace(problem),
                };
            }
        };
        timeout(limit, waiting).await.unwrap_or_else(|_elapsed| {
            panic!(
                "{what}: not within {limit:?}; at last: {}\n{}",
                last.borrow(),
                fs::read_to_string(self.path("agent.log")).unwrap_or_default()
            )
        })
    }

    pub(crate) async fn ready(&self) {
        self.eventually("the agent is ready", async || self.get("/readyz").await).await;
    }
}

/// What answers HTTP at an address in the node says, if that is 200 OK; otherwise as an error.
pub(crate) async fn get(address: &str, path: &str) -> Result<String, String> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = answer.await.map_err(|error| format!("{path}: {error}"))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    if head.contains(" 200 ") { Ok(body.to_owned()) } else { Err(body.to_owned()) }
}

/// The table as the kernel has it.
pub(crate) fn table() -> Result<String, String> {
    let output = Command::new("nft").args(["list", "table", "inet", "margay"]).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// Where a program of ours is.
pub(crate) fn program(name: &str) -> PathBuf {
    margay_lab::program(name).unwrap()
}

/// A process that is killed on drop.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn start(program: &str, arguments: &[&str], log: &Path) -> Self {
        Self::start_at(&self::program(program), arguments, log)
    }

    /// Starts a program that need not be ours.
    pub(crate) fn start_at(path: &Path, arguments: &[&str], log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(path).args(arguments).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
