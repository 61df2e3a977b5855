//! A program that is kept running on a machine, as a kubelet keeps a container.

use super::Machine;
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Lines that a log remembers.
const LOG_LINES: usize = 4000;
/// The first restart is at once; after it, each waits twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A program that ran for this long starts afresh with its pauses.
const STEADY: Duration = Duration::from_secs(20);

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct ProcessSpec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// The newest lines that a program has written.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogRing {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl LogRing {
    pub(crate) fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The newest `count` lines, oldest first.
    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    async fn follow(self, output: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.push(line);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Running,
    Stopped,
}

/// A handle to a kept program; dropping it kills the program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    log: LogRing,
    wanted: watch::Sender<Wanted>,
    program: watch::Sender<PathBuf>,
    pid: watch::Receiver<Option<i32>>,
    quick_ends: Arc<AtomicU32>,
    _keeper: JoinSet<()>,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(machine: Arc<Machine>, spec: ProcessSpec) -> Self {
        let log = LogRing::default();
        let (wanted, wants) = watch::channel(Wanted::Running);
        let (program, newest) = watch::channel(spec.program.clone());
        let (tell_pid, pid) = watch::channel(None);
        let name = spec.name.clone();
        let quick_ends = Arc::default();
        let keeper = Keeper {
            machine,
            spec,
            newest,
            log: log.clone(),
            wants,
            tell_pid,
            quick_ends: Arc::clone(&quick_ends),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run());
        Self { name, log, wanted, program, pid, quick_ends, _keeper: tasks }
    }

    /// Has another program run in its place from the next start on.
    pub(crate) fn replace(&self, program: PathBuf) {
        self.program.send_replace(program);
    }

    pub(crate) fn log(&self) -> &LogRing {
        &self.log
    }

    /// The running program's process ID.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.borrow().and_then(|pid| pid.try_into().ok())
    }

    /// How often in a row it has ended soon after its start.
    pub(crate) fn quick_ends(&self) -> u32 {
        self.quick_ends.load(Ordering::Relaxed)
    }

    /// Sends a signal; the program is started again if it ends.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid.borrow().with_context(|| format!("{} is not running", self.name))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Has it killed, and not started again.
    pub(crate) async fn stop(&self) {
        self.wanted.send_replace(Wanted::Stopped);
        let mut pid = self.pid.clone();
        // An error says that the keeper is gone, and the program with it.
        drop(pid.wait_for(Option::is_none).await);
    }

    /// Has it started again after [`Self::stop`].
    pub(crate) async fn restart(&self) {
        self.wanted.send_replace(Wanted::Running);
        let mut pid = self.pid.clone();
        drop(pid.wait_for(Option::is_some).await);
    }
}

struct Keeper {
    machine: Arc<Machine>,
    spec: ProcessSpec,
    newest: watch::Receiver<PathBuf>,
    log: LogRing,
    wants: watch::Receiver<Wanted>,
    tell_pid: watch::Sender<Option<i32>>,
    quick_ends: Arc<AtomicU32>,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = Duration::ZERO;
        loop {
            if self.wants.wait_for(|wanted| *wanted == Wanted::Running).await.is_err() {
                return;
            }
            let started = Instant::now();
            match self.run_once().await {
                Ok(Some(status)) => self.log.push(format!("lab: {} ended: {status}", self.spec.name)),
                Ok(None) => {
                    pause = Duration::ZERO;
                    self.quick_ends.store(0, Ordering::Relaxed);
                    continue;
                }
                Err(error) => self.log.push(format!("lab: {error:#}")),
            }
            self.quick_ends.fetch_add(1, Ordering::Relaxed);
            if started.elapsed() > STEADY {
                pause = Duration::ZERO;
                self.quick_ends.store(0, Ordering::Relaxed);
            }
            let until = Instant::now() + pause;
            tokio::select! {
                () = sleep_until(until) => {}
                changed = self.wants.changed() => if changed.is_err() { return },
            }
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    /// Runs the program to its end, or until it is no longer wanted (`None`).
    async fn run_once(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let mut command = Command::new(&*self.newest.borrow());
        command
            .args(&self.spec.args)
            .envs(self.spec.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.machine.spawn(command).await?;
        let mut followers = JoinSet::new();
        if let Some(output) = child.stdout.take() {
            followers.spawn(self.log.clone().follow(output));
        }
        if let Some(output) = child.stderr.take() {
            followers.spawn(self.log.clone().follow(output));
        }
        self.tell_pid.send_replace(child.id().and_then(|pid| pid.try_into().ok()));
        let ended = tokio::select! {
            status = child.wait() => Some(status),
            // An error means that the handle is gone: the program goes too.
            _ = self.wants.wait_for(|wanted| *wanted == Wanted::Stopped) => None,
        };
        let outcome = match ended {
            Some(status) => status.map(Some).context("wait for the program"),
            None => child.kill().await.map(|()| None).context("kill the program"),
        };
        // Its last words; a grandchild may hold the pipe for ever.
        drop(tokio::time::timeout(Duration::from_millis(100), followers.join_all()).await);
        self.tell_pid.send_replace(None);
        outcome
    }
}
