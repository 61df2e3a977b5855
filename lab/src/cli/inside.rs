//! Commands that run inside a pod or a node.

use super::protocol::{Place, Request, Response, ask};
use anyhow::Context;
use margay_lab::PodKey;
use std::os::unix::process::CommandExt;
use std::process::Command;

pub(super) fn exec(pod: &str, command: &[String]) -> anyhow::Result<()> {
    let key = if pod.contains('/') { pod.parse()? } else { PodKey::new("default", pod) };
    enter(&Request::pod(key), command)
}

pub(super) fn node(name: &str, command: &[String]) -> anyhow::Result<()> {
    enter(&Request::Node { name: name.to_owned() }, command)
}

/// Becomes the command, in the namespaces that the cluster names.
fn enter(request: &Request, command: &[String]) -> anyhow::Result<()> {
    let Response::Place(Place { node, netns }) = ask(request)? else {
        anyhow::bail!("an answer that was not asked for");
    };
    let of = |kind: &str| format!("--{kind}={}", node.join("ns").join(file(kind)).display());
    let mut nsenter = Command::new("nsenter");
    nsenter.args([of("mount"), of("net"), of("uts")]);
    if let Some(netns) = netns {
        // Only in the node's mounts does this path exist.
        nsenter.args(["--", "nsenter"]).arg(format!("--net={}", netns.display()));
    }
    nsenter.arg("--").args(command);
    // Returns only when it fails.
    Err(nsenter.exec()).context("run nsenter; it is in Debian's package util-linux")
}

fn file(kind: &str) -> &str {
    if kind == "mount" { "mnt" } else { kind }
}
