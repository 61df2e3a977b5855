//! A machine: network, mount and host-name namespaces of its own, held by one thread.
//!
//! Nothing of it has a name outside: when the thread ends, with or without its process, the kernel kills what the
//! thread has spawned and frees the namespaces, the mounts and the files in them. That is the whole clean-up.

mod mounts;
mod process;

pub(crate) use process::{Process, ProcessSpec};

use crate::sys;
use anyhow::Context;
use margay_netlink::netns::Namespace;
use nix::unistd::gettid;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to a machine; the last one ends it.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    thread_id: i32,
    namespace: Arc<Namespace>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// A machine with empty `/run` and with empty directories of its own at each of `private`.
    pub(crate) async fn start(name: &str, private: &'static [&'static str]) -> anyhow::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = oneshot::channel();
        let host_name = name.to_owned();
        let thread = thread::Builder::new()
            .name(name.chars().take(15).collect())
            .spawn(move || {
                let isolated = mounts::isolate(&host_name, private)
                    .and_then(|()| Ok((gettid().as_raw(), Namespace::current()?)));
                let failed = isolated.is_err();
                if tell.send(isolated).is_err() || failed {
                    return;
                }
                for job in queue {
                    job();
                }
            })
            .context("start a thread")?;
        let (thread_id, namespace) = told
            .await
            .context("the thread of a machine ended")?
            .with_context(|| format!("make machine {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            thread_id,
            namespace: Arc::new(namespace),
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Where its root directory is for the rest of the host, as long as it lives.
    pub(crate) fn root(&self) -> PathBuf {
        self.proc_entry().join("root")
    }

    /// Its thread's directory in `/proc`, with `ns` and `root`.
    pub(crate) fn proc_entry(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/task/{}", std::process::id(), self.thread_id))
    }

    /// A file of the machine as the rest of the host finds it.
    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.root().join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Runs `work` on the machine's thread, in all its namespaces. It must not take long: others wait.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move || drop(tell.send(work())));
        let ended = || format!("the thread of machine {} has ended", self.name);
        self.jobs.as_ref().with_context(ended)?.send(job).ok().with_context(ended)?;
        told.await.with_context(ended)
    }

    /// Starts a program inside. It dies with the machine.
    pub(crate) async fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        let runtime = tokio::runtime::Handle::current();
        let program = command.as_std().get_program().display().to_string();
        self.run(move || {
            let _in_runtime = runtime.enter();
            sys::die_with_spawner(&mut command);
            command.kill_on_drop(true).spawn()
        })
        .await?
        .with_context(|| format!("run {program} on {}", self.name))
    }

    /// Runs a program inside to its end, and gives its standard output.
    pub(crate) async fn output(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.spawn(command).await?.wait_with_output().await?;
        anyhow::ensure!(
            output.status.success(),
            "`{program} {}` on {}: {}: {}",
            args.join(" "),
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // It has at most one short job to finish; when it is gone, so are its processes.
            drop(thread.join());
        }
    }
}
