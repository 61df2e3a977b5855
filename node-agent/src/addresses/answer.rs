//! The answer to a plugin that asks for addresses.

use margay_api::{
    agent::{NoAddress, Response},
    endpoint::PodRef,
};
use tokio::sync::oneshot;
use tracing::warn;

use crate::notice::{Notices, Object, Reason};

/// Where it goes. That there is no address is told in the log and on the pod, wherever it was found out.
#[derive(Debug)]
pub(crate) struct Answer {
    to: oneshot::Sender<Response>,
    pod: Option<PodRef>,
    notices: Notices,
}

impl Answer {
    /// The answer about a pod, or about what no Kubernetes runtime makes.
    pub(super) fn new(to: oneshot::Sender<Response>, pod: Option<PodRef>, notices: Notices) -> Self {
        Self { to, pod, notices }
    }

    /// Whether the plugin has given up.
    pub(super) fn is_closed(&self) -> bool {
        self.to.is_closed()
    }

    /// Says that there is no address.
    pub(super) fn refuse(self, cause: NoAddress, reason: String) {
        self.send(Response::NoAddress { cause, reason });
    }

    pub(super) fn send(self, response: Response) {
        if let Response::NoAddress { cause, reason } = &response {
            warn!(reason, "a pod gets no address");
            if let Some(pod) = &self.pod {
                let why = match cause {
                    NoAddress::Refused => Reason::ADDRESS_REFUSED,
                    NoAddress::Full | NoAddress::Later => Reason::NO_ADDRESS,
                };
                self.notices.of(Object::pod(pod), why, reason);
            }
        }
        // A plugin that has given up does not hear the answer.
        drop(self.to.send(response));
    }
}
