//! Writing the table: elements alone over netlink, all else by running `nft`.
//!
//! The `nftables` crate is not used: it knows no `classid` type, which the packet priority has, and loses what nft
//! says when it refuses. Its JSON is the same.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use margay_netlink::nftables::Elements;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};
use tracing::debug;

use super::{
    diff::{difference, replacement},
    elements, layout,
    outline::Outline,
    ruleset::{FAMILY, TABLE},
};
use crate::decide::Wanted;

/// Processes remembered: more than can have run between a change and the news of it.
const OURS: usize = 256;

/// How long a transaction may take: below the minute after which the agent counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the kernel does not hold what is wanted. It holds what it held before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// The program cannot be run.
    #[error("run {}: {source}; is nftables installed?", .program.display())]
    Run { program: PathBuf, source: io::Error },
    /// The kernel refused elements.
    #[error(transparent)]
    Elements(#[from] margay_netlink::Error),
    /// It refused the transaction.
    #[error("nft refused a transaction of {commands} commands: {reason}")]
    Refused { commands: usize, reason: String },
}

/// Keeps the table as wanted. Knows what it wrote, and so what to change.
pub(crate) struct Driver {
    program: PathBuf,
    /// What the kernel holds; `None` when that is not known.
    present: Option<Arc<Wanted>>,
    /// The last processes that were run, which the kernel names when it tells of a change.
    ours: VecDeque<u32>,
    /// Opened when it is first needed.
    elements: Option<Elements>,
}

impl Driver {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, present: None, ours: VecDeque::new(), elements: None }
    }

    /// Makes the table be `wanted` in one transaction, and says how many commands that took, or elements; none when nothing
    /// differs. After a failure the next attempt replaces the whole table.
    pub(crate) async fn apply(&mut self, wanted: &Arc<Wanted>) -> Result<usize, NftError> {
        let commands = match self.present.take() {
            Some(present) => {
                if let Some(transaction) = elements::transaction(&present, wanted) {
                    let changes = transaction.changes();
                    if let Err(error) = self.elements()?.commit(transaction) {
                        // Answers that were not read would be taken for those to the next transaction.
                        self.elements = None;
                        return Err(error.into());
                    }
                    self.present = Some(Arc::clone(wanted));
                    return Ok(changes);
                }
                difference(&layout(&present), &layout(wanted))
            }
            None => replacement(&layout(wanted)),
        };
        if !commands.is_empty() {
            let document = json!({"nftables": commands}).to_string();
            debug!(commands = commands.len(), octets = document.len(), "nft transaction");
            let output = self.run(&["-j", "-f", "-"], &document).await?;
            if !output.status.success() {
                let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(NftError::Refused { commands: commands.len(), reason });
            }
        }
        self.present = Some(Arc::clone(wanted));
        Ok(commands.len())
    }

    /// Looks whether the table still has the sets, chains and rules that were written; elements are not listed, so
    /// that the cost does not grow with the cluster. False when somebody flushed or edited it: the next
    /// [`Driver::apply`] then replaces the whole table.
    pub(crate) async fn verify(&mut self) -> Result<bool, NftError> {
        if self.present.is_none() {
            return Ok(true);
        }
        let output = self.run(&["-j", "-t", "list", "table", FAMILY, TABLE], "").await?;
        let listing: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let same = self
            .present
            .as_ref()
            .is_none_or(|present| Outline::listed(&listing) == Outline::written(&layout(present)));
        if !same {
            self.present = None;
        }
        Ok(same)
    }

    /// Takes note of who changed the table, by the netlink ports that the kernel tells; false when somebody else
    /// did: the next [`Driver::apply`] then replaces the whole table.
    pub(crate) fn heed(&mut self, ports: &BTreeSet<u32>) -> bool {
        let own = self.elements.as_ref().map(Elements::port);
        let all_ours = ports.iter().all(|port| self.ours.contains(port) || own == Some(*port));
        if !all_ours {
            self.present = None;
        }
        all_ours
    }

    fn elements(&mut self) -> Result<&mut Elements, margay_netlink::Error> {
        match self.elements.take() {
            Some(elements) => Ok(self.elements.insert(elements)),
            None => Ok(self.elements.insert(Elements::open()?)),
        }
    }

    async fn run(&mut self, arguments: &[&str], document: &str) -> Result<Output, NftError> {
        let program = self.program.clone();
        let failed = |source| NftError::Run { program: program.clone(), source };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.ours.extend(child.id());
        while self.ours.len() > OURS {
            self.ours.pop_front();
        }
        let stdin = child.stdin.take();
        let work = async {
            let written = match stdin {
                Some(mut stdin) => stdin.write_all(document.as_bytes()).await,
                None => Ok(()),
            };
            let output = child.wait_with_output().await?;
            // One that ended before it had read all says why better than the broken pipe does.
            if output.status.success() { written.map(|()| output) } else { Ok(output) }
        };
        match timeout(PATIENCE, work).await {
            Ok(output) => output.map_err(failed),
            Err(elapsed) => Err(failed(io::Error::new(io::ErrorKind::TimedOut, elapsed))),
        }
    }
}

#[cfg(test)]
mod packets;
#[cfg(test)]
mod tests;
