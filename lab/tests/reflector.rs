//! Watchers of the `kube` crate against the in-memory API server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Client, Config, ResourceExt};
use margay_lab::apiserver::{ApiServer, ApiServerConfig};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(30);

/// Serves on `address`, which can be one that an earlier server has just left.
fn serve(api: &ApiServer, address: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let listener: TcpListener = socket.listen(128).unwrap();
    let address = listener.local_addr().unwrap();
    let server = api.clone();
    (address, tokio::spawn(async move { server.serve(listener, std::future::pending()).await.unwrap() }))
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn client(address: SocketAddr) -> Client {
    Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

fn config_map(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": data}})
}

type Events = Pin<Box<dyn Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Send>>;

/// The next event that `wanted` takes; errors are what the watcher recovers from.
async fn until<T>(events: &mut Events, mut wanted: impl FnMut(Event<ConfigMap>) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Ok(event) = events.next().await.unwrap()
                && let Some(found) = wanted(event)
            {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("no such event in time"))
}

async fn applied(events: &mut Events, name: &str) -> ConfigMap {
    until(events, |e| match e {
        Event::Apply(o) | Event::InitApply(o) if o.name_any() == name => Some(o),
        _ => None,
    })
    .await
}

async fn follows_changes(config: watcher::Config) {
    let api = ApiServer::new();
    let (address, serving) = serve(&api, anywhere());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(address));
    api.put_raw(config_map("before", "1")).unwrap();
    let mut events: Events = Box::pin(watcher::watcher(maps.clone(), config));
    applied(&mut events, "before").await;
    until(&mut events, |e| matches!(e, Event::InitDone).then_some(())).await;
    let after = serde_json::from_value(config_map("after", "1")).unwrap();
    maps.create(&PostParams::default(), &after).await.unwrap();
    applied(&mut events, "after").await;
    let patch = json!({"data": {"a": "2"}});
    maps.patch("after", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let seen = applied(&mut events, "after").await;
    assert_eq!(seen.data.unwrap()["a"], "2");
    maps.delete("before", &DeleteParams::default()).await.unwrap();
    until(&mut events, |e| matches!(e, Event::Delete(o) if o.name_any() == "before").then_some(())).await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_lists_in_pages_follows_changes() {
    follows_changes(watcher::Config::default().page_size(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_streams_its_list_follows_changes() {
    follows_changes(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_metadata_alone_is_listed_streamed_and_told_no_more() {
    let api = ApiServer::new();
    let (address, serving) = serve(&api, anywhere());
    let long = "x".repeat(10_000);
    api.put_raw(config_map("before", &long)).unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(client(address));
    let of_maps: Api<PartialObjectMeta<ConfigMap>> = Api::default_namespaced(client(address));
    for config in [watcher::Config::default().page_size(1), watcher::Config::default().streaming_lists()] {
        let sent = api.sent().get("configmaps").copied().unwrap_or_default();
        let mut events = Box::pin(watcher::watcher(of_maps.clone(), config));
        let mut next =
            async || tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
        let is_metadata = |object: &PartialObjectMeta<ConfigMap>, name: &str| {
            let types = object.types.as_ref().unwrap();
            assert_eq!(
                (types.kind.as_str(), types.api_version.as_str()),
                ("PartialObjectMetadata", "meta.k8s.io/v1")
            );
            assert_eq!(object.name_any(), name);
        };
        assert!(matches!(next().await, Event::Init));
        let Event::InitApply(listed) = next().await else { panic!("not listed") };
        is_metadata(&listed, "before");
        // A streamed list ends with a bookmark, which is of that kind, too.
        assert!(matches!(next().await, Event::InitDone));
        let label = json!({"metadata": {"labels": {"a": "b"}}, "data": {"c": long}});
        maps.patch("before", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
        let Event::Apply(changed) = next().await else { panic!("not told of the change") };
        is_metadata(&changed, "before");
        assert_eq!(changed.labels()["a"], "b");
        maps.delete("before", &DeleteParams::default()).await.unwrap();
        let Event::Delete(gone) = next().await else { panic!("not told of the deletion") };
        is_metadata(&gone, "before");
        assert!(api.sent()["configmaps"] - sent < long.len() as u64, "{:?}", api.sent());
        api.put_raw(config_map("before", &long)).unwrap();
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_survives_restart_and_compaction() {
    let api = ApiServer::new();
    let (address, serving) = serve(&api, anywhere());
    api.put_raw(config_map("one", "1")).unwrap();
    let (reader, writer) = reflector::store::<ConfigMap>();
    let maps: Api<ConfigMap> = Api::default_namespaced(client(address));
    let stream = watcher::watcher(maps, watcher::Config::default()).default_backoff();
    let mut events: Events = Box::pin(reflector(writer, stream));
    until(&mut events, |e| matches!(e, Event::InitDone).then_some(())).await;

    // Stopped, changed behind the watcher's back, and started with no history: the watch gets 410 and lists again.
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    api.put_raw(config_map("two", "1")).unwrap();
    api.compact();
    let (_, serving) = serve(&api, address);
    let mut gone = false;
    let relisted = async {
        loop {
            match events.next().await.unwrap() {
                Err(watcher::Error::WatchError(status)) => gone |= status.code == 410,
                Ok(Event::InitDone) => return,
                Ok(_) | Err(_) => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, relisted).await.unwrap();
    assert!(gone, "the watch was told that its version is gone");
    let names = reader.state().iter().map(|o| o.name_any()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names, ["one".to_owned(), "two".to_owned()].into());

    // An ended watch whose version is still known goes on without listing.
    api.end_watches();
    api.put_raw(config_map("three", "1")).unwrap();
    until(&mut events, |e| match e {
        Event::Apply(o) => (o.name_any() == "three").then_some(()),
        Event::Init => panic!("listed again"),
        _ => None,
    })
    .await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_watch_gets_bookmarks() {
    let config = ApiServerConfig { bookmark_period: Duration::from_millis(20), ..ApiServerConfig::default() };
    let api = ApiServer::with_config(config);
    let (address, serving) = serve(&api, anywhere());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(address));
    let parameters = kube::api::WatchParams::default();
    let mut events = Box::pin(maps.watch(&parameters, "0").await.unwrap());
    // Changes of other resources move the bookmark.
    api.put_raw(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).unwrap();
    let version = api.resource_version().to_string();
    let reached = async {
        while let Some(event) = events.next().await {
            if let kube::api::WatchEvent::Bookmark(mark) = event.unwrap()
                && mark.metadata.resource_version == version
            {
                return;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(DEADLINE, reached).await.unwrap();
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_objects_come_into_and_leave_its_selector() {
    let api = ApiServer::new();
    let (address, serving) = serve(&api, anywhere());
    let pods: Api<Pod> = Api::default_namespaced(client(address));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let parameters = kube::api::WatchParams::default().labels("in=yes");
    let mut events = Box::pin(pods.watch(&parameters, "0").await.unwrap());
    for (value, kind) in [("yes", "added"), ("no", "deleted"), ("yes", "added")] {
        let patch = json!({"metadata": {"labels": {"in": value}}});
        pods.patch("p", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
        let seen = match event {
            kube::api::WatchEvent::Added(_) => "added",
            kube::api::WatchEvent::Deleted(_) => "deleted",
            _ => "other",
        };
        assert_eq!(seen, kind, "after in={value}");
    }
    let applied =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"by": "apply"}}});
    let after = pods.patch("p", &PatchParams::apply("test"), &Patch::Apply(applied)).await.unwrap();
    assert_eq!(after.labels()["by"], "apply");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_what_the_writer_writes_and_what_was_sent_is_counted() {
    // As long as some pieces of a streamed list.
    const LENGTH: usize = 10_000;
    const OBJECTS: usize = 100;
    let writer: margay_lab::apiserver::Writer = |stored| {
        let mut whole = stored.clone();
        whole["data"]["b"] = "x".repeat(LENGTH).into();
        (stored["kind"] == "ConfigMap").then(|| whole.to_string())
    };
    let config = ApiServerConfig { writer: Some(writer), ..ApiServerConfig::default() };
    let api = ApiServer::with_config(config);
    let (address, serving) = serve(&api, anywhere());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(address));
    for number in 0..OBJECTS {
        api.put_raw(config_map(&format!("m{number:02}"), "1")).unwrap();
    }
    for config in [watcher::Config::default().page_size(30), watcher::Config::default().streaming_lists()] {
        let before = api.sent().get("configmaps").copied().unwrap_or_default();
        let mut events: Events = Box::pin(watcher::watcher(maps.clone(), config));
        let mut listed = 0;
        until(&mut events, |event| match event {
            Event::InitApply(map) => {
                listed += 1;
                assert_eq!(map.data.unwrap()["b"].len(), LENGTH);
                None
            }
            event => matches!(event, Event::InitDone).then_some(()),
        })
        .await;
        assert_eq!(listed, OBJECTS);
        assert!(api.sent()["configmaps"] - before > (OBJECTS * LENGTH) as u64);
    }
    assert!(api.find("v1", "ConfigMap", "default", "m00").unwrap()["data"].get("b").is_none());
    let mut events: Events = Box::pin(watcher::watcher(maps, watcher::Config::default()));
    until(&mut events, |event| matches!(event, Event::InitDone).then_some(())).await;
    assert!(api.remove_raw("v1", "ConfigMap", "default", "m07"));
    assert!(!api.remove_raw("v1", "ConfigMap", "default", "m07"));
    until(&mut events, |e| matches!(e, Event::Delete(o) if o.name_any() == "m07").then_some(())).await;
    serving.abort();
}
