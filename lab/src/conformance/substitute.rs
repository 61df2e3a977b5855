//! Addresses in the place of `${...}`.

use crate::plan::{PODS_IPV4, PODS_IPV6};
use crate::pods::PodKey;
use anyhow::Context;
use ipnetwork::IpNetwork;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What is known of addresses; a pod that is gone keeps its last ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    pub(super) pods: BTreeMap<PodKey, Vec<IpAddr>>,
    pub(super) nodes: BTreeMap<String, Vec<IpAddr>>,
    pub(super) externals: BTreeMap<String, Vec<IpAddr>>,
    pub(super) services: BTreeMap<PodKey, Vec<IpAddr>>,
}

impl Addresses {
    /// Replaces in all strings of an object, keys included.
    pub(super) fn substitute(&self, value: &Value) -> anyhow::Result<Value> {
        Ok(match value {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(items) => {
                items.iter().map(|item| self.substitute(item)).collect::<Result<_, _>>()?
            }
            Value::Object(map) => map
                .iter()
                .map(|(key, item)| Ok((self.text(key)?, self.substitute(item)?)))
                .collect::<anyhow::Result<_>>()?,
            other => other.clone(),
        })
    }

    fn text(&self, text: &str) -> anyhow::Result<String> {
        let mut done = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) =
                after.split_once('}').with_context(|| format!("`{text}` has no closing brace"))?;
            done.push_str(before);
            done.push_str(&self.resolve(name).with_context(|| format!("replace ${{{name}}}"))?);
            rest = after;
        }
        done.push_str(rest);
        Ok(done)
    }

    fn resolve(&self, name: &str) -> anyhow::Result<String> {
        match name {
            "pods" => return Ok(PODS_IPV4.into()),
            "pods6" => return Ok(PODS_IPV6.into()),
            _ => {}
        }
        if let Some(network) = name.strip_prefix("net:") {
            let (of, length) = network.rsplit_once('/').context("it names no prefix length")?;
            let address = self.address(of)?;
            let network = IpNetwork::new(address, length.parse().context("its prefix length")?)?;
            return Ok(IpNetwork::new(network.network(), network.prefix())?.to_string());
        }
        self.address(name).map(|address| address.to_string())
    }

    fn address(&self, name: &str) -> anyhow::Result<IpAddr> {
        let (kind, name) = name.split_once(':').context("it is no form of the format")?;
        let (kind, is_ipv4) = kind.strip_suffix('6').map_or((kind, true), |kind| (kind, false));
        let all = match kind {
            "pod" => self.pods.get(&name.parse::<PodKey>()?),
            "node" => self.nodes.get(name),
            "external" => self.externals.get(name),
            "service" => self.services.get(&name.parse::<PodKey>()?),
            _ => anyhow::bail!("it is no form of the format"),
        };
        let all = all.with_context(|| format!("there is no {kind} {name}"))?;
        let found = all.iter().find(|address| address.is_ipv4() == is_ipv4);
        found.copied().with_context(|| format!("{kind} {name} has no address of that family"))
    }
}

#[cfg(test)]
mod tests {
    use super::Addresses;
    use crate::PodKey;
    use serde_json::json;

    #[test]
    fn symbols_become_addresses_and_networks() {
        let mut addresses = Addresses::default();
        let both = vec!["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        addresses.pods.insert(PodKey::new("x", "b"), both);
        addresses.nodes.insert("n1".into(), vec!["172.18.0.2".parse().unwrap()]);
        addresses.services.insert(PodKey::new("x", "web"), vec!["10.96.0.9".parse().unwrap()]);
        let text = |text: &str| {
            addresses.substitute(&json!([text])).map(|value| value[0].as_str().unwrap().to_owned())
        };
        for (symbolic, expected) in [
            ("${pod:x/b}/32", "10.244.1.7/32"),
            ("${pod6:x/b}", "fd00::7"),
            ("${net:pod:x/b/4}", "0.0.0.0/4"),
            ("${net:pod6:x/b/16}", "fd00::/16"),
            ("a ${node:n1} b ${pods}", "a 172.18.0.2 b 10.244.0.0/16"),
            ("${service:x/web}", "10.96.0.9"),
            ("plain", "plain"),
        ] {
            assert_eq!(text(symbolic).unwrap(), expected);
        }
        for bad in ["${pod:x/q}", "${node6:n1}", "${what}", "${pod:x/b", "${net:pod:x/b}", "${service:x/db}"]
        {
            assert!(text(bad).is_err(), "{bad}");
        }
    }
}
