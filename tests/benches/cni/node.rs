//! A node for one plugin, and calls as a runtime makes them.

use std::{
    io::Write,
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use margay_netlink::netns::Namespace;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// What ADDs and DELs took.
#[derive(Debug, Default)]
pub(crate) struct Times(pub(crate) [Vec<Duration>; 2]);

impl Times {
    pub(crate) fn extend(&mut self, [add, del]: [Vec<Duration>; 2]) {
        self.0[0].extend(add);
        self.0[1].extend(del);
    }
}

/// A plugin with its node.
pub(crate) struct Contender<G = Box<dyn std::any::Any + Sync>> {
    binary: PathBuf,
    config: String,
    node: Namespace,
    /// Pods that stay.
    stay: Vec<Namespace>,
    /// Namespaces of those that come and go.
    go: Vec<Namespace>,
    /// What runs on the node.
    _guard: G,
}

impl Contender {
    /// A node in which `daemons` runs first, and gives back what ends them when it is dropped.
    pub(crate) fn new<G: Send + Sync + 'static>(
        name: &str,
        binaries: &Path,
        config: &Value,
        daemons: impl FnOnce() -> G + Send,
    ) -> Self {
        let binary = binaries.join(name);
        assert!(binary.exists(), "{} is not there: run `make bench BENCH=cni`", binary.display());
        let node = new_namespace();
        let guard = thread::scope(|scope| {
            let start = scope.spawn(|| {
                let _inside = node.enter().unwrap();
                assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
                daemons()
            });
            start.join().unwrap()
        });
        Self {
            binary,
            config: config.to_string(),
            node,
            stay: Vec::new(),
            go: Vec::new(),
            _guard: Box::new(guard),
        }
    }

    /// Adds pods that stay to the end.
    pub(crate) fn add_for_good(&mut self, numbers: Range<usize>) {
        for number in numbers {
            self.stay.push(new_namespace());
            self.call("ADD", &format!("stays{number}"), &self.stay[number]);
        }
    }

    /// So many ADDs at once, then as many DELs.
    pub(crate) fn come_and_go(&mut self, at_once: usize) -> [Vec<Duration>; 2] {
        while self.go.len() < at_once {
            self.go.push(new_namespace());
        }
        ["ADD", "DEL"].map(|verb| {
            let start = Barrier::new(at_once);
            thread::scope(|scope| {
                let call = |(number, namespace)| {
                    let start = &start;
                    let this = &*self;
                    scope.spawn(move || {
                        start.wait();
                        this.call(verb, &format!("goes{number}"), namespace)
                    })
                };
                let calls: Vec<_> = self.go[..at_once].iter().enumerate().map(call).collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            })
        })
    }

    fn call(&self, verb: &str, pod: &str, namespace: &Namespace) -> Duration {
        let _inside = self.node.enter().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod)
            .env("CNI_NETNS", path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.binary.parent().unwrap())
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={pod}"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[expect(clippy::disallowed_methods, reason = "the wall clock is what is measured")]
        let begin = Instant::now();
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(self.config.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let took = begin.elapsed();
        if !output.status.success() {
            let (stdout, stderr) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            panic!("{} {verb} {pod}: {stdout}{stderr}", self.binary.display());
        }
        took
    }
}

fn new_namespace() -> Namespace {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run as root");
        Namespace::current().unwrap()
    })
    .join()
    .unwrap()
}
