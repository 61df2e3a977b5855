//! Which addresses of Services this node announces. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use margay_bgp::Prefix;

use crate::watch::{ServiceFacts, ServiceName, ServiceRanges, Serving, SliceFacts, TrafficPolicy};

/// Whether the node takes traffic from outside for external and load balancer IPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Balancing {
    Takes,
    /// Its label excludes it.
    Excluded,
}

/// The prefixes to announce: the ranges of cluster IPs, and a host route for each address that this node serves.
///
/// With the policy `Cluster` a node serves an address while there is any endpoint, as it can send traffic on to it; with
/// `Local` while one is here. An endpoint that ends counts while none is ready on any node. With `Local` kube-proxy
/// falls back to those that end here as soon as none is ready here (KEP-1669): so what still arrives is served, while
/// new connections are drawn to nodes with an endpoint that stays.
pub(super) fn announced(
    ranges: &ServiceRanges,
    balancing: Balancing,
    services: &BTreeMap<ServiceName, ServiceFacts>,
    slices: &BTreeMap<ServiceName, SliceFacts>,
) -> BTreeSet<Prefix> {
    let mut announced: BTreeSet<Prefix> = ranges.cluster.iter().copied().collect();
    let mut served: BTreeMap<(&ServiceName, bool), (Serving, Serving)> = BTreeMap::new();
    for slice in slices.values() {
        let (here, anywhere) = served.entry((&slice.service, slice.is_ipv4)).or_default();
        (*here, *anywhere) = ((*here).max(slice.here), (*anywhere).max(slice.anywhere));
    }
    for (name, service) in services {
        let serves = |address: IpAddr, policy: TrafficPolicy| {
            let (here, anywhere) = served.get(&(name, address.is_ipv4())).copied().unwrap_or_default();
            match policy {
                TrafficPolicy::Cluster => anywhere > Serving::No,
                TrafficPolicy::Local => {
                    here == Serving::Ready || (here == Serving::Ending && anywhere == Serving::Ending)
                }
            }
        };
        let mut add = |addresses: &[IpAddr], ranges: &[Prefix], policy: TrafficPolicy| {
            let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(*address));
            let wanted = addresses.iter().copied().filter(within).filter(|address| serves(*address, policy));
            announced.extend(wanted.map(Prefix::host));
        };
        if service.internal == TrafficPolicy::Local {
            add(&service.cluster_ips, &ranges.cluster, TrafficPolicy::Local);
        }
        if balancing == Balancing::Takes {
            add(&service.external_ips, &ranges.external, service.external);
            add(&service.load_balancer_ips, &ranges.load_balancer, service.external);
        }
    }
    announced
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use margay_bgp::Prefix;

    use super::{Balancing, announced};
    use crate::watch::{ServiceFacts, ServiceName, ServiceRanges, Serving, SliceFacts, TrafficPolicy};

    fn name(name: &str) -> ServiceName {
        ServiceName { namespace: "x".into(), name: name.into() }
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn slice(is_ipv4: bool, here: Serving, anywhere: Serving) -> SliceFacts {
        SliceFacts { service: name("web"), is_ipv4, here, anywhere }
    }

    fn check(
        internal: TrafficPolicy,
        external: TrafficPolicy,
        balancing: Balancing,
        slices: &[SliceFacts],
        expected: &[&str],
    ) {
        let service = ServiceFacts {
            cluster_ips: vec!["10.96.0.9".parse().unwrap(), "fd00:96::9".parse().unwrap()],
            external_ips: vec!["198.51.100.9".parse().unwrap(), "203.0.113.9".parse().unwrap()],
            load_balancer_ips: vec!["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()],
            internal,
            external,
        };
        let ranges = ServiceRanges {
            cluster: prefixes(&["10.96.0.0/12", "fd00:96::/112"]),
            external: prefixes(&["198.51.100.0/24"]),
            load_balancer: prefixes(&["192.0.2.0/24", "2001:db8::/64"]),
        };
        let slices: BTreeMap<_, _> = slices
            .iter()
            .enumerate()
            .map(|(index, it)| (name(&format!("web-{index}")), it.clone()))
            .collect();
        let found = announced(&ranges, balancing, &BTreeMap::from([(name("web"), service)]), &slices);
        let all = [&["10.96.0.0/12", "fd00:96::/112"], expected].concat();
        assert_eq!(found, prefixes(&all).into_iter().collect(), "{internal:?} {external:?} {slices:?}");
    }

    #[test]
    fn a_node_announces_what_it_serves_in_the_family_of_the_endpoints() {
        use Balancing::{Excluded, Takes};
        use Serving::{Ending, No, Ready};
        use TrafficPolicy::{Cluster, Local};
        let v4 = |here, anywhere| slice(true, here, anywhere);
        let v6 = |here, anywhere| slice(false, here, anywhere);
        let outer = ["198.51.100.9/32", "192.0.2.9/32"];
        check(Cluster, Cluster, Takes, &[], &[]);
        check(Cluster, Cluster, Takes, &[v4(No, Ready)], &outer);
        check(Cluster, Cluster, Takes, &[v6(No, Ready)], &["2001:db8::9/128"]);
        check(Cluster, Cluster, Takes, &[v4(No, No), v4(No, Ending)], &outer);
        check(Cluster, Cluster, Excluded, &[v4(Ready, Ready)], &[]);
        check(Cluster, Local, Takes, &[v4(No, Ready)], &[]);
        check(Cluster, Local, Takes, &[v4(Ready, Ready)], &outer);
        check(Cluster, Local, Takes, &[v4(Ending, Ending), v4(No, No)], &outer);
        // Another node's endpoint is ready, so that the one that ends here gets no new connections.
        check(Cluster, Local, Takes, &[v4(Ending, Ending), v4(No, Ready)], &[]);
        check(Local, Local, Excluded, &[v4(Ready, Ready)], &["10.96.0.9/32"]);
        check(Local, Local, Takes, &[v6(Ready, Ready)], &["fd00:96::9/128", "2001:db8::9/128"]);
        check(Local, Cluster, Takes, &[v4(No, Ready)], &outer);
    }
}
