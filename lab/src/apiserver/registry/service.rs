//! What the cluster allocates to services: addresses, node ports.

use super::Registry;
use crate::apiserver::select::Selector;
use crate::apiserver::status::{ApiError, Cause};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NODE_PORTS: std::ops::Range<u64> = 30_000..32_768;

impl Registry {
    /// Gives a service what the cluster allocates, or keeps what its earlier version `old` has.
    pub(super) fn allocate(&self, object: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let Some(kind) = object["spec"]["type"].as_str().map(ToOwned::to_owned) else { return Ok(()) };
        if kind == "ExternalName" {
            return Ok(());
        }
        if let Some(old) = old {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if object["spec"][field].is_null() && !old["spec"][field].is_null() {
                    object["spec"][field] = old["spec"][field].clone();
                }
            }
            if old["spec"]["type"] != "ExternalName"
                && object["spec"]["clusterIP"] != old["spec"]["clusterIP"]
            {
                let cause =
                    Cause::invalid("spec.clusterIP", &object["spec"]["clusterIP"], "field is immutable");
                return Err(ApiError::invalid("", "Service", &name, &[cause]));
            }
        }
        let used = self.used(&name, object["metadata"]["namespace"].as_str().unwrap_or_default());
        self.allocate_addresses(&mut object["spec"], &used.addresses, &name)?;
        if kind == "NodePort" || kind == "LoadBalancer" {
            let old_ports = old.map(|o| o["spec"]["ports"].clone()).unwrap_or_default();
            let mut taken = used.ports;
            for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
                let kept = old_ports
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"])
                    .map(|p| p["nodePort"].clone());
                if port["nodePort"].as_u64().unwrap_or_default() == 0 {
                    let free = || NODE_PORTS.clone().find(|p| !taken.contains(p)).map(Value::from);
                    port["nodePort"] = kept.filter(|k| !k.is_null()).or_else(free).unwrap_or_default();
                }
                taken.extend(port["nodePort"].as_u64());
            }
        }
        Ok(())
    }

    fn allocate_addresses(
        &self,
        spec: &mut Value,
        used: &BTreeSet<IpAddr>,
        name: &str,
    ) -> Result<(), ApiError> {
        let family = |n: &IpNetwork| if n.is_ipv4() { "IPv4" } else { "IPv6" };
        let asked = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
        let dual = matches!(spec["ipFamilyPolicy"].as_str(), Some("PreferDualStack" | "RequireDualStack"));
        let mut networks = self.service_networks.iter().collect::<Vec<_>>();
        if let Some(first) = asked.first() {
            networks.sort_by_key(|n| first != family(n));
        }
        networks.truncate(if dual { 2 } else { 1 });
        if asked.is_empty() {
            spec["ipFamilies"] = networks.iter().map(|n| family(n)).collect();
        }
        if spec["ipFamilyPolicy"].is_null() {
            spec["ipFamilyPolicy"] = "SingleStack".into();
        }
        if spec["clusterIP"].as_str().is_some_and(|ip| !ip.is_empty()) {
            if spec["clusterIPs"].is_null() {
                spec["clusterIPs"] = json!([spec["clusterIP"]]);
            }
            let clash =
                spec["clusterIP"].as_str().and_then(|ip| ip.parse().ok()).filter(|ip| used.contains(ip));
            if clash.is_some() {
                let cause = Cause::invalid(
                    "spec.clusterIPs",
                    &spec["clusterIPs"],
                    "provided IP is already allocated",
                );
                return Err(ApiError::invalid("", "Service", name, &[cause]));
            }
            return Ok(());
        }
        let addresses = networks
            .iter()
            .filter_map(|n| (1..u128::from(u16::MAX)).filter_map(|i| nth(n, i)).find(|ip| !used.contains(ip)))
            .map(|ip| ip.to_string())
            .collect::<Vec<_>>();
        if addresses.len() < networks.len() {
            return Err(ApiError::full(&format!("failed to allocate a serviceIP for {name}: range is full")));
        }
        spec["clusterIP"] = addresses.first().cloned().unwrap_or_default().into();
        spec["clusterIPs"] = addresses.into();
        Ok(())
    }

    fn used(&self, name: &str, namespace: &str) -> Used {
        let mut used = Used::default();
        for (key, service) in self.store.list("services", &Selector::default(), None) {
            if key.name == name && key.namespace == namespace {
                continue;
            }
            let spec = &service.value["spec"];
            let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
            used.addresses.extend(addresses.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()));
            let ports = spec["ports"].as_array().into_iter().flatten();
            used.ports.extend(ports.filter_map(|p| p["nodePort"].as_u64()));
        }
        used
    }
}

#[derive(Debug, Default)]
struct Used {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u64>,
}

/// The address `index` above the network's own; none when the network is smaller.
fn nth(network: &IpNetwork, index: u128) -> Option<IpAddr> {
    let address: IpAddr = match network.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).checked_add(u32::try_from(index).ok()?)?).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).checked_add(index)?).into(),
    };
    network.contains(address).then_some(address)
}
