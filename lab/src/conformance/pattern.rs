//! Patterns of endpoints and ports.

use crate::pods::PodKey;
use crate::station::{Port, Protocol};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// Somebody in a truth table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Endpoint {
    Pod(PodKey),
    External(String),
    Node(String),
    Service(PodKey),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "{key}"),
            Self::External(name) => write!(f, "external:{name}"),
            Self::Node(name) => write!(f, "node:{name}"),
            Self::Service(key) => write!(f, "service:{key}"),
        }
    }
}

/// `x/a`, `x/*`, `external:e1`, `node:n1`, `service:x/web`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    Everyone,
    Pod(Part, Part),
    External(Part),
    Node(Part),
    Service(Part, Part),
}

/// A name, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part(Option<String>);

impl Part {
    fn new(text: &str) -> Self {
        Self((text != "*").then(|| text.to_owned()))
    }

    fn matches(&self, name: &str) -> bool {
        self.0.as_deref().is_none_or(|wanted| wanted == name)
    }
}

impl Pattern {
    pub(super) fn matches(&self, endpoint: &Endpoint) -> bool {
        match (self, endpoint) {
            (Self::Everyone, _) => true,
            (Self::Pod(namespace, name), Endpoint::Pod(key))
            | (Self::Service(namespace, name), Endpoint::Service(key)) => {
                namespace.matches(&key.namespace) && name.matches(&key.name)
            }
            (Self::External(name), Endpoint::External(other)) | (Self::Node(name), Endpoint::Node(other)) => {
                name.matches(other)
            }
            _ => false,
        }
    }

    /// Whether it is one of nodes and nothing else.
    pub(super) fn names_nodes(&self) -> bool {
        matches!(self, Self::Node(_))
    }
}

impl FromStr for Pattern {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pair = |text: &str| text.split_once('/').map(|(a, b)| (Part::new(a), Part::new(b)));
        let bad = || anyhow::anyhow!("`{text}` is no pattern of endpoints");
        match text.split_once(':') {
            None if text == "*" => Ok(Self::Everyone),
            None => pair(text).map(|(a, b)| Self::Pod(a, b)).ok_or_else(bad),
            Some(("external", name)) => Ok(Self::External(Part::new(name))),
            Some(("node", name)) => Ok(Self::Node(Part::new(name))),
            Some(("service", "*")) => Ok(Self::Service(Part(None), Part(None))),
            Some(("service", name)) => pair(name).map(|(a, b)| Self::Service(a, b)).ok_or_else(bad),
            Some(_) => Err(bad()),
        }
    }
}

/// `80/TCP`, `TCP` or `80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortPattern {
    number: Option<u16>,
    protocol: Option<Protocol>,
}

impl PortPattern {
    pub(super) fn matches(self, port: Port) -> bool {
        self.number.is_none_or(|number| number == port.number)
            && self.protocol.is_none_or(|protocol| protocol == port.protocol)
    }

    /// The port, when it is one alone.
    pub(super) fn exact(self) -> Option<Port> {
        Some(Port { number: self.number?, protocol: self.protocol? })
    }
}

impl FromStr for PortPattern {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(protocol) = text.parse() {
            return Ok(Self { number: None, protocol: Some(protocol) });
        }
        let port: Port = text.parse()?;
        Ok(Self { number: Some(port.number), protocol: text.contains('/').then_some(port.protocol) })
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for PortPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A bare number is one in YAML too.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            Number(u16),
            Text(String),
        }
        let text = match Text::deserialize(deserializer)? {
            Text::Number(number) => number.to_string(),
            Text::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Pattern, PortPattern};
    use crate::{PodKey, Port};

    #[test]
    fn a_pattern_matches_those_of_its_kind() {
        let pod = |namespace, name| Endpoint::Pod(PodKey::new(namespace, name));
        let external = Endpoint::External("e1".into());
        for (pattern, endpoint, expected) in [
            ("x/a", pod("x", "a"), true),
            ("x/*", pod("x", "b"), true),
            ("*/a", pod("y", "a"), true),
            ("*/a", pod("y", "b"), false),
            ("*/*", pod("y", "b"), true),
            ("*/*", external.clone(), false),
            ("*", external.clone(), true),
            ("external:*", external.clone(), true),
            ("external:e2", external, false),
            ("node:n1", Endpoint::Node("n1".into()), true),
            ("service:x/*", pod("x", "web"), false),
            ("service:x/*", Endpoint::Service(PodKey::new("x", "web")), true),
            ("service:*", Endpoint::Service(PodKey::new("x", "web")), true),
            ("x/web", Endpoint::Service(PodKey::new("x", "web")), false),
            ("*", Endpoint::Service(PodKey::new("x", "web")), true),
        ] {
            assert_eq!(
                pattern.parse::<Pattern>().unwrap().matches(&endpoint),
                expected,
                "{pattern} {endpoint}"
            );
        }
        assert!("x".parse::<Pattern>().is_err());
        assert!("host:x".parse::<Pattern>().is_err());
    }

    #[test]
    fn a_port_pattern_leaves_open_what_it_does_not_say() {
        let udp: Port = "80/UDP".parse().unwrap();
        for (pattern, on_tcp, on_udp) in [("80", true, true), ("UDP", false, true), ("80/TCP", true, false)] {
            let pattern: PortPattern = pattern.parse().unwrap();
            assert_eq!((pattern.matches(Port::tcp(80)), pattern.matches(udp)), (on_tcp, on_udp));
        }
    }
}
