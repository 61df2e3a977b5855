//! A node for one plugin, and calls as a runtime makes them.

use std::{
    any::Any,
    ops::Range,
    process::Command,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use margay_netlink::netns::Namespace;

use crate::harness::plugin::{Plugin, new_namespace};

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
pub(crate) struct Contender {
    plugin: Plugin,
    node: Namespace,
    /// Pods that stay.
    stay: Vec<Namespace>,
    /// Namespaces of those that come and go.
    go: Vec<Namespace>,
    /// What runs on the node.
    _guard: Box<dyn Any + Sync>,
}

impl Contender {
    /// A node in which `daemons` runs first, and gives back what ends them when it is dropped.
    pub(crate) fn new<G: Sync + 'static>(plugin: Plugin, daemons: impl FnOnce() -> G) -> Self {
        let node = new_namespace();
        let guard = {
            let _inside = node.enter().unwrap();
            assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            Box::new(daemons())
        };
        Self { plugin, node, stay: Vec::new(), go: Vec::new(), _guard: guard }
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
        #[expect(clippy::disallowed_methods, reason = "the wall clock is what is measured")]
        let begin = Instant::now();
        self.plugin.call(verb, "bench", pod, namespace);
        begin.elapsed()
    }
}
