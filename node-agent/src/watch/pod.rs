//! Pods: labels, addresses and named ports.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod as Object};
use kube::api::ObjectMeta;
use margay_api::annotation;
use margay_policy::{NamedPort, Pod, PodName, Protocol};

use super::Read;

/// What the agent needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// What the kubelet calls a static pod, whose object in the API is a mirror with a UID of its own.
    pub(crate) static_uid: Option<String>,
    /// What its annotations ask for; most pods ask for nothing.
    pub(crate) wish: Option<Box<Wish>>,
    /// Addresses of a pod whose status has none yet.
    pub(crate) announced: Option<Box<Announced>>,
    /// For policy, with the addresses of its status.
    pub(crate) pod: Pod,
}

/// The annotations of a pod that are about its addresses, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// [`annotation::POOLS`].
    pub(crate) pools: Option<String>,
    /// [`annotation::ADDRESS`].
    pub(crate) address: Option<String>,
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
    let name = key(&object.metadata);
    let mut problems = Vec::new();
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let mut ports = Vec::new();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    // An init container that keeps running serves like the others (sidecar containers).
    let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    for container in containers.iter().chain(sidecars) {
        named_ports(container, &mut ports, |problem| problems.push(format!("Pod {name}: {problem}")));
    }
    let several =
        status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.clone());
    let mut texts: Vec<String> = several.collect();
    if texts.is_empty() {
        texts.extend(status.and_then(|status| status.pod_ip.clone()));
    }
    let mut addresses = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_not_an_address) => {
                problems.push(format!(
                    "Pod {name}: status.podIPs: `{text}` is not an address; it is passed over"
                ));
            }
        }
    }
    let phase = status.and_then(|status| status.phase.as_deref());
    let pod = Pod {
        name,
        labels: object.metadata.labels.clone().unwrap_or_default(),
        addresses,
        announced: Vec::new(),
        ports,
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        terminating: object.metadata.deletion_timestamp.is_some(),
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let annotation = |name: &str| object.metadata.annotations.as_ref().and_then(|all| all.get(name));
    let wish = Wish {
        pools: annotation(annotation::POOLS).cloned(),
        address: annotation(annotation::ADDRESS).cloned(),
    };
    let wish = (wish != Wish::default()).then(|| Box::new(wish));
    let static_uid = annotation(STATIC_UID).cloned();
    let node = spec.and_then(|spec| spec.node_name.clone());
    let announced = match (annotation(annotation::POD_IPS), node) {
        (Some(text), Some(node)) if pod.addresses.is_empty() && pod.in_pod_network() => {
            // Whoever can write to the pod can write this too: what is no address is passed over in silence.
            let addresses = text.split(',').filter_map(|text| text.trim().parse().ok()).take(MAX_ANNOUNCED);
            Some(Box::new(Announced { node, addresses: addresses.collect() }))
        }
        _ => None,
    };
    Read { value: Some(PodFacts { uid, static_uid, wish, announced, pod }), problems }
}

fn named_ports(container: &Container, ports: &mut Vec<NamedPort>, mut problem: impl FnMut(String)) {
    for port in container.ports.iter().flatten() {
        let Some(name) = port.name.clone().filter(|name| !name.is_empty()) else { continue };
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>();
        match (protocol, u16::try_from(port.container_port)) {
            (Ok(protocol), Ok(number)) => ports.push(NamedPort { name, protocol, number }),
            (Err(reason), _) => problem(format!("port `{name}`: protocol {reason}; it is passed over")),
            (_, Err(_out_of_range)) => {
                problem(format!("port `{name}`: {} is no port; it is passed over", port.container_port));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn ports_of_containers_and_sidecars_are_named_but_not_those_of_init_containers() {
        let text = "{metadata: {namespace: x, name: a, uid: u, annotations: {other: x, margay.dev/ip: 192.0.2.7}}, spec: {containers: [{name: c, ports: [{containerPort: 80, name: web}, {containerPort: 81}]}],\
                    initContainers: [{name: i, ports: [{containerPort: 1, name: init}]}, {name: s, restartPolicy: Always, ports: [{containerPort: 53, name: dns, protocol: UDP}]}]},\
                    status: {phase: Succeeded, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: '2001:db8::1'}]}}";
        let read = read(&serde_saphyr::from_str(text).unwrap());
        let facts = read.value.unwrap();
        let names: Vec<_> = facts.pod.ports.iter().map(|port| (port.name.as_str(), port.number)).collect();
        assert_eq!(names, [("web", 80), ("dns", 53)]);
        assert_eq!(facts.pod.addresses.len(), 2);
        assert!(facts.pod.finished && !facts.pod.terminating && !facts.pod.host_network);
        assert!(read.problems.is_empty());
        assert_eq!(facts.wish.unwrap().address.unwrap(), "192.0.2.7");
    }
}
