//! Services: the addresses that may be announced, and which nodes serve them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::core::ObjectMeta;

use super::{Read, guarded::Kind};

/// Names a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What the agent needs to know of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    /// `spec.clusterIPs`, without `None`.
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub(crate) external_ips: Vec<IpAddr>,
    /// The addresses in `status.loadBalancer.ingress` that nodes serve.
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    /// `spec.internalTrafficPolicy`.
    pub(crate) internal: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub(crate) external: TrafficPolicy,
}

/// Which endpoints a node sends traffic to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrafficPolicy {
    /// All.
    Cluster,
    /// Those on the node.
    Local,
}

impl TrafficPolicy {
    fn of(text: Option<&str>) -> Self {
        if text == Some("Local") { Self::Local } else { Self::Cluster }
    }
}

impl Kind for Service {}

pub(super) fn key(meta: &ObjectMeta) -> ServiceName {
    ServiceName {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// A Service without addresses is none here.
pub(super) fn read(object: &Service) -> Read<ServiceFacts> {
    let Some(spec) = object.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName")) else {
        return Read { value: None, problems: Vec::new() };
    };
    let cluster = match &spec.cluster_ips {
        Some(all) if !all.is_empty() => all.iter().collect::<Vec<_>>(),
        _ => spec.cluster_ip.iter().collect(),
    };
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    // Of an address in mode `Proxy` something else than the nodes takes the traffic (KEP-1860).
    let served = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let load_balancer: Vec<&String> = match spec.type_.as_deref() {
        Some("LoadBalancer") => served.filter_map(|ingress| ingress.ip.as_ref()).collect(),
        _ => Vec::new(),
    };
    let facts = ServiceFacts {
        cluster_ips: addresses(cluster),
        external_ips: addresses(spec.external_ips.iter().flatten()),
        load_balancer_ips: addresses(load_balancer),
        internal: TrafficPolicy::of(spec.internal_traffic_policy.as_deref()),
        external: TrafficPolicy::of(spec.external_traffic_policy.as_deref()),
    };
    let has_any = [&facts.cluster_ips, &facts.external_ips, &facts.load_balancer_ips]
        .iter()
        .any(|list| !list.is_empty());
    Read { value: has_any.then_some(facts), problems: Vec::new() }
}

/// What is no address, such as the `None` of a headless Service, is left out: the API server has checked the others.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{TrafficPolicy, read};

    #[test]
    fn addresses_of_all_kinds_are_kept_and_nothing_else() {
        let text = "{metadata: {name: web, namespace: x}, spec: {type: LoadBalancer, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, 'fd00::9'],\
                    externalIPs: [198.51.100.9], externalTrafficPolicy: Local, internalTrafficPolicy: Cluster},\
                    status: {loadBalancer: {ingress: [{ip: 192.0.2.9, ipMode: VIP}, {ip: 192.0.2.10, ipMode: Proxy}, {hostname: h}]}}}";
        let facts = read(&serde_saphyr::from_str(text).unwrap()).value.unwrap();
        assert_eq!(
            facts.cluster_ips,
            ["10.96.0.9", "fd00::9"].map(|it| it.parse::<std::net::IpAddr>().unwrap())
        );
        assert_eq!(facts.external_ips, ["198.51.100.9".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(facts.load_balancer_ips, ["192.0.2.9".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!((facts.internal, facts.external), (TrafficPolicy::Cluster, TrafficPolicy::Local));
        for text in [
            "{metadata: {name: headless}, spec: {clusterIP: None, clusterIPs: [None]}}",
            "{metadata: {name: alias}, spec: {type: ExternalName, externalName: example.com, externalIPs: [192.0.2.1]}}",
        ] {
            assert_eq!(read(&serde_saphyr::from_str(text).unwrap()).value, None, "{text}");
        }
    }
}
