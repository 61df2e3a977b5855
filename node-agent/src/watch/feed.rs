//! One kind's objects, from the API server to who hears of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use futures::StreamExt;
use kube::{Api, Resource, api::ObjectMeta, runtime::watcher};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    Change,
    guarded::{Guarded, Kind},
    listing,
    presence::{Absence, Presence},
    read::Read,
};
use crate::{
    causes::in_full,
    notice::{self, Notices, Reason},
};

/// The feed of a kind that a cluster, or the agent's role, may be without.
pub(super) fn optional<E>(resource: &'static str, events: &mpsc::Sender<E>, notices: &Notices) -> Feed<E> {
    Feed::of_all(resource, Need::IfInstalled, events, notices)
}

pub(super) struct Feed<E> {
    resource: &'static str,
    need: Need,
    /// The field selector of the objects that it is about; all when there is none.
    fields: Option<String>,
    events: mpsc::Sender<E>,
    notices: Notices,
    /// The objects that were told to be wrong.
    wrong: BTreeSet<notice::Object>,
    /// How many of them the metrics have, where another feed of the same resource has its own.
    counted: i64,
}

/// Whether a cluster can be without a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Always,
    IfInstalled,
}

impl<E> Feed<E> {
    pub(super) fn of_all(
        resource: &'static str,
        need: Need,
        events: &mpsc::Sender<E>,
        notices: &Notices,
    ) -> Self {
        // What is there before it counts: no object is wrong, and a series that begins with its first count has no increase.
        let label = crate::metrics::Resource { resource };
        drop(notices.metrics().unreadable.get_or_create(&label));
        drop(notices.metrics().invalid.get_or_create(&label));
        let (events, notices) = (events.clone(), notices.clone());
        Self { resource, need, fields: None, events, notices, wrong: BTreeSet::new(), counted: 0 }
    }

    /// About those alone that a field selector chooses.
    pub(super) fn with_fields(self, fields: Option<String>) -> Self {
        Self { fields, ..self }
    }

    /// Reads an object and reports what is wrong with it; the core gets the rest.
    fn sift<O: Kind, V>(&mut self, object: &Guarded<O>, read: impl Fn(&O) -> Read<V>) -> Option<V> {
        let label = crate::metrics::Resource { resource: self.resource };
        let read = match &object.0 {
            Ok(object) => read(object),
            Err(invalid) => {
                let ObjectMeta { namespace, name, .. } = &invalid.metadata;
                let parts = [namespace.as_deref(), name.as_deref()];
                let name = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
                let problem = format!("{name}: {}; it is passed over", invalid.error);
                Read { value: None, problems: vec![problem] }
            }
        };
        for problem in &read.problems {
            warn!(resource = self.resource, "{problem}");
            self.notices.metrics().unreadable.get_or_create(&label).inc();
        }
        self.tell(notice::Object::of::<O>(object.meta()), read.problems);
        read.value
    }

    /// Tells that the role lacks a rule.
    fn denied<O: Resource<DynamicType = ()>>(&self) {
        let (kind, version) = (O::kind(&()), O::api_version(&()));
        let note = format!(
            "the agent may not read {kind} ({version}); apply the roles of manifests/margay.yaml: what changes there has no effect"
        );
        self.notices.of_node(Reason::ACCESS_DENIED, note);
    }

    /// Tells what is wrong with an object on the object itself, and that nothing is any more.
    fn tell(&mut self, object: notice::Object, problems: Vec<String>) {
        let was_wrong =
            if problems.is_empty() { self.wrong.remove(&object) } else { !self.wrong.insert(object.clone()) };
        let label = crate::metrics::Resource { resource: self.resource };
        let count = i64::try_from(self.wrong.len()).unwrap_or(i64::MAX);
        self.notices.metrics().invalid.get_or_create(&label).inc_by(count - self.counted);
        self.counted = count;
        let reason = match self.resource {
            // Their status says it, and who writes that tells.
            "ippools" => return,
            "networkpolicies" | "clusternetworkpolicies" => Reason::POLICY_NOT_READ,
            _ => Reason::NOT_READ,
        };
        if was_wrong || !problems.is_empty() {
            self.notices.standing(object, reason, problems);
        }
    }

    /// What is not in a new listing is wrong no more.
    fn forget(&mut self, before: &BTreeSet<notice::Object>) {
        let gone: Vec<_> = before.difference(&self.wrong).cloned().collect();
        for object in gone {
            self.wrong.insert(object.clone());
            self.tell(object, Vec::new());
        }
    }
}

pub(super) async fn follow<O, K, V, W, E>(
    api: Api<Guarded<O>>,
    mut feed: Feed<E>,
    read: impl Fn(&O) -> Read<V>,
    key: impl Fn(&ObjectMeta) -> K,
    wrap: impl Fn(Change<K, V>) -> W,
) -> anyhow::Result<()>
where
    O: Kind + Clone + Debug + Send + 'static,
    K: Ord,
    E: From<W>,
{
    // A map that is made of all its objects at once takes little more than half the memory of one that grew.
    let mut listed = Vec::new();
    let mut before = BTreeSet::new();
    let mut failing = false;
    let mut presence = Presence::default();
    let mut stream = listing::watched(api, feed.fields.as_deref(), feed.resource);
    while let Some(event) = stream.next().await {
        if matches!(
            event,
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_))
        ) {
            presence.served();
        }
        let change = match event {
            Err(error) => {
                let absence = match feed.need {
                    Need::Always => None,
                    Need::IfInstalled => presence.failed(status(&error)),
                };
                let Some(absence) = absence else {
                    // Once, not at every attempt.
                    if !failing && !presence.is_absent() {
                        let is_denied = status(&error) == Some(403);
                        let error = in_full(&error);
                        warn!(
                            resource = feed.resource,
                            error, "the API server does not serve the watch; trying again"
                        );
                        failing = true;
                        if is_denied {
                            feed.denied::<O>();
                        }
                    }
                    continue;
                };
                let (kind, version) = (O::kind(&()), O::api_version(&()));
                match absence {
                    Absence::NotInstalled => {
                        info!(
                            resource = feed.resource,
                            "{kind} is not installed (no CRD {version}); it is looked for again"
                        );
                    }
                    Absence::Forbidden => {
                        warn!(
                            resource = feed.resource,
                            %error,
                            "the agent may not read {kind} ({version}): if there are any, they have NO effect; apply the \
                             roles of manifests/margay.yaml"
                        );
                        feed.denied::<O>();
                    }
                }
                failing = false;
                Change::Replaced(BTreeMap::new())
            }
            Ok(watcher::Event::Init) => {
                listed.clear();
                before.append(&mut feed.wrong);
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                let key = key(object.meta());
                if let Some(value) = feed.sift(&object, &read) {
                    listed.push((key, value));
                }
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                info!(resource = feed.resource, objects = listed.len(), "listed");
                feed.forget(&std::mem::take(&mut before));
                Change::Replaced(std::mem::take(&mut listed).into_iter().collect())
            }
            Ok(watcher::Event::Apply(object)) => match feed.sift(&object, &read) {
                Some(value) => Change::Applied(key(object.meta()), value),
                // Unreadable as a whole, it counts as not there.
                None => Change::Deleted(key(object.meta())),
            },
            Ok(watcher::Event::Delete(object)) => {
                feed.tell(notice::Object::of::<O>(object.meta()), Vec::new());
                Change::Deleted(key(object.meta()))
            }
        };
        if failing {
            info!(resource = feed.resource, "the API server serves the watch again");
            failing = false;
        }
        feed.notices
            .metrics()
            .api_events
            .get_or_create(&crate::metrics::Resource { resource: feed.resource })
            .inc();
        if feed.events.send(wrap(change).into()).await.is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("the watch of {} ended", feed.resource)
}

/// The HTTP status of the API server's answer, if that is what failed.
pub(super) fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use k8s_openapi::api::core::v1::Namespace;
    use kube::{Api, Client, client::Body};
    use serde_json::{Value, json};
    use tokio::{sync::mpsc, time::timeout};

    use super::{Feed, Need, follow};
    use crate::{
        core::Event,
        metrics::Metrics,
        notice,
        watch::{ApiEvent, Change, namespace},
    };

    const DEADLINE: Duration = Duration::from_secs(30);

    const METADATA: &str = "meta.k8s.io/v1";

    fn a_namespace(name: &str) -> Value {
        let metadata = json!({"name": name, "resourceVersion": "7"});
        json!({"kind": "PartialObjectMetadata", "apiVersion": METADATA, "metadata": metadata})
    }

    /// Which namespaces are listed, so many times one after the other, from a server that has one, `paged`, in a list, and answers
    /// so when a list is streamed, the last way from then on. It forgets its history after each list, and gives metadata alone.
    async fn listed(streamed: &[(u16, String)], times: usize) -> Vec<Vec<String>> {
        let streamed = streamed.to_vec();
        let asked = AtomicUsize::new(0);
        let gone = json!({"type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old",
        }});
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let query = request.uri().query().unwrap_or_default();
            let accept = request.headers()[http::header::ACCEPT].to_str().unwrap();
            let (status, body) = if !accept.contains(";as=PartialObjectMetadata") {
                (406, format!("no namespace in whole: {accept}"))
            } else if query.contains("sendInitialEvents") {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                streamed[number.min(streamed.len() - 1)].clone()
            } else if query.contains("watch=true") {
                (200, format!("{gone}\n"))
            } else {
                let metadata = json!({"resourceVersion": "7"});
                let list = json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": METADATA, "metadata": metadata,
                    "items": [a_namespace("paged")],
                });
                (200, list.to_string())
            };
            let response = http::Response::builder().status(status).body(Body::from(body.into_bytes()));
            std::future::ready(Ok::<_, Infallible>(response.unwrap()))
        });
        let (events, mut inbox) = mpsc::channel::<Event>(1);
        let (notices, _noticed) = notice::queue(&Arc::new(Metrics::new()));
        let feed = Feed::of_all("namespaces", Need::Always, &events, &notices);
        let api = Api::all(Client::new(service, "default"));
        let following = tokio::spawn(follow::<Namespace, _, _, _, _>(
            api,
            feed,
            namespace::read,
            namespace::key,
            ApiEvent::Namespaces,
        ));
        let mut lists = Vec::new();
        while lists.len() < times {
            let next = timeout(DEADLINE, inbox.recv()).await.unwrap();
            let Some(Event::Api(ApiEvent::Namespaces(Change::Replaced(all)))) = next else {
                panic!("{next:?}")
            };
            lists.push(all.into_keys().collect());
        }
        following.abort();
        lists
    }

    /// A list as a stream, to its end.
    fn a_stream() -> (u16, String) {
        let added = json!({"type": "ADDED", "object": a_namespace("streamed")});
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let mark = json!({"type": "BOOKMARK", "object": {
            "kind": "PartialObjectMetadata", "apiVersion": METADATA,
            "metadata": {"resourceVersion": "7", "annotations": annotations},
        }});
        (200, format!("{added}\n{mark}\n"))
    }

    /// One that was cut off.
    fn half_a_stream() -> (u16, String) {
        (200, format!("{}\n", json!({"type": "ADDED", "object": a_namespace("streamed")})))
    }

    fn a_refusal(code: u16, reason: &str) -> (u16, String) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
            "message": "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        });
        (code, status.to_string())
    }

    #[tokio::test]
    async fn a_list_is_streamed_where_the_server_can() {
        assert_eq!(listed(&[a_stream()], 1).await, [["streamed"]]);
    }

    #[tokio::test]
    async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
        for (code, reason) in [(422, "Invalid"), (400, "BadRequest")] {
            assert_eq!(listed(&[a_refusal(code, reason)], 2).await, [["paged"], ["paged"]], "{code}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_the_mark_of_its_end_is_no_list() {
        assert_eq!(listed(&[half_a_stream()], 1).await, [["paged"]]);
    }

    #[tokio::test]
    async fn the_next_list_is_streamed_again() {
        for first in [half_a_stream(), a_refusal(422, "Invalid")] {
            assert_eq!(listed(&[first, a_stream()], 2).await, [["paged"], ["streamed"]]);
        }
    }
}
