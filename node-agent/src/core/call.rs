//! What the plugin asks, and who waits for an answer.

use std::time::Duration;

use margay_api::{
    agent::{Request, Response},
    endpoint::EndpointId,
};
use margay_ipam::Owner;
use tokio::{sync::oneshot, time::Instant};

use super::{Changed, Core};
use crate::{
    notice::{Object, Reason},
    serve::plugin::Call,
};

/// How long an ADD may wait for its pod before it is told why it waits; below the plugin's own patience.
const PATIENCE: Duration = Duration::from_secs(25);

/// An ADD or CHECK that waits for its policy.
pub(super) struct Waiting {
    endpoint: EndpointId,
    answer: oneshot::Sender<Response>,
    pub(super) until: Instant,
    is_add: bool,
}

impl Core {
    pub(super) fn call(&mut self, call: Call) {
        let response = match call.request {
            Request::Addressing { pod, addresses } => {
                self.asking.push(pod, addresses, call.answer);
                return;
            }
            Request::EndpointAdded { endpoint } => match self.read(&endpoint) {
                Ok(()) => {
                    let until = Instant::now() + PATIENCE;
                    self.waiting.push(Waiting { endpoint, answer: call.answer, until, is_add: true });
                    return;
                }
                Err(reason) => Response::Refused { reason },
            },
            Request::TakeDown { container_id, ifname } => match Owner::new(&container_id, &ifname) {
                Ok(owner) => {
                    let id = EndpointId::of(&container_id, &ifname);
                    match self.read(&id) {
                        Ok(()) if self.state.endpoint(&id).is_none() => {
                            self.takedowns.begin(owner, call.answer);
                            return;
                        }
                        // The plugin has given up meanwhile, and come back.
                        Ok(()) => Response::Refused { reason: format!("endpoint {id} was added again") },
                        Err(reason) => Response::Refused { reason },
                    }
                }
                Err(error) => Response::Refused { reason: error.to_string() },
            },
            // Answered when what has come in with it is in the kernel.
            Request::EndpointCheck { endpoint } => {
                let until = Instant::now();
                self.waiting.push(Waiting { endpoint, answer: call.answer, until, is_add: false });
                return;
            }
            // Never comes here: its connection is the observer's.
            Request::Monitor { .. } | Request::Flows { .. } => {
                Response::Refused { reason: "nothing to tell".into() }
            }
            Request::Status => {
                let mut missing = self.missing();
                missing.extend(self.pools.as_ref().and_then(|pools| pools.claimed.full.clone()));
                if missing.is_empty() {
                    Response::Done
                } else if self.stale().is_empty() {
                    Response::Refused { reason: missing.join("; ") }
                } else {
                    Response::Degraded { reason: missing.join("; ") }
                }
            }
        };
        // A plugin that has given up does not hear the answer.
        drop(call.answer.send(response));
    }

    /// Reads an endpoint's record, or sees that it is gone.
    fn read(&mut self, id: &EndpointId) -> Result<(), String> {
        let endpoint = self.records.read(id).map_err(|error| error.to_string())?;
        self.state.set_endpoint(id, endpoint);
        self.changed = Changed::Urgently;
        Ok(())
    }

    /// Why an endpoint may not talk; `None` when it may and the kernel knows it.
    fn why_not(&self, id: &EndpointId) -> Option<String> {
        if let Some(missing) = self.state.missing() {
            return Some(format!("the API server has not listed everything yet; missing: {missing}"));
        }
        let Some(programmed) = &self.programmed else {
            let error = self.last_error.as_deref().unwrap_or("not tried yet");
            return Some(format!("the policy is not in the kernel: {error}"));
        };
        // As it is now: the same container may have come back with another address since.
        let is_there = programmed
            .endpoints
            .get(id)
            .is_some_and(|there| self.state.endpoint(id) == Some(there.endpoint.as_ref()));
        if is_there && self.changed == Changed::No && !self.nft.replaces() {
            return None;
        }
        let reason = programmed.waiting.get(id).or(self.last_error.as_ref());
        Some(reason.cloned().unwrap_or_else(|| format!("endpoint {id} has no record")))
    }

    /// Answers those who wait for what is now there, and those who have waited long enough.
    pub(super) fn answer(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            match self.why_not(&waiting.endpoint) {
                None => {
                    // When too much is to be told, the statuses tell.
                    if let Some(announcement) = self.state.announcement(&waiting.endpoint) {
                        drop(self.announcements.try_send(announcement));
                    }
                    drop(waiting.answer.send(Response::Done));
                }
                Some(reason) if waiting.until <= now => {
                    let endpoint = self.state.endpoint(&waiting.endpoint);
                    if waiting.is_add
                        && let Some(pod) = endpoint.and_then(|endpoint| endpoint.pod.as_ref())
                    {
                        let note = format!("the pod was not let talk in time: {reason}");
                        self.notices.of(Object::pod(pod), Reason::POLICY_NOT_READY, note);
                    }
                    drop(waiting.answer.send(Response::Refused { reason }));
                }
                // The plugin has given up, or was killed.
                Some(_) if waiting.answer.is_closed() => {}
                Some(_) => self.waiting.push(waiting),
            }
        }
    }
}
