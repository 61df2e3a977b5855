//! The plugin killed at every system call: the next call finds its way.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    process::{Command, Stdio},
};

use margay_api::agent::Response;
use serde_json::json;

use crate::node::{DUAL, Node, Pod, on_node};

/// Runs a verb below `strace` with these options. True when it ended by itself.
fn traced(node: &Node, verb: &str, pod: &Pod, options: &[&str]) -> bool {
    let mut child = Command::new("strace")
        .args(["-qq", "-f"])
        .args(options)
        .arg(env!("CARGO_BIN_EXE_margay"))
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &pod.id)
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace runs; ./setup installs it");
    // The plugin may be dead before it has read all.
    drop(child.stdin.take().unwrap().write_all(node.config("1.1.0", &json!({})).to_string().as_bytes()));
    child.wait().unwrap().success()
}

/// The system calls of a verb in order, each with its number among those of its name.
fn calls(node: &Node, verb: &str, pod: &Pod) -> Vec<(String, usize)> {
    let trace = node.dir.path().join("trace");
    assert!(traced(node, verb, pod, &["-o", trace.to_str().unwrap()]));
    let mut counts = BTreeMap::new();
    let mut calls = Vec::new();
    let text = fs::read_to_string(&trace).unwrap();
    // A write to /proc/sys/net is tried anew, thousands of times, while another holds the lock of the network: one call.
    for line in text.lines().filter(|line| !line.contains("ERESTART")) {
        // "1234  openat(AT_FDCWD, ..."
        let name = line.split_once(' ').unwrap().1.trim_start().split('(').next().unwrap().to_owned();
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name != "exit_group"
            && name != "execve"
        {
            let count = counts.entry(name.clone()).or_insert(0);
            *count += 1;
            calls.push((name, *count));
        }
    }
    calls
}

fn killed_at(node: &Node, verb: &str, pod: &Pod, (name, number): &(String, usize)) -> bool {
    let inject = format!("inject={name}:signal=KILL:when={number}");
    let trace = format!("trace={name}");
    !traced(node, verb, pod, &["-o", "/dev/null", "-e", &trace, "-e", &inject])
}

#[test]
fn an_add_killed_at_any_system_call_is_undone_by_a_del_or_repaired_by_an_add() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let calls = calls(node, "ADD", &pod);
        node.call("DEL", &pod, &json!({})).unwrap();
        assert!(calls.len() > 50, "{calls:?}");
        let mut killed = 0;
        for (index, call) in calls.iter().enumerate() {
            killed += usize::from(killed_at(node, "ADD", &pod, call));
            if index % 2 == 0 {
                // A runtime follows a failed ADD with a DEL ...
                node.call("DEL", &pod, &json!({})).unwrap_or_else(|error| panic!("{call:?}: {error}"));
                assert_eq!(node.left(), (0, 0, 0), "{call:?}");
            } else if node.records().list().unwrap().endpoints.is_empty() {
                // ... and one that forgot may add anew, as long as the ADD did not get to its record.
                node.call("ADD", &pod, &json!({})).unwrap_or_else(|error| panic!("{call:?}: {error}"));
            }
            node.call("DEL", &pod, &json!({})).unwrap();
            assert_eq!(node.left(), (0, 0, 0), "{call:?}");
        }
        assert!(killed * 10 >= calls.len() * 9, "only {killed} of {} calls were cut off", calls.len());
    });
}

#[test]
fn a_del_killed_at_any_system_call_is_finished_by_the_next() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        node.add(&pod);
        let calls = calls(node, "DEL", &pod);
        let mut killed = 0;
        for call in &calls {
            node.add(&pod);
            killed += usize::from(killed_at(node, "DEL", &pod, call));
            node.call("DEL", &pod, &json!({})).unwrap_or_else(|error| panic!("{call:?}: {error}"));
            assert_eq!(node.left(), (0, 0, 0), "{call:?}");
        }
        assert!(killed * 10 >= calls.len() * 9, "only {killed} of {} calls were cut off", calls.len());
    });
}
