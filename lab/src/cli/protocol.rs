//! What the commands say to the cluster in the background, and where.
//!
//! Over a Unix stream socket: one line of JSON there, one back.

use anyhow::Context;
use margay_lab::{PodKey, Port};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where the cluster in the background keeps its files.
pub(super) const STATE: &str = "/run/margay-lab";

pub(super) fn socket() -> PathBuf {
    Path::new(STATE).join("control.sock")
}

pub(super) fn pid_file() -> PathBuf {
    Path::new(STATE).join("pid")
}

pub(super) fn log_file() -> PathBuf {
    Path::new(STATE).join("log")
}

pub(super) fn kubeconfig() -> PathBuf {
    Path::new(STATE).join("kubeconfig")
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Request {
    Status,
    Reach { namespace: Option<String>, ports: Vec<String> },
    Pod { namespace: String, name: String },
    Node { name: String },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Response {
    /// Words for the user.
    Text(String),
    /// Namespaces to enter.
    Place(Place),
    /// It cannot be done.
    Error(String),
}

/// Where a node or a pod is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Place {
    /// A directory in `/proc` whose `ns` holds the node's namespaces.
    pub(super) node: PathBuf,
    /// The pod's network namespace, as the node sees it; the node's own when `None`.
    pub(super) netns: Option<PathBuf>,
}

impl Request {
    pub(super) fn reach(namespace: Option<String>, ports: &[Port]) -> Self {
        Self::Reach { namespace, ports: ports.iter().map(ToString::to_string).collect() }
    }

    pub(super) fn pod(key: PodKey) -> Self {
        Self::Pod { namespace: key.namespace, name: key.name }
    }
}

/// Asks the cluster in the background.
pub(super) fn ask(request: &Request) -> anyhow::Result<Response> {
    let stream =
        UnixStream::connect(socket()).context("no cluster is running; start one with `margay-lab up`")?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    (&stream).write_all(line.as_bytes()).context("ask the cluster")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).context("hear the cluster")?;
    match serde_json::from_str(&answer).context("understand the cluster; is it of another version?")? {
        Response::Error(reason) => Err(anyhow::anyhow!(reason)),
        response => Ok(response),
    }
}
