//! The rules of the verbs.

use super::*;
use crate::apiserver::patch::Patch;
use crate::apiserver::select::Selector;

struct Fixture {
    registry: Registry,
    next: u32,
}

impl Fixture {
    fn new() -> Self {
        let networks = vec!["10.96.0.0/30".parse().unwrap(), "2001:db8::/112".parse().unwrap()];
        let mut registry = Registry::new(Store::new(1000), networks);
        registry.create_system_namespaces(|| stamp(0));
        Self { registry, next: 0 }
    }

    fn stamp(&mut self) -> Stamp {
        self.next += 1;
        stamp(self.next)
    }

    fn kind(&self, group: &str, plural: &str) -> Arc<Resource> {
        let version = "v1";
        self.registry.resources.find(group, version, plural).unwrap()
    }

    fn create(&mut self, group: &str, plural: &str, object: Value) -> Result<Value, ApiError> {
        let (resource, stamp) = (self.kind(group, plural), self.stamp());
        let space = if resource.namespaced { "default" } else { "" };
        let written = self.registry.create(&resource, space, object, &WriteOptions::default(), &stamp);
        written.map(|w| w.object.value.clone())
    }

    fn merge(&mut self, plural: &str, name: &str, part: Part, patch: Value) -> Result<Value, ApiError> {
        let (resource, stamp) = (self.kind("", plural), self.stamp());
        let space = if resource.namespaced { "default" } else { "" };
        let options = WriteOptions::default();
        let patch = Patch::Merge(patch);
        let written = self.registry.patch(&resource, space, name, part, &patch, &options, &stamp);
        written.map(|w| w.object.value.clone())
    }

    fn delete(&mut self, plural: &str, name: &str, grace: Option<i64>) -> Result<Deleted, ApiError> {
        let (resource, stamp) = (self.kind("", plural), self.stamp());
        let space = if resource.namespaced { "default" } else { "" };
        let options = DeleteOptions { grace, ..DeleteOptions::default() };
        self.registry.delete(&resource, space, name, &options, &stamp)
    }
}

fn stamp(number: u32) -> Stamp {
    let now = jiff::Timestamp::from_second(1_800_000_000 + i64::from(number)).unwrap();
    Stamp { now, uid: format!("uid-{number}"), suffix: format!("{number:05}") }
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
    })
}

#[test]
fn pods_get_their_defaults() {
    let mut f = Fixture::new();
    let created = f.create("", "pods", pod("p", "n1")).unwrap();
    let spec = &created["spec"];
    assert_eq!((&spec["restartPolicy"], &spec["dnsPolicy"]), (&json!("Always"), &json!("ClusterFirst")));
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["metadata"]["namespace"], "default");
}

#[test]
fn bound_pods_wait_for_grace_zero_and_unbound_ones_do_not() {
    let mut f = Fixture::new();
    f.create("", "pods", pod("bound", "n1")).unwrap();
    f.create("", "pods", pod("free", "")).unwrap();
    assert!(matches!(f.delete("pods", "free", None), Ok(Deleted::Gone(_))));
    let Ok(Deleted::Pending(waiting)) = f.delete("pods", "bound", None) else { panic!("gone at once") };
    assert_eq!(waiting.value["metadata"]["deletionGracePeriodSeconds"], 30);
    let version = f.registry.store.version();
    assert!(matches!(f.delete("pods", "bound", None), Ok(Deleted::Pending(_))));
    assert_eq!(f.registry.store.version(), version, "a repeated deletion changes nothing");
    assert!(matches!(f.delete("pods", "bound", Some(0)), Ok(Deleted::Gone(_))));
}

#[test]
fn finalizers_hold_an_object_until_the_last_is_removed() {
    let mut f = Fixture::new();
    f.create("", "configmaps", json!({"metadata": {"name": "m", "finalizers": ["a/b"]}})).unwrap();
    assert!(matches!(f.delete("configmaps", "m", None), Ok(Deleted::Pending(_))));
    f.merge("configmaps", "m", Part::Main, json!({"metadata": {"finalizers": null}})).unwrap();
    assert_eq!(f.delete("configmaps", "m", None).unwrap_err().code, 404);
}

#[test]
fn status_and_specification_are_written_apart() {
    let mut f = Fixture::new();
    f.create("", "pods", pod("p", "n1")).unwrap();
    let patch =
        json!({"spec": {"containers": [{"name": "c", "image": "j"}]}, "status": {"phase": "Running"}});
    let seen = f.merge("pods", "p", Part::Status, patch.clone()).unwrap();
    assert_eq!(
        (&seen["status"]["phase"], &seen["spec"]["containers"][0]["image"]),
        (&json!("Running"), &json!("i"))
    );
    let patch = json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"a": "b"}}});
    let seen = f.merge("pods", "p", Part::Main, patch).unwrap();
    assert_eq!(
        (&seen["status"]["phase"], &seen["metadata"]["labels"]["a"]),
        (&json!("Running"), &json!("b"))
    );
}

#[test]
fn stale_versions_conflict_and_equal_objects_keep_their_version() {
    let mut f = Fixture::new();
    let first = f.create("", "configmaps", json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).unwrap();
    let same = f.merge("configmaps", "m", Part::Main, json!({"data": {"a": "1"}})).unwrap();
    assert_eq!(first["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"]);
    f.merge("configmaps", "m", Part::Main, json!({"data": {"a": "2"}})).unwrap();
    let stale =
        json!({"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"a": "3"}});
    let refused = f.merge("configmaps", "m", Part::Main, stale).unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    let again = f.create("", "configmaps", json!({"metadata": {"name": "m"}})).unwrap_err();
    assert_eq!((again.code, again.reason), (409, "AlreadyExists"));
}

#[test]
fn pod_cidrs_of_a_node_are_set_once() {
    let mut f = Fixture::new();
    f.create("", "nodes", json!({"metadata": {"name": "n"}})).unwrap();
    let set = f.merge("nodes", "n", Part::Main, json!({"spec": {"podCIDRs": ["192.0.2.0/24"]}})).unwrap();
    assert_eq!(set["spec"]["podCIDR"], "192.0.2.0/24");
    let other = json!({"spec": {"podCIDR": "198.51.100.0/24", "podCIDRs": ["198.51.100.0/24"]}});
    assert_eq!(f.merge("nodes", "n", Part::Main, other).unwrap_err().code, 422);
}

#[test]
fn services_get_addresses_until_there_are_none_and_dual_stack_ones_get_two() {
    let mut f = Fixture::new();
    let service = |name: &str, policy: &str| json!({"metadata": {"name": name}, "spec": {"ipFamilyPolicy": policy, "ports": [{"port": 80}]}});
    let both = f.create("", "services", service("a", "PreferDualStack")).unwrap();
    assert_eq!(both["spec"]["clusterIPs"], json!(["10.96.0.1", "2001:db8::1"]));
    let one = f.create("", "services", service("b", "SingleStack")).unwrap();
    assert_eq!(one["spec"]["clusterIP"], "10.96.0.2");
    assert_eq!(one["spec"]["ports"][0]["targetPort"], 80);
    f.create("", "services", service("last", "SingleStack")).unwrap();
    assert_eq!(f.create("", "services", service("c", "SingleStack")).unwrap_err().code, 500);
    f.delete("services", "a", None).unwrap();
    let reused = f.create("", "services", service("c", "SingleStack")).unwrap();
    assert_eq!(reused["spec"]["clusterIP"], "10.96.0.1");
}

#[test]
fn raw_objects_are_stored_as_they_are_and_their_status_can_be_written() {
    let mut f = Fixture::new();
    let raw = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "raw"}, "spec": {"odd": true}});
    let stamp = f.stamp();
    let stored = f.registry.put_raw(raw, &stamp).unwrap();
    assert_eq!(stored.value["spec"], json!({"odd": true}));
    let seen = f.merge("pods", "raw", Part::Status, json!({"status": {"podIP": "192.0.2.1"}})).unwrap();
    assert_eq!(seen["spec"], json!({"odd": true}));
    assert_eq!(seen["status"]["podIP"], "192.0.2.1");
}

#[test]
fn both_event_groups_show_the_same_events() {
    let mut f = Fixture::new();
    let event = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "hello", "type": "Normal",
    });
    f.create("events.k8s.io", "events", event).unwrap();
    let core = f.kind("", "events");
    let stored = f.registry.get(&core, "default", "e").unwrap();
    let seen = present(&core, &stored);
    assert_eq!(
        (&seen.value["message"], &seen.value["involvedObject"]["name"]),
        (&json!("hello"), &json!("p"))
    );
    let other = present(&f.kind("events.k8s.io", "events"), &stored);
    assert_eq!(other.value["note"], "hello");
}

#[test]
fn names_are_generated() {
    let mut f = Fixture::new();
    let created = f.create("", "configmaps", json!({"metadata": {"generateName": "m-"}})).unwrap();
    assert_eq!(created["metadata"]["name"], "m-00001");
}

#[test]
fn what_a_node_owns_goes_with_it_and_does_not_come_without_it() {
    let mut fixture = Fixture::new();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    let uid = fixture.create("", "nodes", node).unwrap()["metadata"]["uid"].clone();
    let owned = |name: &str| {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid});
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "ownerReferences": [owner]}, "spec": {},
        })
    };
    let there = |fixture: &Fixture| {
        fixture.registry.store.list("persistentvolumes", &Selector::default(), None).len()
    };
    fixture.create("", "persistentvolumes", owned("a")).unwrap();
    assert_eq!(there(&fixture), 1);
    fixture.delete("nodes", "n1", None).unwrap();
    assert_eq!(there(&fixture), 0);
    fixture.create("", "persistentvolumes", owned("b")).unwrap();
    assert_eq!(there(&fixture), 0);
}
