//! The real agent of a node, a network namespace, and an API server in front of it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use margay_lab::apiserver::ApiServer;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time};

const API: &str = "127.0.0.1:6443";
const HTTP: &str = "127.0.0.1:9099";
/// How often readiness is asked for, which costs the agent time; how long it may take.
const PERIOD: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_mins(2);

/// What `cargo build` has built.
pub(crate) fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// An API server that serves in the namespace in which it was started, until it is dropped.
pub(crate) struct Serving {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves from a thread of its own, which inherits the caller's namespace.
    pub(crate) fn start(api: ApiServer) -> Self {
        let listener = std::net::TcpListener::bind(API).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (end, ended) = oneshot::channel();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            // Its other end is never used, only dropped.
            api.serve(listener, async move { drop(ended.await) }).await.unwrap();
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { end: Some(end), thread: Some(thread::spawn(move || runtime.block_on(serve))) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The agent, killed when it is dropped; what it wrote stays in the kernel.
pub(crate) struct Agent {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts it in the caller's namespace, where the API server is too. Its files are below `dir`; a bpf file system, if the
    /// dataplane takes one, is to be mounted at `bpf` there. `chosen` goes before what settings are otherwise.
    pub(crate) fn start(dir: &Path, node: &str, chosen: &Value) -> Self {
        fs::create_dir_all(dir).unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{API}")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": {}}],
        });
        fs::write(dir.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let mut settings = json!({
            "bpfDir": dir.join("bpf"), "nodeName": node, "kubeconfig": dir.join("kubeconfig"), "runDir": dir.join("run"),
            "stateDir": dir.join("state"), "cniConfDir": dir.join("cni"), "bgp": {"enabled": false, "asn": 64512},
        });
        settings.as_object_mut().unwrap().extend(chosen.as_object().unwrap().clone());
        fs::write(dir.join("settings"), settings.to_string()).unwrap();
        let log = dir.join("log");
        // It ends with the thread that starts it, even when that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(built().join("release/margay-node"))
            .arg("--config")
            .arg(dir.join("settings"))
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until it says that it is ready; the caller is in its namespace.
    pub(crate) fn until_ready(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ready = runtime.block_on(async {
            let mut tick = time::interval(PERIOD);
            let ready = async {
                while !is_ready() {
                    tick.tick().await;
                }
            };
            time::timeout(PATIENCE, ready).await
        });
        assert!(
            ready.is_ok(),
            "the agent is not ready after {PATIENCE:?}:\n{}",
            fs::read_to_string(&self.log).unwrap()
        );
    }
}

fn is_ready() -> bool {
    ask("/readyz").is_ok_and(|answer| answer.contains(" 200 "))
}

/// What the agent in the caller's namespace says at a path.
pub(crate) fn ask(path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(HTTP)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
