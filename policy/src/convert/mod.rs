//! The API's policies to the checked ones.
//!
//! An API server refuses most of what is wrong in them. What comes through all the same (an older server, a field
//! newer than us) must not be fatal and must not open anything, and every such place is reported. In a NetworkPolicy,
//! which only opens, a peer or port that cannot be read matches nothing, and the rest of the policy stands. The rules of
//! a ClusterNetworkPolicy may close, too: see [`convert_cluster`].

mod cluster_network_policy;
mod network_policy;

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

pub use cluster_network_policy::convert_cluster;
pub use network_policy::convert;

use crate::{Enforcement, PolicyId, Selector};

/// The annotation of a NetworkPolicy or ClusterNetworkPolicy that says whether it is enforced: `audit`, or `enforce` as
/// without it.
pub const ENFORCEMENT: &str = "margay.dev/enforcement";

/// Something in a policy that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{policy}: {field}: {reason}")]
pub struct Problem {
    /// The policy.
    pub policy: PolicyId,
    /// The path of the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What the readers of both kinds have in common.
struct Reader {
    policy: PolicyId,
    problems: Vec<Problem>,
}

impl Reader {
    fn new(policy: PolicyId) -> Self {
        Self { policy, problems: Vec::new() }
    }

    fn problem(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.problems.push(Problem {
            policy: self.policy.clone(),
            field: field.into(),
            reason: reason.into(),
        });
    }

    fn enforcement(&mut self, meta: &ObjectMeta) -> Enforcement {
        let said = meta.annotations.as_ref().and_then(|annotations| annotations.get(ENFORCEMENT));
        match said.map(String::as_str) {
            None | Some("enforce") => Enforcement::Enforce,
            Some("audit") => Enforcement::Audit,
            Some(_) => {
                let field = format!("metadata.annotations[{ENFORCEMENT}]");
                self.problem(field, "is neither `audit` nor `enforce`; the policy is enforced");
                Enforcement::Enforce
            }
        }
    }

    fn network(&mut self, field: &str, text: &str) -> Option<IpNetwork> {
        let parsed = text.contains('/').then(|| text.parse::<IpNetwork>().ok()).flatten();
        let Some(network) = parsed else {
            self.problem(field, format!("`{text}` is not a network such as 192.0.2.0/24"));
            return None;
        };
        // Host bits are let through by API servers and mean nothing.
        IpNetwork::new(network.network(), network.prefix()).ok()
    }

    fn selector(&mut self, field: &str, selector: &LabelSelector) -> Option<Selector> {
        Selector::from_api(selector)
            .map_err(|(inner, reason)| self.problem(format!("{field}.{inner}"), reason))
            .ok()
    }
}
