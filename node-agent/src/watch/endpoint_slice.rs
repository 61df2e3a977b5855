//! Endpoint slices: whether a Service is served, on this node and anywhere.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::core::ObjectMeta;

use super::{Read, guarded::Kind, service::ServiceName};

/// Names a Service, as each slice does in this label.
const SERVICE: &str = "kubernetes.io/service-name";

/// What the agent needs to know of a slice: of some hundred endpoints, these few octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    pub(crate) service: ServiceName,
    pub(crate) is_ipv4: bool,
    /// By endpoints of this node.
    pub(crate) here: Serving,
    /// By endpoints of any node.
    pub(crate) anywhere: Serving,
}

/// Whether endpoints take traffic. Those that end do where none is ready; whether on the node, as for kube-proxy with
/// the policy `Local`, or anywhere, is for the reader to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Serving {
    /// None does.
    #[default]
    No,
    /// One does that is about to end.
    Ending,
    /// One does.
    Ready,
}

impl Kind for EndpointSlice {}

/// As a Service is named.
pub(super) fn key(meta: &ObjectMeta) -> ServiceName {
    super::service::key(meta)
}

pub(super) fn read(object: &EndpointSlice, own: &str) -> Read<SliceFacts> {
    let name = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE));
    let is_ipv4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        _ => return Read { value: None, problems: Vec::new() },
    };
    let value = name.map(|name| {
        let most = |serving: &mut dyn Iterator<Item = Serving>| serving.max().unwrap_or_default();
        let endpoints = || object.endpoints.iter();
        let here = |endpoint: &&Endpoint| endpoint.node_name.as_deref() == Some(own);
        SliceFacts {
            service: ServiceName {
                namespace: object.metadata.namespace.clone().unwrap_or_default(),
                name: name.clone(),
            },
            is_ipv4,
            here: most(&mut endpoints().filter(here).map(serving)),
            anywhere: most(&mut endpoints().map(serving)),
        }
    });
    Read { value, problems: Vec::new() }
}

/// A condition that is not set counts as the API documentation of `EndpointConditions` says.
fn serving(endpoint: &Endpoint) -> Serving {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|it| it.ready).unwrap_or(true);
    let serves = conditions.and_then(|it| it.serving).unwrap_or(ready);
    let ends = conditions.and_then(|it| it.terminating).unwrap_or(false);
    match (ready, serves && ends) {
        (true, _) => Serving::Ready,
        (false, true) => Serving::Ending,
        (false, false) => Serving::No,
    }
}

#[cfg(test)]
mod tests {
    use super::{Serving, read};

    #[test]
    fn an_endpoint_is_ready_or_ends_by_its_conditions() {
        for (conditions, expected) in [
            ("{}", Serving::Ready),
            ("{ready: true, serving: true, terminating: false}", Serving::Ready),
            ("{ready: false}", Serving::No),
            ("{ready: false, serving: true, terminating: true}", Serving::Ending),
            ("{ready: false, serving: false, terminating: true}", Serving::No),
            ("{ready: false, serving: true, terminating: false}", Serving::No),
        ] {
            let text = format!(
                "{{metadata: {{namespace: x, name: web-1, labels: {{kubernetes.io/service-name: web}}}}, addressType: IPv4, \
                 endpoints: [{{addresses: [10.0.0.1], nodeName: n1, conditions: {conditions}}}, \
                 {{addresses: [10.0.0.2], nodeName: n2, conditions: {{ready: false}}}}]}}"
            );
            let slice = serde_saphyr::from_str(&text).unwrap();
            for (own, here) in [("n1", expected), ("n2", Serving::No), ("n3", Serving::No)] {
                let facts = read(&slice, own).value.unwrap();
                assert_eq!((facts.here, facts.anywhere), (here, expected), "{own} {conditions}");
                assert_eq!(facts.service.name, "web");
            }
        }
    }
}
