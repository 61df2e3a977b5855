//! Stock kubectl against the lab.

use anyhow::Context;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What kubectl has said.
#[derive(Debug, Clone)]
pub struct KubectlOutput {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs kubectl; the cache is kept out of the user's home.
pub(crate) async fn run(
    kubeconfig: &Path,
    cache: &Path,
    args: &[&str],
    stdin: &str,
) -> anyhow::Result<KubectlOutput> {
    let mut child = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--cache-dir")
        .arg(cache)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("run kubectl; is it installed?")?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that does not read has other ways to complain.
        drop(pipe.write_all(stdin.as_bytes()).await);
    }
    let output = child.wait_with_output().await.context("wait for kubectl")?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    Ok(KubectlOutput { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) })
}
