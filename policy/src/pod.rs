//! The API's Pod to what policy needs of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod as Object};

use crate::{NamedPort, Pod, PodName, Protocol};

/// Reads a pod, with the addresses of its status. What cannot be read is left out and said in words.
pub fn convert_pod(object: &Object) -> (Pod, Vec<String>) {
    let meta = &object.metadata;
    let name =
        PodName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
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
        labels: Arc::new(meta.labels.clone().unwrap_or_default()),
        addresses,
        announced: Vec::new(),
        ports,
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        terminating: meta.deletion_timestamp.is_some(),
        created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
    };
    (pod, problems)
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
    use super::convert_pod;

    #[test]
    fn ports_of_containers_and_sidecars_are_named_but_not_those_of_init_containers() {
        let text = "{metadata: {namespace: x, name: a, uid: u}, spec: {containers: [{name: c, ports: [{containerPort: 80, name: web}, {containerPort: 81}]}],\
                    initContainers: [{name: i, ports: [{containerPort: 1, name: init}]}, {name: s, restartPolicy: Always, ports: [{containerPort: 53, name: dns, protocol: UDP}]}]},\
                    status: {phase: Succeeded, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: '2001:db8::1'}]}}";
        let (pod, problems) = convert_pod(&serde_saphyr::from_str(text).unwrap());
        let names: Vec<_> = pod.ports.iter().map(|port| (port.name.as_str(), port.number)).collect();
        assert_eq!(names, [("web", 80), ("dns", 53)]);
        assert_eq!(pod.addresses.len(), 2);
        assert!(pod.finished && !pod.terminating && !pod.host_network);
        assert!(problems.is_empty());
    }
}
