//! `margayctl monitor`, as another program reads it.

use std::process::Stdio;

use margay_lab::Lab;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::cluster::{PATIENCE, margayctl};

/// A monitor of the first node, which ends with this.
pub(crate) struct Monitor {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Monitor {
    /// Starts one of flows or drops that misses nothing from now on; or what it is refused with.
    pub(crate) async fn start(lab: &Lab, of: &str, arguments: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(margayctl())
            .arg(format!("--run-dir={}", lab.node(0).path("/run/margay").display()))
            .args(["monitor", of, "-o", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut aside = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = timeout(PATIENCE, aside.next_line()).await.unwrap().unwrap().unwrap_or_default();
        if line != "listening" {
            return Err(line);
        }
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Ok(Self { _child: child, lines })
    }

    pub(crate) async fn event(&mut self) -> Value {
        // An event comes, and the monitor stays open.
        let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }
}
