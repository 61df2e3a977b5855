//! Calls of a CNI plugin, as a runtime makes them.

use std::{
    io::Write,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use margay_netlink::netns::Namespace;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::agent::built;

/// A plugin with its configuration.
pub(crate) struct Plugin {
    binary: PathBuf,
    config: String,
}

impl Plugin {
    /// One of the plugins in a directory.
    pub(crate) fn new(binaries: &Path, name: &str, config: &Value) -> Self {
        let binary = binaries.join(name);
        assert!(binary.exists(), "{} is not there: run `make bench`", binary.display());
        Self { binary, config: config.to_string() }
    }

    /// Ours as it is shipped (`make plugin`), for the agent with its files below `dir` and links with this MTU.
    pub(crate) fn margay(dir: &Path, mtu: u32) -> Self {
        let shipped = built().join(format!("{}-unknown-linux-gnu/release", std::env::consts::ARCH));
        let config = json!({
            "cniVersion": "1.0.0", "name": "margay", "type": "margay", "mtu": mtu, "runDir": dir.join("run"),
            "stateDir": dir.join("state"),
        });
        Self::new(&shipped, "margay", &config)
    }

    /// Calls it on the node whose namespace the caller is in, for the interface `eth0` of a pod, and gives what it
    /// prints.
    pub(crate) fn call(&self, verb: &str, namespace: &str, pod: &str, netns: &Namespace) -> Vec<u8> {
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container(namespace, pod))
            .env("CNI_NETNS", path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.binary.parent().unwrap())
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(self.config.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            panic!("{} {verb} {pod}: {stdout}{stderr}", self.binary.display());
        }
        output.stdout
    }
}

/// The container of a pod, as its runtime calls it.
pub(crate) fn container(namespace: &str, pod: &str) -> String {
    format!("{namespace}.{pod}")
}

/// A network namespace of its own, gone when it is dropped.
pub(crate) fn new_namespace() -> Namespace {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run as root");
        Namespace::current().unwrap()
    })
    .join()
    .unwrap()
}
