//! Pods, with what an agent knows them by.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod as Object;
use kube::api::ObjectMeta;
use margay_api::annotation;
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
    /// What its annotations ask for; most pods ask for nothing.
    pub(crate) wish: Option<Box<Wish>>,
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

pub(super) fn key(meta: &ObjectMeta) -> PodName {
    PodName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

pub(super) fn read(object: &Object) -> Read<PodFacts> {
    let (pod, problems) = convert_pod(object);
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
    Read { value: Some(PodFacts { uid, static_uid, announced, wish, pod }), problems }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_a_pod_asks_for_is_taken_from_its_annotations() {
        let text =
            "{metadata: {namespace: x, name: a, uid: u, annotations: {other: x, margay.dev/ip: 192.0.2.7}}}";
        let facts = read(&serde_saphyr::from_str(text).unwrap()).value.unwrap();
        assert_eq!(facts.wish.unwrap().address.unwrap(), "192.0.2.7");
    }
}
