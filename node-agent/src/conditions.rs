//! The condition `Accepted` of objects that all agents read, written by the agent of one node.
//!
//! What is wrong with an object all agents find out alike; who of them writes is with [`crate::facts::Facts`].

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use margay_api::resource::{BGPConfiguration, BGPPeer, NetworkConfig, set_condition};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::warn;

use crate::watch::Told;

/// Between two writes of one object's status: the watch shows what the first has done before.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an object is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    Configuration(String),
    Peer(String),
    Network(String),
}

/// What is written, and when it was.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    written: BTreeMap<Named, Instant>,
    calls: JoinSet<()>,
}

impl Conditions {
    /// Writes what the objects do not say yet, and says when to come again if some of it has to wait.
    pub(crate) fn write<'a>(
        &mut self,
        client: &Client,
        objects: impl Iterator<Item = (Named, &'a Told, &'a [String])>,
        now: Instant,
        wall: Timestamp,
    ) -> Option<Instant> {
        while self.calls.try_join_next().is_some() {}
        self.written.retain(|_, at| *at + PAUSE > now);
        let mut next = None::<Instant>;
        for (name, told, problems) in objects {
            let Some(conditions) = wanted(told, problems, wall) else { continue };
            let again = if let Some(at) = self.written.get(&name) {
                *at + PAUSE
            } else {
                self.written.insert(name.clone(), now);
                self.calls.spawn(patch(client.clone(), name, conditions));
                now + PAUSE
            };
            next = Some(next.map_or(again, |next| next.min(again)));
        }
        next
    }
}

/// The conditions of an object with these problems; `None` when it has them.
fn wanted(told: &Told, problems: &[String], wall: Timestamp) -> Option<Vec<Condition>> {
    let (status, reason, message) = if problems.is_empty() {
        ("True", "Valid", "all of it was read".to_owned())
    } else {
        ("False", "Invalid", problems.join("; "))
    };
    let condition = Condition {
        type_: "Accepted".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: told.generation,
        last_transition_time: Time(wall),
    };
    let mut conditions = told.conditions.clone();
    set_condition(&mut conditions, condition);
    (conditions != told.conditions).then_some(conditions)
}

async fn patch(client: Client, name: Named, conditions: Vec<Condition>) {
    let outcome = match &name {
        Named::Configuration(name) => patched::<BGPConfiguration>(client, name, &conditions).await,
        Named::Peer(name) => patched::<BGPPeer>(client, name, &conditions).await,
        Named::Network(name) => patched::<NetworkConfig>(client, name, &conditions).await,
    };
    match outcome {
        // Written, or the object is gone meanwhile.
        Ok(()) | Err(Some(404)) => {}
        Err(status) => {
            warn!(?name, ?status, "the status of an object cannot be written; trying again");
        }
    }
}

/// The error is the HTTP status of the API server, if there is one.
async fn patched<K>(client: Client, name: &str, conditions: &[Condition]) -> Result<(), Option<u16>>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::all(client);
    let (parameters, patch) =
        (PatchParams::default(), Patch::Merge(json!({"status": {"conditions": conditions}})));
    match timeout(PATIENCE, api.patch_status(name, &parameters, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(Some(status.code)),
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::{SignedDuration, Timestamp};

    use super::wanted;
    use crate::watch::Told;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_transition_and_the_same_is_not_written_again() {
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let mut told = Told { generation: Some(1), conditions: Vec::new() };
        let mut problems: Vec<String> = Vec::new();
        for (second, generation, problem, wanted_status, changed_at) in [
            (1, 1, None, "True", 1),
            (2, 2, None, "True", 1),
            (3, 3, Some("spec.ttl: 0"), "False", 3),
            (4, 4, Some("spec.asn: 0"), "False", 3),
            (5, 5, None, "True", 5),
        ] {
            problems.splice(.., problem.map(str::to_owned));
            told.generation = Some(generation);
            told.conditions = wanted(&told, &problems, at(second)).unwrap();
            let condition = &told.conditions[0];
            assert_eq!(
                (condition.status.as_str(), condition.observed_generation),
                (wanted_status, Some(generation))
            );
            assert_eq!(condition.last_transition_time.0, at(changed_at));
            assert_eq!(wanted(&told, &problems, at(100)), None);
        }
    }
}
