//! The task that writes Events.

use std::{collections::VecDeque, time::Duration};

use k8s_openapi::{
    api::events::v1::{Event as Object, EventSeries},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::{
    About, Inbox, Message, Notice, Severity, Told,
    ledger::{Ledger, Write},
};
use crate::{facts::Facts, metrics::Metrics};

/// Who reports, as the API wants it: a name with a domain.
const CONTROLLER: &str = "margay.dev/margay-node";
/// Where Events of what is in no namespace are.
const NAMESPACE: &str = "default";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between a request that failed and the next.
const RETRY: Duration = Duration::from_secs(5);
/// Writes that wait for the API server; of more the oldest are dropped.
const MOST_WAITING: usize = 256;
/// What the API server takes of a note, in octets.
const LONGEST_NOTE: usize = 1024;
/// So that there is room for what makes a name unique, within 253.
const LONGEST_NAME: usize = 220;

/// Writes for ever.
pub(crate) async fn run(
    client: Client,
    node_name: String,
    mut inbox: Inbox,
    mut facts: Told,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let mut ledger = Ledger::default();
    let mut waiting: VecDeque<Write> = VecDeque::new();
    let mut names: Vec<(Notice, String, String)> = Vec::new();
    let mut not_before: Option<Instant> = None;
    let mut failing = false;
    loop {
        let attempt = if waiting.is_empty() { None } else { Some(not_before.unwrap_or_else(Instant::now)) };
        let next = ledger.next().into_iter().chain(attempt).min();
        tokio::select! {
            message = inbox.0.recv() => match message {
                Some(message) => hear(&mut ledger, message, &metrics),
                None => return Ok(()),
            },
            changed = facts.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        while let Ok(message) = inbox.0.try_recv() {
            hear(&mut ledger, message, &metrics);
        }
        let facts = facts.borrow_and_update().clone();
        ledger.speak(facts.speaks, Instant::now());
        waiting.extend(ledger.due(Instant::now()));
        names.retain(|(notice, ..)| ledger.knows(notice));
        while waiting.len() > MOST_WAITING {
            waiting.pop_front();
            metrics.notices_dropped.inc();
        }
        if not_before.is_some_and(|until| until > Instant::now()) {
            continue;
        }
        not_before = None;
        let Some(write) = waiting.pop_front() else { continue };
        let outcome = timeout(PATIENCE, perform(&client, &node_name, &facts, &write, &mut names)).await;
        let error = match outcome {
            Ok(Ok(())) => {
                failing = false;
                continue;
            }
            Ok(Err(error)) => error,
            Err(_elapsed) => {
                waiting.push_front(write);
                not_before = Some(Instant::now() + RETRY);
                continue;
            }
        };
        match error {
            // It is nothing that another attempt would mend: the namespace is gone, the role lacks the rule, ...
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                metrics.notices_dropped.inc();
                if !failing && status.code == 403 {
                    warn!(
                        error = status.message,
                        "Events cannot be written; apply the roles of manifests/margay.yaml"
                    );
                    failing = true;
                }
                debug!(error = status.message, "an Event is not written");
            }
            error => {
                debug!(%error, "an Event cannot be written; trying again");
                waiting.push_front(write);
                not_before = Some(Instant::now() + RETRY);
            }
        }
    }
}

fn hear(ledger: &mut Ledger, message: Message, metrics: &Metrics) {
    let now = Instant::now();
    match message {
        Message::Notice(notice) => {
            if !ledger.take(notice, now) {
                metrics.notices_dropped.inc();
            }
        }
        Message::Standing(object, reason, notes) => ledger.stand(object, reason, notes, now),
    }
}

/// Creates an Event, and keeps its namespace and name; or changes the number of one that is there.
async fn perform(
    client: &Client,
    node_name: &str,
    facts: &Facts,
    write: &Write,
    names: &mut Vec<(Notice, String, String)>,
) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    match write {
        Write::New(notice) => {
            names.push(create(client, notice, event(notice, node_name, facts, now)).await?);
        }
        Write::Again(notice, count) => {
            let count = i32::try_from(*count).unwrap_or(i32::MAX);
            let series = EventSeries { count, last_observed_time: now.clone() };
            if let Some(index) = names.iter().rposition(|(of, ..)| of == notice) {
                let (_, namespace, name) = names.swap_remove(index);
                let api: Api<Object> = Api::namespaced(client.clone(), &namespace);
                let patch = json!({"series": series});
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    outcome => {
                        names.push((notice.clone(), namespace, name));
                        return outcome.map(drop);
                    }
                }
            }
            // The first could not be written, or somebody has deleted it.
            let event = Object { series: Some(series), ..event(notice, node_name, facts, now) };
            names.push(create(client, notice, event).await?);
        }
    }
    Ok(())
}

/// Creates an Event, and gives its namespace and name.
async fn create(
    client: &Client,
    notice: &Notice,
    event: Object,
) -> Result<(Notice, String, String), kube::Error> {
    let (namespace, name) = (event.metadata.namespace.clone(), event.metadata.name.clone());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let api: Api<Object> = Api::namespaced(client.clone(), &namespace);
    api.create(&PostParams::default(), &event).await?;
    Ok((notice.clone(), namespace, name))
}

fn event(notice: &Notice, node_name: &str, facts: &Facts, now: MicroTime) -> Object {
    let regarding = match &notice.about {
        About::Object(object) => object.clone(),
        About::OwnNode => super::Object {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node_name.to_owned(),
            // As kubelets do, before the object is known.
            uid: facts.node.as_ref().map_or_else(|| node_name.to_owned(), |node| node.uid.clone()),
            ..super::Object::default()
        },
    };
    let namespace = if regarding.namespace.is_empty() { NAMESPACE } else { &regarding.namespace };
    let name = cut(&regarding.name, LONGEST_NAME).trim_end_matches(['.', '-']);
    Object {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(format!("{name}.{:x}", now.0.as_nanosecond())),
            ..ObjectMeta::default()
        },
        regarding: Some(regarding.reference()),
        reason: Some(notice.reason.word.to_owned()),
        note: Some(cut(&notice.note, LONGEST_NOTE).to_owned()),
        type_: Some(format!("{:?}", notice.reason.severity)),
        action: Some(action(notice.reason.severity).to_owned()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut(node_name, 128).to_owned()),
        event_time: Some(now),
        ..Object::default()
    }
}

/// What was done about it, which the API asks for.
fn action(severity: Severity) -> &'static str {
    match severity {
        Severity::Normal => "Resume",
        Severity::Warning => "Report",
    }
}

/// The first so many octets, but no half of a character.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};

    use super::{cut, event};
    use crate::{
        facts::Facts,
        notice::{About, Notice, Reason},
    };

    #[test]
    fn an_event_of_the_node_is_in_the_namespace_default_and_no_longer_than_the_api_takes() {
        let notice = Notice { about: About::OwnNode, reason: Reason::NOT_READY, note: "ä".repeat(1000) };
        let event = event(&notice, "n1", &Facts::default(), MicroTime(Timestamp::UNIX_EPOCH));
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.note.unwrap().len(), 1024);
        assert_eq!(event.regarding.unwrap().namespace, None);
        assert_eq!(cut("aä", 2), "a");
    }
}
