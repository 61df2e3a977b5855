//! A port number with its protocol.

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a Kubernetes port can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As Kubernetes writes it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

impl FromStr for Protocol {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let same = |protocol: &Self| protocol.text().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(same).ok_or_else(|| PortError(text.to_owned()))
    }
}

/// A port that is served or probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Text that is no port.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no port: it takes NUMBER, or NUMBER/PROTOCOL with TCP, UDP or SCTP")]
pub struct PortError(String);

impl Port {
    /// A TCP port.
    pub const fn tcp(number: u16) -> Self {
        Self { number, protocol: Protocol::Tcp }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, protocol) = match text.split_once('/') {
            Some((number, protocol)) => (number, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let number = number.parse().ok().filter(|number| *number != 0);
        Ok(Self { number: number.ok_or_else(|| PortError(text.to_owned()))?, protocol })
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Port;

    #[test]
    fn ports_read_as_kubernetes_writes_them() {
        for (text, expected) in [("80", "80/TCP"), ("53/udp", "53/UDP"), ("9003/SCTP", "9003/SCTP")] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), expected);
        }
        for bad in ["", "0", "70000", "80/ICMP", "web"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }
}
