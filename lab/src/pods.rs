//! The pods that run in the lab, as the kubelets know them.

use crate::station::Station;
use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PodKey {
    /// A key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(pod: &Pod) -> Self {
        Self::new(pod.namespace().unwrap_or_default(), pod.name_any())
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.namespace, self.name))
    }
}

impl FromStr for PodKey {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) =
            text.split_once('/').with_context(|| format!("`{text}` is no pod: it takes NAMESPACE/NAME"))?;
        anyhow::ensure!(
            !namespace.is_empty() && !name.is_empty() && !name.contains('/'),
            "`{text}` is no pod"
        );
        Ok(Self::new(namespace, name))
    }
}

/// How far a pod has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its namespace is there, and its servers; its network may be coming.
    Starting,
    /// Its status says Ready.
    Ready {
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// Its containers have ended, and its network is gone.
    Finished,
}

/// A pod that has, or had, a network.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    uid: String,
    pub(crate) node: String,
    /// The path of its network namespace on the node; `None` when it has the node's.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) station: Arc<Station>,
    pub(crate) stage: Stage,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<PodKey, Running>,
    problems: BTreeMap<PodKey, (String, String)>,
}

/// All of them; clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct Pods {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl Pods {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// A pod has a namespace.
    pub(crate) fn start(
        &self,
        key: &PodKey,
        uid: &str,
        node: &str,
        station: &Arc<Station>,
        netns: Option<PathBuf>,
    ) {
        let running = Running {
            uid: uid.to_owned(),
            node: node.to_owned(),
            netns,
            station: Arc::clone(station),
            stage: Stage::Starting,
        };
        self.state().pods.insert(key.clone(), running);
        self.changed.send_replace(());
    }

    pub(crate) fn set_stage(&self, key: &PodKey, uid: &str, stage: Stage) {
        let mut state = self.state();
        state.problems.remove(key);
        if let Some(pod) = state.pods.get_mut(key).filter(|pod| pod.uid == uid) {
            pod.stage = stage;
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Why a pod has not come up so far.
    pub(crate) fn set_problem(&self, key: &PodKey, uid: &str, problem: String) {
        let mut state = self.state();
        state.problems.insert(key.clone(), (uid.to_owned(), problem));
        state.pods.remove(key);
    }

    pub(crate) fn remove(&self, key: &PodKey, uid: &str) {
        let mut state = self.state();
        if state.pods.get(key).is_some_and(|pod| pod.uid == uid) {
            state.pods.remove(key);
        }
        if state.problems.get(key).is_some_and(|(of, _)| of == uid) {
            state.problems.remove(key);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// A node is gone, with all that ran on it.
    pub(crate) fn lose(&self, node: &str) {
        self.state().pods.retain(|_, pod| pod.node != node);
        self.changed.send_replace(());
    }

    pub(crate) fn find(&self, key: &PodKey) -> Option<Running> {
        self.state().pods.get(key).cloned()
    }

    /// Pods whose status says Ready, with their addresses.
    pub(crate) fn ready(&self) -> BTreeMap<PodKey, (Running, Vec<IpAddr>)> {
        let state = self.state();
        let ready = state.pods.iter().filter_map(|(key, pod)| match &pod.stage {
            Stage::Ready { addresses } => Some((key.clone(), (pod.clone(), addresses.clone()))),
            _ => None,
        });
        ready.collect()
    }

    /// Waits until `done` holds for every one of `keys`.
    pub(crate) async fn wait(
        &self,
        keys: &[PodKey],
        what: &str,
        limit: Duration,
        done: impl Fn(Option<&Running>) -> bool,
    ) -> anyhow::Result<()> {
        let mut changes = self.changed.subscribe();
        let missing = || -> Vec<PodKey> {
            let state = self.state();
            keys.iter().filter(|key| !done(state.pods.get(*key))).cloned().collect()
        };
        let waiting = async {
            while !missing().is_empty() {
                // The sender is part of self.
                drop(changes.changed().await);
            }
        };
        if tokio::time::timeout(limit, waiting).await.is_ok() {
            return Ok(());
        }
        let state = self.state();
        let problem = |key: &PodKey| match state.problems.get(key) {
            Some((_, problem)) => format!("\n  {key}: {problem}"),
            None => format!("\n  {key}"),
        };
        drop(changes);
        let still: String = missing_of(&state, keys, &done).iter().map(problem).collect();
        anyhow::bail!("{what}: not within {limit:?}; missing:{still}")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing_of(state: &State, keys: &[PodKey], done: impl Fn(Option<&Running>) -> bool) -> Vec<PodKey> {
    keys.iter().filter(|key| !done(state.pods.get(*key))).cloned().collect()
}
