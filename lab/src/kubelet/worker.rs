//! The life of one pod on a node.

use super::sandbox::{Sandbox, host_sandbox};
use super::{Context, Seen, events, status};
use crate::pods::{PodKey, Stage};
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// An annotation by which a pod ignores its termination until its grace period ends, as one that cleans up does.
pub(crate) const LINGER: &str = "lab.margay.dev/linger";
/// Pauses between attempts at a sandbox.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is to become of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Run,
    /// Its containers have ended; the object stays.
    Finished,
    /// It is to be stopped and its object deleted.
    Deleted,
    /// Its object is gone already.
    Gone,
}

fn fate(seen: &Seen) -> Fate {
    let Seen::There(pod) = seen else { return Fate::Gone };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        if grace == 0 || !pod.annotations().contains_key(LINGER) {
            return Fate::Deleted;
        }
    }
    if matches!(phase, Some("Succeeded" | "Failed")) { Fate::Finished } else { Fate::Run }
}

/// Takes care of a pod until it is gone.
pub(super) async fn run(context: Arc<Context>, client: Client, mut sees: watch::Receiver<Seen>) {
    let Seen::There(pod) = sees.borrow().clone() else { return };
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let mut worker = Worker { context, client, api, key: PodKey::of(&pod), pod, sandbox: None };
    worker.work(&mut sees).await;
}

struct Worker {
    context: Arc<Context>,
    client: Client,
    api: Api<Pod>,
    key: PodKey,
    pod: Arc<Pod>,
    sandbox: Option<Sandbox>,
}

impl Worker {
    async fn work(&mut self, sees: &mut watch::Receiver<Seen>) {
        let uid = self.pod.uid().unwrap_or_default();
        let mut pause = Duration::ZERO;
        let mut next_attempt = Some(Instant::now());
        loop {
            let now = sees.borrow_and_update().clone();
            let fate = fate(&now);
            if let Seen::There(pod) = now {
                self.pod = pod;
            }
            match fate {
                Fate::Run => {}
                Fate::Finished => {
                    next_attempt = None;
                    self.tear_down().await;
                    self.context.pods.set_stage(&self.key, &uid, Stage::Finished);
                }
                Fate::Deleted | Fate::Gone => {
                    self.tear_down().await;
                    if fate == Fate::Deleted {
                        self.delete_object(&uid).await;
                    }
                    self.context.pods.remove(&self.key, &uid);
                    return;
                }
            }
            let attempt = next_attempt.filter(|_| fate == Fate::Run && self.sandbox.is_none());
            tokio::select! {
                changed = sees.changed() => if changed.is_err() { return },
                () = sleep_until(attempt.unwrap_or_else(Instant::now)), if attempt.is_some() => {
                    // A pod that is deleted meanwhile waits for the end of its ADD, as with a real runtime.
                    match self.set_up().await {
                        Ok(()) => next_attempt = None,
                        Err(error) => {
                            tracing::debug!(pod = %self.key, "set up: {error:#}");
                            self.context.pods.set_problem(&self.key, &uid, format!("{error:#}"));
                            events::failed_sandbox(&self.client, &self.pod, &self.context.node, &error).await;
                            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                            next_attempt = Some(Instant::now() + pause);
                        }
                    }
                }
            }
        }
    }

    async fn set_up(&mut self) -> anyhow::Result<()> {
        let host = self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let sandbox = if host {
            host_sandbox(&self.context, &self.pod)?
        } else {
            Sandbox::create(&self.context, &self.key, &self.pod).await?
        };
        let sandbox = self.sandbox.insert(sandbox);
        let patch = status::running(&self.pod, &self.context, sandbox.addresses());
        let name = self.pod.name_any();
        self.api
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context("report the pod's status")?;
        let uid = self.pod.uid().unwrap_or_default();
        let addresses = sandbox.addresses().to_vec();
        self.context.pods.set_stage(&self.key, &uid, Stage::Ready { addresses });
        Ok(())
    }

    async fn tear_down(&mut self) {
        if let Some(sandbox) = self.sandbox.take()
            && let Err(error) = sandbox.destroy(&self.context).await
        {
            tracing::warn!(pod = %self.key, "tear down: {error:#}");
        }
    }

    async fn delete_object(&self, uid: &str) {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api.delete(&self.pod.name_any(), &now).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => tracing::warn!(pod = %self.key, %error, "delete the pod's object"),
        }
    }
}
