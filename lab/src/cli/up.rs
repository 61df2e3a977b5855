//! Starting and ending a cluster in the background.

use super::client::say;
use super::protocol::{STATE, kubeconfig, log_file, pid_file, socket};
use super::{Cluster, until_interrupted};
use anyhow::Context;
use margay_lab::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a cluster may take to work, and to end.
const START: Duration = Duration::from_mins(3);
const STOP: Duration = Duration::from_secs(30);

pub(super) fn up(cluster: &Cluster) -> anyhow::Result<()> {
    if let Some(pid) = running() {
        anyhow::bail!("a cluster is running already (process {pid}); end it with `margay-lab down`");
    }
    clean()?;
    fs::create_dir(STATE).with_context(|| format!("make {STATE}"))?;
    let log = File::create(log_file()).context("make the log")?;
    let mut daemon = Command::new(std::env::current_exe()?)
        .arg("run")
        .args(std::env::args_os().skip(2))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in this terminal is for what runs in the foreground.
        .process_group(0)
        .spawn()
        .context("start the background process")?;
    fs::write(pid_file(), daemon.id().to_string()).context("write the pid file")?;
    let waited = until_interrupted(async {
        clock::until(START, "a working cluster", || {
            let ended = matches!(daemon.try_wait(), Ok(Some(_)) | Err(_));
            let ready = UnixStream::connect(socket()).is_ok();
            std::future::ready((ended || ready).then_some(ended))
        })
        .await
    });
    match waited {
        Ok(false) => say(&usage(cluster)),
        Ok(true) => fail(&mut daemon, "it ended"),
        Err(error) => fail(&mut daemon, &format!("{error:#}")),
    }
}

pub(super) fn down() -> anyhow::Result<()> {
    let Some(pid) = running() else {
        clean()?;
        return say("no cluster is running");
    };
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("tell process {pid} to end"))?;
    until_interrupted(async {
        clock::until(STOP, "the end of the cluster", || std::future::ready(running().is_none().then_some(())))
            .await
    })?;
    clean()?;
    say("the cluster is gone")
}

fn usage(cluster: &Cluster) -> String {
    let kubeconfig = kubeconfig();
    format!(
        "{} nodes run. Try:\n  \
           export KUBECONFIG={}\n  \
           kubectl get nodes -o wide\n  \
           kubectl run web --image any --port 8080   # the lab serves every declared port\n  \
           margay-lab status\n  \
           margay-lab reach                          # who reaches whom\n  \
           margay-lab exec default/web -- ip addr\n  \
           margay-lab node n1 -- ip route\n  \
           margay-lab down",
        cluster.nodes,
        kubeconfig.display()
    )
}

/// Ends what did not come up, and says what its log says.
fn fail(daemon: &mut Child, why: &str) -> anyhow::Result<()> {
    // It may have ended by itself.
    drop(daemon.kill());
    drop(daemon.wait());
    let log = fs::read_to_string(log_file()).unwrap_or_default();
    clean()?;
    anyhow::bail!("the cluster did not come up: {why}\n{}", log.trim_end())
}

/// The process of the cluster in the background, if it runs.
fn running() -> Option<i32> {
    let pid: i32 = fs::read_to_string(pid_file()).ok()?.trim().parse().ok()?;
    // The number may be another's by now.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let is_ours = status.lines().next()?.ends_with("margay-lab");
    let is_alive = !status.lines().any(|line| line.starts_with("State:") && line.contains('Z'));
    (is_ours && is_alive).then_some(pid)
}

/// Removes what a cluster that was killed has left.
fn clean() -> anyhow::Result<()> {
    match fs::remove_dir_all(STATE) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {STATE}"))
        }
        _ => Ok(()),
    }
}
