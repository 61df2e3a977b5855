//! The two ends of a connection, and its port, as they are written on a command line.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{anyhow, bail};
use margay_policy::{Pod, PodName, Protocol};

use super::source::{Facts, Source};

/// How many names an error lists.
const NAMES: usize = 10;

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Party<'a> {
    /// A pod.
    Pod(&'a Pod, &'a Facts),
    /// An address that no pod of the pod network has.
    Address(IpAddr),
}

impl<'a> Party<'a> {
    /// `NAMESPACE/POD` or an address, which may be a pod's.
    pub(crate) fn find(source: &'a Source, text: &str) -> anyhow::Result<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let Some(name) = source.owner(address) else { return Ok(Self::Address(address)) };
            return Self::pod(source, name).ok_or_else(|| anyhow!("no pod {name}"));
        }
        let Some((namespace, name)) = text.split_once('/') else {
            bail!("`{text}` is neither NAMESPACE/POD nor an address");
        };
        let name = PodName::new(namespace, name);
        Self::pod(source, &name).ok_or_else(|| {
            let others = source.objects.pods.keys().filter(|pod| *pod.namespace == *namespace);
            let mut others: Vec<&str> = others.map(|pod| &*pod.name).collect();
            let more = others.len().saturating_sub(NAMES);
            others.truncate(NAMES);
            let listed = match (others.join(", "), more) {
                (none, _) if none.is_empty() => "no pod is known there".to_owned(),
                (names, 0) => format!("there are {names}"),
                (names, more) => format!("there are {names} and {more} more"),
            };
            anyhow!("no pod {name}; in namespace `{namespace}` {listed}")
        })
    }

    pub(crate) fn pod(source: &'a Source, name: &PodName) -> Option<Self> {
        Some(Self::Pod(source.objects.pods.get(name)?, source.facts.get(name)?))
    }

    /// The pod that policies select: none for an address, a pod in its node's network or a finished one.
    pub(crate) fn subject(self) -> Option<&'a Pod> {
        match self {
            Self::Pod(pod, _) if pod.in_pod_network() => Some(pod),
            _ => None,
        }
    }
}

impl fmt::Display for Party<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod, _) => pod.name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A destination port: `80`, `80/tcp`, `53/udp`, `web`, `web/tcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortChoice {
    port: NumberOrName,
    protocol: Option<Protocol>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NumberOrName {
    Number(u16),
    Name(String),
}

/// A port of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResolvedPort {
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

impl fmt::Display for ResolvedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for PortChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (port, Some(protocol.to_ascii_uppercase().parse()?)),
            None => (text, None),
        };
        if port.is_empty() {
            return Err(format!("`{text}` has no port; write 80, 53/udp or the name of a port"));
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self { port: NumberOrName::Name(port.to_owned()), protocol });
        }
        match port.parse() {
            Ok(number) if number > 0 => Ok(Self { port: NumberOrName::Number(number), protocol }),
            _ => Err(format!("{port} is not a port; it takes 1 to 65535")),
        }
    }
}

impl PortChoice {
    /// The number; a name is looked up on the destination.
    pub(crate) fn resolve(&self, destination: Party<'_>) -> anyhow::Result<ResolvedPort> {
        let name = match &self.port {
            NumberOrName::Number(number) => {
                return Ok(ResolvedPort {
                    protocol: self.protocol.unwrap_or(Protocol::Tcp),
                    number: *number,
                });
            }
            NumberOrName::Name(name) => name,
        };
        let Party::Pod(pod, _) = destination else {
            bail!("port `{name}`: {destination} is no pod, so it has no named ports; give a number");
        };
        let fits = |protocol| self.protocol.is_none_or(|wanted| wanted == protocol);
        let named = pod.ports.iter().filter(|port| port.name == *name && fits(port.protocol));
        let mut found: Vec<ResolvedPort> =
            named.map(|port| ResolvedPort { protocol: port.protocol, number: port.number }).collect();
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => {
                let mut names: Vec<String> = pod
                    .ports
                    .iter()
                    .map(|port| format!("{} ({}/{})", port.name, port.number, port.protocol))
                    .collect();
                names.sort();
                names.dedup();
                let has = if names.is_empty() { "no named port".to_owned() } else { names.join(", ") };
                let protocol = self.protocol.map_or_else(String::new, |protocol| format!("/{protocol}"));
                bail!("{} has no port named `{name}`{protocol}; it has {has}", pod.name)
            }
            several => {
                let ports: Vec<String> = several.iter().map(ToString::to_string).collect();
                bail!("port `{name}` of {} is {}; say which", pod.name, ports.join(" and "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Party, PortChoice};
    use crate::policy::source::Source;

    fn source() -> Source {
        let mut source = Source::default();
        let pod = "{metadata: {namespace: x, name: a}, status: {podIP: 10.0.0.1}, spec: {containers: [{name: c, ports: \
                   [{name: web, containerPort: 8080}, {name: dns, containerPort: 53}, {name: dns, containerPort: 53, protocol: UDP}]}]}}";
        source.add_pod(&serde_saphyr::from_str(pod).unwrap(), "");
        source.complete()
    }

    #[test]
    fn ports_are_numbers_or_names_with_or_without_a_protocol() {
        let source = source();
        let to = Party::find(&source, "x/a").unwrap();
        for (text, expected) in [
            ("80", "80/TCP"),
            ("80/tcp", "80/TCP"),
            ("53/udp", "53/UDP"),
            ("9/SCTP", "9/SCTP"),
            ("web", "8080/TCP"),
            ("dns/udp", "53/UDP"),
            ("dns", "port `dns` of x/a is 53/TCP and 53/UDP; say which"),
            ("nope", "x/a has no port named `nope`; it has dns (53/TCP), dns (53/UDP), web (8080/TCP)"),
            ("web/udp", "x/a has no port named `web`/UDP; it has dns (53/TCP), dns (53/UDP), web (8080/TCP)"),
        ] {
            let said = match text.parse::<PortChoice>().unwrap().resolve(to) {
                Ok(port) => port.to_string(),
                Err(error) => error.to_string(),
            };
            assert_eq!(said, expected);
        }
        for (text, expected) in [
            ("0", "0 is not a port; it takes 1 to 65535"),
            ("65536", "65536 is not a port; it takes 1 to 65535"),
            ("80/icmp", "`ICMP` is not one of TCP, UDP, SCTP"),
            ("/tcp", "`/tcp` has no port; write 80, 53/udp or the name of a port"),
        ] {
            assert_eq!(text.parse::<PortChoice>().unwrap_err(), expected);
        }
    }

    #[test]
    fn an_address_of_a_pod_is_that_pod() {
        let source = source();
        assert_eq!(Party::find(&source, "10.0.0.1").unwrap().to_string(), "x/a");
        assert_eq!(Party::find(&source, "2001:db8::9").unwrap().to_string(), "2001:db8::9");
        for (text, expected) in [
            ("a", "`a` is neither NAMESPACE/POD nor an address"),
            ("x/b", "no pod x/b; in namespace `x` there are a"),
            ("y/b", "no pod y/b; in namespace `y` no pod is known there"),
        ] {
            assert_eq!(Party::find(&source, text).unwrap_err().to_string(), expected);
        }
    }
}
