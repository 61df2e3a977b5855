//! Writes how the node's sessions are to its `BGPNodeStatus`.
//!
//! Written when something has changed, and then at most every few seconds; a mere change of counts waits longer, as
//! every node of a large cluster sees most of them. The heartbeat is for who reads an object of a node that is gone.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use margay_api::resource::{BGPNodeStatus, BGPNodeStatusSpec, BGPSession, BGPSessions};
use margay_bgp::{config::Config, control::Status};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::bgp::Sighting;
use crate::{causes::in_full, peering::Plan};

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(3);
/// Between two writes of which the later has nothing new but counts.
const COUNTS_PAUSE: Duration = Duration::from_secs(30);
/// Between two writes of the same.
const HEARTBEAT: Duration = Duration::from_mins(5);
/// Between a write that failed and the next.
const RETRY: Duration = Duration::from_secs(30);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far a state's beginning, worked out from whole seconds, may seem to move.
const JITTER: SignedDuration = SignedDuration::from_secs(2);

/// Writes for ever.
pub(crate) async fn run(
    client: Client,
    node_name: String,
    plans: watch::Receiver<Option<Plan>>,
    mut sightings: watch::Receiver<Sighting>,
) -> anyhow::Result<()> {
    let mut written: Option<(BGPSessions, Instant)> = None;
    let mut not_before = Instant::now();
    let mut failing = false;
    // The speaker is looked at every second, so that nothing else need wake this task.
    while sightings.changed().await.is_ok() {
        let Some(plan) = plans.borrow().clone() else { continue };
        let sighting = sightings.borrow_and_update().clone();
        let now = Timestamp::now();
        let before = written.as_ref().map(|(sessions, _)| sessions);
        let Some(sessions) = sessions(&plan, &sighting, before, now) else { continue };
        let due = written.as_ref().is_none_or(|(before, at)| at.elapsed() >= pause(before, &sessions));
        if !due || Instant::now() < not_before {
            continue;
        }
        let sessions = BGPSessions { heartbeat_time: Some(Time(now)), ..sessions };
        let outcome = match timeout(PATIENCE, write(&client, &node_name, &plan.node_uid, &sessions)).await {
            Ok(outcome) => outcome.map_err(|error| in_full(&error)),
            Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
        };
        match outcome {
            Ok(()) => {
                if failing {
                    info!("the BGPNodeStatus is written again");
                }
                failing = false;
                written = Some((sessions, Instant::now()));
            }
            Err(error) => {
                // Once, not at every attempt.
                if !failing {
                    warn!(%error, "the BGPNodeStatus cannot be written; are the definitions and roles of manifests/margay.yaml applied?");
                }
                failing = true;
                not_before = Instant::now() + RETRY;
            }
        }
    }
    Ok(())
}

/// How long after the last write this one may come.
fn pause(before: &BGPSessions, sessions: &BGPSessions) -> Duration {
    let without = |sessions: &BGPSessions| {
        let mut sessions = BGPSessions { heartbeat_time: None, ..sessions.clone() };
        for session in &mut sessions.sessions {
            (session.received, session.accepted, session.advertised) = (0, 0, 0);
        }
        sessions
    };
    let is_same =
        *sessions == BGPSessions { heartbeat_time: sessions.heartbeat_time.clone(), ..before.clone() };
    if is_same {
        HEARTBEAT
    } else if without(before) == without(sessions) {
        COUNTS_PAUSE
    } else {
        PAUSE
    }
}

/// What to say; `None` before anything was heard of the speaker.
fn sessions(
    plan: &Plan,
    sighting: &Sighting,
    before: Option<&BGPSessions>,
    now: Timestamp,
) -> Option<BGPSessions> {
    let config: &Arc<Config> = &plan.config;
    let mut all = BGPSessions {
        asn: Some(config.asn.number()),
        router_id: Some(config.router_id.to_string()),
        configured: u32::try_from(config.neighbors.len()).unwrap_or(u32::MAX),
        problems: plan.problems.clone(),
        ..BGPSessions::default()
    };
    match sighting {
        Sighting::NotYet => return None,
        Sighting::Failed(error) => all.problems.push(format!("margay-bgp: {error}")),
        Sighting::Status(status) => {
            all.sessions = described(config, status, before, now);
            let established = all.sessions.iter().filter(|session| session.state == "Established").count();
            all.established = u32::try_from(established).unwrap_or(u32::MAX);
        }
    }
    Some(all)
}

fn described(
    config: &Config,
    status: &Status,
    before: Option<&BGPSessions>,
    now: Timestamp,
) -> Vec<BGPSession> {
    let names: BTreeMap<IpAddr, &String> = config
        .neighbors
        .iter()
        .filter_map(|neighbor| Some((neighbor.address, neighbor.description.as_ref()?)))
        .collect();
    let neighbors = status.neighbors.iter().map(|neighbor| {
        let peer = neighbor.address.to_string();
        let seconds = i64::try_from(neighbor.since_seconds).unwrap_or(i64::MAX);
        let since = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::UNIX_EPOCH);
        let known = before.into_iter().flat_map(|before| &before.sessions);
        let known = known.filter(|known| known.peer == peer && known.state == neighbor.state);
        let known =
            known.map(|known| known.since.0).find(|known| known.duration_since(since).abs() <= JITTER);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        BGPSession {
            name: names.get(&neighbor.address).map(|name| (*name).clone()),
            peer,
            asn: neighbor.remote_as.number(),
            state: neighbor.state.clone(),
            since: Time(known.unwrap_or(since)),
            received: count(neighbor.prefixes_received),
            accepted: count(neighbor.prefixes_accepted),
            advertised: count(neighbor.prefixes_advertised),
            bfd: neighbor.bfd.as_ref().map(|bfd| bfd.state.clone()),
            last_error: neighbor.last_error.clone(),
        }
    });
    neighbors.collect()
}

/// Puts the status in the place of the last one. The object is made if it is not there.
async fn write(
    client: &Client,
    node: &str,
    node_uid: &str,
    sessions: &BGPSessions,
) -> Result<(), kube::Error> {
    let api: Api<BGPNodeStatus> = Api::all(client.clone());
    // All fields, so that those that are no more go from the object too.
    let patch = json!({"status": {
        "asn": sessions.asn, "routerId": sessions.router_id, "configured": sessions.configured,
        "established": sessions.established, "heartbeatTime": sessions.heartbeat_time,
        "sessions": sessions.sessions, "problems": sessions.problems,
    }});
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
    match api.patch_status(node, &parameters, &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        outcome => return outcome.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        ..OwnerReference::default()
    };
    let object = BGPNodeStatus {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: BGPNodeStatusSpec { node: node.to_owned() },
        status: None,
    };
    match api.create(&PostParams::default(), &object).await {
        // Somebody else has made it meanwhile.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        outcome => drop(outcome?),
    }
    api.patch_status(node, &parameters, &patch).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use margay_bgp::{
        Asn, BgpIdentifier,
        config::{Config, Neighbor},
        control::{NeighborStatus, Status},
    };

    use super::{COUNTS_PAUSE, HEARTBEAT, PAUSE, pause, sessions};
    use crate::{peering::Plan, program::bgp::Sighting};

    fn plan() -> Plan {
        let asn = Asn::new(64500).unwrap();
        let mut config = Config::new(asn, BgpIdentifier::new([192, 0, 2, 1].into()).unwrap());
        let description = Some("node n2".to_owned());
        config.neighbors.push(Neighbor { description, ..Neighbor::new([192, 0, 2, 2].into(), asn) });
        Plan { config: Arc::new(config), problems: vec!["BGPPeer x: ttl: 0".into()], node_uid: "u".into() }
    }

    fn sighting(state: &str, since_seconds: u64, prefixes_received: usize) -> Sighting {
        let plan = plan();
        Sighting::Status(Status {
            configured: true,
            router_id: Some(plan.config.router_id),
            asn: Some(plan.config.asn),
            neighbors: vec![NeighborStatus {
                address: [192, 0, 2, 2].into(),
                remote_as: plan.config.asn,
                state: state.into(),
                since_seconds,
                prefixes_received,
                prefixes_accepted: prefixes_received,
                prefixes_advertised: 1,
                last_error: None,
                bfd: None,
                flaps: 0,
                messages: [0; 2],
                negotiated: None,
            }],
            collectors: Vec::new(),
        })
    }

    #[test]
    fn the_status_names_peers_and_counts_those_that_are_there() {
        let start = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000);
        assert_eq!(sessions(&plan(), &Sighting::NotYet, None, start), None);
        let up = sessions(&plan(), &sighting("Established", 10, 3), None, start).unwrap();
        assert_eq!((up.configured, up.established, up.problems.len()), (1, 1, 1));
        assert_eq!(up.sessions[0].name.as_deref(), Some("node n2"));
        assert_eq!(up.sessions[0].since.0, Timestamp::UNIX_EPOCH + SignedDuration::from_secs(990));
        let gone = sessions(&plan(), &Sighting::Failed("no socket".into()), Some(&up), start).unwrap();
        assert_eq!((gone.configured, gone.established, gone.sessions.len()), (1, 0, 0));
        assert!(gone.problems.contains(&"margay-bgp: no socket".to_owned()), "{:?}", gone.problems);
    }

    #[test]
    fn what_only_ages_is_written_seldom_counts_later_and_states_soon() {
        let start = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000);
        let first = sessions(&plan(), &sighting("Established", 10, 3), None, start).unwrap();
        let later = start + SignedDuration::from_millis(5900);
        let aged = sessions(&plan(), &sighting("Established", 15, 3), Some(&first), later).unwrap();
        assert_eq!(pause(&first, &aged), HEARTBEAT);
        let more = sessions(&plan(), &sighting("Established", 15, 4), Some(&first), later).unwrap();
        assert_eq!(pause(&first, &more), COUNTS_PAUSE);
        let down = sessions(&plan(), &sighting("Idle", 0, 0), Some(&first), later).unwrap();
        assert_eq!(pause(&first, &down), PAUSE);
        // A session that came back meanwhile is another one.
        let flapped = sessions(&plan(), &sighting("Established", 1, 3), Some(&first), later).unwrap();
        assert_eq!(pause(&first, &flapped), PAUSE);
    }
}
