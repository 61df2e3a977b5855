//! Pods, with what an agent knows them by.
//!
//! There are two watches of them. Of other nodes' pods policy needs those that have addresses, so that the API server is asked to leave
//! out pods that have no node yet and pods that have finished: a finished pod owns no address, whatever its `podIP` says, and to
//! everything that is done with other nodes' pods it is the same as one that is gone. When a pod leaves the selection the API
//! server sends `DELETED` with the object as it was before; no more of it is read than its name.
//!
//! Of its own node an agent asks for all pods, as there the two are not the same. The object may say that a pod has finished while its
//! interface is still there: its last octets are under way until the sandbox is taken down, a controller has written the
//! phase of a pod that its node still runs, or the mirror of a static pod still says what the pod was before a reboot. Such a pod keeps its
//! policy, and its ADD an answer; the interface of a pod that is gone is closed.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Pod as Object;
use kube::core::ObjectMeta;
use margay_api::annotation;
use margay_policy::{Pod, PodName, Shared, convert_pod};

use super::{
    Read,
    guarded::{Field, Kind, METADATA},
};

/// What the agent needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// What the kubelet calls a static pod, whose object in the API is a mirror with a UID of its own.
    pub(crate) static_uid: Option<String>,
    /// Addresses of a pod whose status has none yet.
    pub(crate) announced: Option<Box<Announced>>,
    /// What its annotations ask for; most pods ask for nothing.
    pub(crate) wish: Option<Box<Wish>>,
    /// For policy, with the addresses of its status.
    pub(crate) pod: Arc<Pod>,
}

/// What an annotation says of a pod's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The pod's node.
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// The annotations of a pod that are about its addresses, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// [`annotation::POOLS`].
    pub(crate) pools: Option<String>,
    /// [`annotation::ADDRESS`].
    pub(crate) address: Option<String>,
}

impl PodFacts {
    /// Whether the runtime means this pod by a UID.
    pub(crate) fn is(&self, uid: &str) -> bool {
        self.uid == uid || self.static_uid.as_deref() == Some(uid)
    }
}

/// Addresses of a pod that are believed before its status has them: more than any pod has interfaces.
const MAX_ANNOUNCED: usize = 16;

/// Holds the UID of a static pod in its mirror.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// What a pod's named ports are read of.
const CONTAINER: &[Field] = &[Field::whole("name"), Field::whole("restartPolicy"), Field::whole("ports")];

impl Kind for Object {
    const FIELDS: &'static [Field] = &[
        METADATA,
        Field::with(
            "spec",
            &[
                Field::whole("nodeName"),
                Field::whole("hostNetwork"),
                Field::with("containers", CONTAINER),
                Field::with("initContainers", CONTAINER),
            ],
        ),
        Field::with("status", &[Field::whole("phase"), Field::whole("podIP"), Field::whole("podIPs")]),
    ];
}

/// The field selector of the pods of a node.
pub(super) fn of_node(node: &str) -> String {
    format!("spec.nodeName={node}")
}

/// The field selector of the pods of other nodes that have not finished. To `spec.hostNetwork`, which would leave out more, older
/// servers answer 400.
pub(super) fn of_others(node: &str) -> String {
    format!("spec.nodeName!={node},spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed")
}

/// What pods have in common with those that were read before them, so that it is in memory once. Of names it is that of the pod and of its
/// key, and while pods are listed that of the namespace.
#[derive(Debug, Clone, Default)]
pub(super) struct Common(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    labels: Shared<BTreeMap<String, String>>,
    /// Of the last one. The next is often of the same namespace, as lists are in the order of names.
    name: Option<PodName>,
}

impl Common {
    /// A pod's name, the same text for the pod and for the key that it is known by.
    pub(super) fn name(&self, meta: &ObjectMeta) -> PodName {
        self.known().name(meta)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn name(&mut self, meta: &ObjectMeta) -> PodName {
        let [namespace, name] = [&meta.namespace, &meta.name].map(|text| text.as_deref().unwrap_or_default());
        let all = match self.name.take() {
            Some(last) if *last.namespace == *namespace && *last.name == *name => last,
            Some(last) if *last.namespace == *namespace => PodName { name: name.into(), ..last },
            _ => PodName::new(namespace, name),
        };
        self.name.insert(all).clone()
    }
}

pub(super) fn read(object: &Object, common: &Common) -> Read<PodFacts> {
    let (mut pod, problems) = convert_pod(object);
    let mut known = common.known();
    pod.name = known.name(&object.metadata);
    pod.labels = known.labels.share(Arc::unwrap_or_clone(pod.labels));
    drop(known);
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let annotation = |key| object.metadata.annotations.as_ref().and_then(|all| all.get(key).cloned());
    let static_uid = annotation(STATIC_UID);
    let node = object.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let announced = match (annotation(annotation::POD_IPS), node) {
        (Some(text), Some(node)) if pod.addresses.is_empty() && pod.in_pod_network() => {
            // Whoever can write to the pod can write this too: what is no address is passed over in silence.
            let addresses = text.split(',').filter_map(|text| text.trim().parse().ok()).take(MAX_ANNOUNCED);
            Some(Box::new(Announced { node, addresses: addresses.collect() }))
        }
        _ => None,
    };
    let wish = Wish { pools: annotation(annotation::POOLS), address: annotation(annotation::ADDRESS) };
    let wish = (wish != Wish::default()).then(|| Box::new(wish));
    Read { value: Some(PodFacts { uid, static_uid, announced, wish, pod: Arc::new(pod) }), problems }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::ObjectMeta;
    use margay_policy::PodName;

    use super::{Common, read};

    #[test]
    fn what_a_pod_asks_for_is_taken_from_its_annotations() {
        let text =
            "{metadata: {namespace: x, name: a, uid: u, annotations: {other: x, margay.dev/ip: 192.0.2.7}}}";
        let facts = read(&serde_saphyr::from_str(text).unwrap(), &Common::default()).value.unwrap();
        assert_eq!(facts.wish.unwrap().address.unwrap(), "192.0.2.7");
    }

    #[test]
    fn pods_of_a_workload_have_their_labels_together_and_those_of_a_namespace_its_name() {
        let common = Common::default();
        let [one, other] = ["a", "b"].map(|name| {
            let text = format!("{{metadata: {{namespace: x, name: {name}, uid: u, labels: {{app: web}}}}}}");
            let object = serde_saphyr::from_str(&text).unwrap();
            let pod = read(&object, &common).value.unwrap().pod;
            let key = common.name(&object.metadata);
            assert!(Arc::ptr_eq(&key.name, &pod.name.name) && key == PodName::new("x", name));
            pod
        });
        assert!(Arc::ptr_eq(&one.labels, &other.labels));
        assert!(Arc::ptr_eq(&one.name.namespace, &other.name.namespace));
        let elsewhere = common.name(&ObjectMeta {
            namespace: Some("y".into()),
            name: Some("b".into()),
            ..ObjectMeta::default()
        });
        assert_eq!(elsewhere, PodName::new("y", "b"));
    }
}
