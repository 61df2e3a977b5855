//! Pods, with what an agent knows them by.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod as Object;
use kube::api::ObjectMeta;
use margay_api::annotation::POD_IPS;
use margay_policy::{Pod, PodName, convert_pod};

use super::Read;

/// What the agent needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// What the kubelet calls a static pod, whose object in the API is a mirror with a UID of its own.
    pub(crate) static_uid: Option<String>,
    /// Addresses of a pod whose status has none yet.
    pub(crate) announced: Option<Box<Announced>>,
    /// For policy, with the addresses of its status.
    pub(crate) pod: Pod,
}

/// What an annotation says of a pod's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    /// The pod's node.
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
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

pub(super) fn key(meta: &ObjectMeta) -> PodName {
    PodName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

pub(super) fn read(object: &Object) -> Read<PodFacts> {
    let (pod, problems) = convert_pod(object);
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let annotation = |name| object.metadata.annotations.as_ref().and_then(|all| all.get(name));
    let static_uid = annotation(STATIC_UID).cloned();
    let node = object.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let announced = match (annotation(POD_IPS), node) {
        (Some(text), Some(node)) if pod.addresses.is_empty() && pod.in_pod_network() => {
            // Whoever can write to the pod can write this too: what is no address is passed over in silence.
            let addresses = text.split(',').filter_map(|text| text.trim().parse().ok()).take(MAX_ANNOUNCED);
            Some(Box::new(Announced { node, addresses: addresses.collect() }))
        }
        _ => None,
    };
    Read { value: Some(PodFacts { uid, static_uid, announced, pod }), problems }
}
