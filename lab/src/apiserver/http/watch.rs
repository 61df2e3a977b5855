//! Watches: streams of changes, one JSON line each.
//!
//! A watch owns a cursor into the history of one table. It sleeps on the table's signal, then reads all changes
//! after its cursor under the registry's lock; nothing is queued for it, so a slow client costs no memory.

use super::query::Query;
use super::router::{Target, View};
use super::{Body, JSON, list, whole};
use crate::apiserver::ApiServer;
use crate::apiserver::resource::Resource;
use crate::apiserver::select::Selector;
use crate::apiserver::status::ApiError;
use crate::apiserver::store::{Key, Stored, WatchEvent};
use bytes::Bytes;
use futures::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use std::vec::IntoIter;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

/// As many octets of a streamed list are written at once, or an object more.
const PIECE: usize = 256 << 10;
/// How long a watch lives when the client does not say.
const DEFAULT_LIFE: Duration = Duration::from_mins(30);

pub(super) fn watch(
    server: &ApiServer,
    target: &Target,
    selector: Selector,
    query: &Query,
    view: View,
) -> Result<Response<Body>, ApiError> {
    let asked = query.number("resourceVersion")?;
    let streams_list = query.flag("sendInitialEvents");
    let matching = query.text("resourceVersionMatch");
    if streams_list != (matching == "NotOlderThan") {
        let mut error = ApiError::bad_request(
            "sendInitialEvents requires resourceVersionMatch=NotOlderThan, which is forbidden without it",
        );
        (error.code, error.reason) = (422, "Invalid");
        return Err(error);
    }
    let life = query.number("timeoutSeconds")?.filter(|s| *s > 0).map_or(DEFAULT_LIFE, Duration::from_secs);
    let bookmarks = query.flag("allowWatchBookmarks");
    // Subscribed before the first read: what changes in between wakes the watch.
    let (signal, ended) = server.subscribe(&target.resource.storage);
    let mut watcher = Watcher {
        server: server.clone(),
        resource: Arc::clone(&target.resource),
        selector,
        view,
        include: query.text("includeObject").to_owned(),
        cursor: 0,
        first: None,
        initial: Vec::new().into_iter(),
        marks_end: streams_list && bookmarks,
        headers: true,
        signal,
        ended,
        period: bookmarks.then(|| server.bookmark_period()),
        deadline: Instant::now() + life,
        done: false,
    };
    let registry = server.registry();
    let store = &registry.store;
    let current = store.version();
    let storage = &target.resource.storage;
    match asked {
        Some(version) if version > 0 && !streams_list => {
            watcher.cursor = version;
            if !store.reaches(storage, version) {
                let error = too_old(version, current);
                watcher.first = Some(line("ERROR", error.to_status().to_string().as_bytes()));
                watcher.done = true;
            }
        }
        version => {
            if version.is_some_and(|v| v > current) {
                return Err(ApiError::future_version(version.unwrap_or_default(), current));
            }
            watcher.cursor = current;
            watcher.initial = store.list(storage, &watcher.selector, None).into_iter();
        }
    }
    drop(registry);
    let frames = stream::unfold(watcher, |mut watcher| async move {
        let lines = watcher.next().await?;
        watcher.server.count_sent(&watcher.resource.plural, lines.len());
        Some((Ok::<_, Infallible>(Frame::data(lines)), watcher))
    });
    let mut response = whole(200, JSON, Bytes::new());
    *response.body_mut() = StreamBody::new(frames).boxed_unsync();
    Ok(response)
}

struct Watcher {
    server: ApiServer,
    resource: Arc<Resource>,
    selector: Selector,
    view: View,
    include: String,
    /// Everything up to this version has been sent.
    cursor: u64,
    /// Lines that go out before anything else.
    first: Option<Bytes>,
    /// What was there when it began, as far as it has not gone out.
    initial: IntoIter<(Key, Arc<Stored>)>,
    /// Whether a bookmark is to say where that ends.
    marks_end: bool,
    /// Whether the next table still needs its column headers.
    headers: bool,
    signal: Receiver<u64>,
    /// Changes when the server ends all watches.
    ended: Receiver<u64>,
    period: Option<Duration>,
    deadline: Instant,
    done: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let initial = self.initial();
        if !initial.is_empty() {
            return Some(initial.into());
        }
        let mut bookmark_at = self.period.map(|p| Instant::now() + p);
        while !self.done {
            self.signal.borrow_and_update();
            let lines = self.read();
            if !lines.is_empty() {
                return Some(lines.into());
            }
            if bookmark_at.is_some_and(|at| at <= Instant::now()) {
                return Some(self.bookmark(false));
            }
            if self.deadline <= Instant::now() {
                return None;
            }
            let until = bookmark_at.map_or(self.deadline, |at| at.min(self.deadline));
            let woken = tokio::time::timeout_at(until, async {
                tokio::select! {
                    changed = self.signal.changed() => changed.is_ok(),
                    _ = self.ended.changed() => false,
                }
            });
            match woken.await {
                Ok(true) => {}
                Ok(false) => self.done = true,
                // A late bookmark still goes out; the end of the watch's life comes first otherwise.
                Err(_elapsed) => bookmark_at = bookmark_at.filter(|at| *at <= self.deadline),
            }
        }
        None
    }

    /// The next lines of what was there when it began, and the mark of its end: as a piece of the list is written only when
    /// the one before has gone out, no list is ever there in whole.
    fn initial(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        while lines.len() < PIECE
            && let Some((_, object)) = self.initial.next()
        {
            lines.extend_from_slice(&self.event("ADDED", &object));
        }
        if self.initial.as_slice().is_empty() && std::mem::take(&mut self.marks_end) {
            lines.extend_from_slice(&self.bookmark(true));
        }
        lines
    }

    /// The lines of all changes after the cursor.
    fn read(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        let (changes, current) = {
            let registry = self.server.registry();
            let store = &registry.store;
            // A watch from the future sends nothing until the future comes.
            if store.version() < self.cursor {
                return lines;
            }
            (store.changes(&self.resource.storage, self.cursor), store.version())
        };
        let Ok(changes) = changes else {
            self.done = true;
            return line("ERROR", too_old(self.cursor, current).to_status().to_string().as_bytes()).to_vec();
        };
        for change in changes {
            let event = match change.seen_through(&self.selector) {
                Some(WatchEvent::Added(object)) => self.event("ADDED", &object),
                Some(WatchEvent::Modified(object)) => self.event("MODIFIED", &object),
                Some(WatchEvent::Deleted(object)) => self.event("DELETED", &object),
                None => continue,
            };
            lines.extend_from_slice(&event);
        }
        self.cursor = current;
        lines
    }

    fn event(&mut self, kind: &str, object: &Arc<Stored>) -> Bytes {
        let body = list::one(&self.server, &self.resource, object, self.view, &self.include, self.headers);
        self.headers = false;
        line(kind, &body)
    }

    fn bookmark(&self, initial_events_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = match self.view {
            View::Whole => (self.resource.kind.as_str(), self.resource.api_version()),
            View::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
            View::Table => ("Table", "meta.k8s.io/v1".to_owned()),
        };
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if self.view == View::Table {
            object["rows"] = Value::Array(Vec::new());
            object["columnDefinitions"] = Value::Array(Vec::new());
        }
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

fn too_old(version: u64, current: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {version} ({current})"))
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}
