//! The plugin called as a runtime calls it, to its end or killed on its way.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use margay_netlink::netns::Namespace;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::node::program;

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Success(Value),
    Failure(Value),
    /// It was killed, and nobody knows how far it came.
    Killed,
}

/// A new network namespace.
pub(crate) fn namespace() -> Namespace {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Namespace::current().unwrap()
    });
    made.join().unwrap()
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) verb: &'static str,
    pub(crate) network: &'static str,
    pub(crate) container: String,
    pub(crate) ifname: &'static str,
    /// Kept open until the call is over; `None` for an empty `CNI_NETNS`.
    pub(crate) netns: Option<Arc<Namespace>>,
    /// The pod of the namespace `default` that it is for.
    pub(crate) pod: Option<&'static str>,
    /// Further fields of the configuration.
    pub(crate) more: Value,
    /// Below it are the run and the state directory.
    pub(crate) directory: PathBuf,
}

impl Call {
    /// An ADD for a pod, whose container has its name.
    pub(crate) fn add(directory: PathBuf, pod: &'static str, netns: Arc<Namespace>) -> Self {
        Self {
            verb: "ADD",
            network: "margay",
            container: pod.into(),
            ifname: "eth0",
            netns: Some(netns),
            pod: Some(pod),
            more: json!({}),
            directory,
        }
    }

    pub(crate) fn run(&self) -> Outcome {
        self.finish(Command::new(program("margay")))
    }

    /// Runs it until a system call of it, by its place in the order that such a call usually has.
    pub(crate) fn run_killed(&self, calls: &[SystemCall], place: usize) -> Outcome {
        let SystemCall { name, number } = &calls[place % calls.len()];
        let (trace, inject) = (format!("trace={name}"), format!("inject={name}:signal=KILL:when={number}"));
        self.finish(strace(&["-o", "/dev/null", "-e", &trace, "-e", &inject]))
    }

    /// Runs it to its end, and gives the system calls that it makes.
    pub(crate) fn trace(&self, into: &Path) -> Vec<SystemCall> {
        let outcome = self.finish(strace(&["-o", into.to_str().unwrap()]));
        assert!(matches!(outcome, Outcome::Success(_)), "{outcome:?}");
        let mut numbers = BTreeMap::new();
        let text = fs::read_to_string(into).unwrap();
        // A write to /proc/sys/net is tried anew, thousands of times, while another holds the lock of the network: one call.
        let lines = text.lines().filter(|line| !line.contains("ERESTART"));
        // "1234  openat(AT_FDCWD, ..."
        let names = lines.filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('));
        names
            .map(|(name, _)| name)
            .filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
            .filter(|name| !["execve", "exit_group"].contains(name))
            .map(|name| {
                let number = numbers.entry(name.to_owned()).or_insert(0);
                *number += 1;
                SystemCall { name: name.to_owned(), number: *number }
            })
            .collect()
    }

    fn finish(&self, mut command: Command) -> Outcome {
        let netns = self.netns.as_ref().map_or_else(String::new, |namespace| {
            format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd())
        });
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": self.network,
            "type": "margay",
            "runDir": self.directory.join("run"),
            "stateDir": self.directory.join("lib"),
        });
        for (key, value) in self.more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let mut child = command
            .env_clear()
            .env("CNI_COMMAND", self.verb)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_NETNS", netns)
            .envs(self.pod.map(|pod| {
                ("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};IgnoreUnknown=1"))
            }))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace and the plugin run; ./setup installs the one, cargo build the other");
        // One that is killed may not read it all.
        drop(child.stdin.take().unwrap().write_all(config.to_string().as_bytes()));
        let output = child.wait_with_output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match output.status.code() {
            Some(0) => Outcome::Success(answer),
            Some(1) => Outcome::Failure(answer),
            // strace ends as the program that it runs does.
            _ => Outcome::Killed,
        }
    }
}

/// A system call of the plugin: the how manieth of its name.
#[derive(Debug, Clone)]
pub(crate) struct SystemCall {
    name: String,
    number: usize,
}

fn strace(options: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/strace");
    command.args(["-qq", "-f"]).args(options).arg(program("margay"));
    command
}
