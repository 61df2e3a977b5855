//! A node of the test's own with a stand-in agent, and the plugin called on it as a runtime would.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::net::UnixListener},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use margay_api::{
    agent::{Addressing, Request, Response},
    endpoint::Records,
    paths,
};
use margay_ipam::Store;
use margay_netlink::{Socket, link, netns::Namespace};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Blocks of both families.
pub(crate) const DUAL: &[&str] = &["192.0.2.0/24", "2001:db8:7::/64"];

/// A node: the network namespace that the test's thread is in, and directories of its own.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) asked: Arc<Mutex<Vec<Request>>>,
}

/// Runs a test on a node of its own whose agent answers with `answer`, but takes no pod down; no agent when `None`.
pub(crate) fn on_node(blocks: &[&str], answer: Option<Response>, test: impl FnOnce(&Node) + Send) {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
            let node = Node { dir: tempfile::tempdir().unwrap(), asked: Arc::default() };
            let networks: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
            node.store().set_blocks(&networks).unwrap();
            if let Some(answer) = answer {
                node.serve(answer);
            }
            test(&node);
        });
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What the agent answers in mode `podCIDR`.
pub(crate) fn all_blocks(store: &Store, request: &Request) -> Option<Response> {
    let Request::Addressing { addresses, .. } = request else { return None };
    let (blocks, addresses) = (store.blocks().unwrap(), addresses.clone());
    Some(Response::Addressing(Addressing { blocks, addresses, ..Addressing::default() }))
}

/// A pod's namespace, which lives as long as this.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) namespace: Namespace,
}

impl Pod {
    pub(crate) fn new(id: &str) -> Self {
        let namespace = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Namespace::current().unwrap()
        })
        .join()
        .unwrap();
        Self { id: id.to_owned(), namespace }
    }

    pub(crate) fn path(&self) -> String {
        use std::os::fd::AsFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_fd().as_raw_fd())
    }
}

impl Node {
    pub(crate) fn store(&self) -> Store {
        Store::new(&self.state_dir().join(paths::IPAM))
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("lib")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn records(&self) -> Records {
        Records::below(&self.run_dir())
    }

    pub(crate) fn serve(&self, answer: Response) {
        fs::create_dir_all(self.run_dir()).unwrap();
        let listener = UnixListener::bind(self.run_dir().join(paths::AGENT_SOCKET)).unwrap();
        let asked = Arc::clone(&self.asked);
        let store = self.store();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (asked, store, answer) = (Arc::clone(&asked), store.clone(), answer.clone());
                thread::spawn(move || {
                    for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                        // A caller that was killed says nothing, or half of it.
                        let Ok(request) = serde_json::from_str(&line) else { break };
                        let answer = match request {
                            // The plugin's own way is what is tested here.
                            Request::TakeDown { .. } => Response::Refused { reason: "a stand-in".into() },
                            _ => all_blocks(&store, &request).unwrap_or_else(|| answer.clone()),
                        };
                        asked.lock().unwrap().push(request);
                        // A caller that only tells closes before the answer.
                        drop(writeln!(&stream, "{}", serde_json::to_string(&answer).unwrap()));
                    }
                });
            }
        });
    }

    pub(crate) fn config(&self, version: &str, more: &Value) -> Value {
        let mut config = json!({
            "cniVersion": version,
            "name": "margay",
            "type": "margay",
            "mtu": 1400,
            "runDir": self.run_dir(),
            "stateDir": self.state_dir(),
            "policyWaitSeconds": 1,
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    /// A call with all that a runtime gives it, for an interface `eth0`.
    pub(crate) fn prepare(&self, verb: &str, version: &str, pod: &Pod) -> Call {
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &pod.id),
            ("CNI_NETNS", &pod.path()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=app"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        Call {
            variables: variables.map(|(key, value)| (key, value.to_owned())).into(),
            config: self.config(version, &json!({})),
        }
    }

    pub(crate) fn call(&self, verb: &str, pod: &Pod, more: &Value) -> Result<Value, Value> {
        self.prepare(verb, "1.1.0", pod).configured(more).run()
    }

    pub(crate) fn add(&self, pod: &Pod) -> Value {
        self.call("ADD", pod, &json!({})).unwrap()
    }

    /// All that an ADD leaves: host links, allocations, records.
    pub(crate) fn left(&self) -> (usize, usize, usize) {
        let links = link::list(&mut Socket::open().unwrap()).unwrap();
        (
            links.iter().filter(|link| link.name.starts_with("mgy")).count(),
            self.store().allocations().unwrap().len(),
            self.records().list().unwrap().endpoints.len(),
        )
    }
}

/// A call of the plugin, to be changed where a test is about what is different.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) variables: BTreeMap<&'static str, String>,
    pub(crate) config: Value,
}

impl Call {
    /// With these variables of another value.
    pub(crate) fn with(mut self, variables: &[(&'static str, &str)]) -> Self {
        self.variables.extend(variables.iter().map(|(key, value)| (*key, (*value).to_owned())));
        self
    }

    /// With these fields of the configuration; `null` takes one away.
    pub(crate) fn configured(mut self, more: &Value) -> Self {
        let fields = self.config.as_object_mut().unwrap();
        for (key, value) in more.as_object().unwrap() {
            if value.is_null() {
                fields.remove(key);
            } else {
                fields.insert(key.clone(), value.clone());
            }
        }
        self
    }

    /// Runs it; what comes from standard output, which is `null` when there is none.
    pub(crate) fn run(&self) -> Result<Value, Value> {
        let variables: Vec<(&str, &str)> =
            self.variables.iter().map(|(key, value)| (*key, value.as_str())).collect();
        invoke(&variables, &self.config.to_string())
    }
}

/// Runs the binary from the calling thread, and so in its namespace.
pub(crate) fn invoke(variables: &[(&str, &str)], stdin: &str) -> Result<Value, Value> {
    invoke_program(env!("CARGO_BIN_EXE_margay"), variables, stdin)
}

/// Runs a plugin from the calling thread, and so in its namespace.
pub(crate) fn invoke_program(program: &str, variables: &[(&str, &str)], stdin: &str) -> Result<Value, Value> {
    let mut child = Command::new(program)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect(&text) };
    if output.status.success() { Ok(value) } else { Err(value) }
}
