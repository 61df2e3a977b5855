//! A service proxy as small as one can be: what is sent to a service goes to one of its pods, by destination NAT on the
//! sender's node.

use super::Lab;
use crate::station::Port;
use anyhow::Context;
use std::net::{IpAddr, SocketAddr};

/// A port of a service, and where its packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Balanced {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: Port,
    pub(crate) backends: Vec<SocketAddr>,
}

impl Lab {
    /// Has all nodes balance these, and nothing else.
    pub(crate) async fn balance(&self, balanced: &[Balanced]) -> anyhow::Result<()> {
        let ruleset = ruleset(balanced);
        for node in self.nodes() {
            node.output("nft", &[&ruleset])
                .await
                .with_context(|| format!("write rules on {}", node.name()))?;
        }
        Ok(())
    }
}

/// What `nft` makes the whole table from.
fn ruleset(balanced: &[Balanced]) -> String {
    const TABLE: &str = "inet lab-services";
    let mut rules = Vec::new();
    for Balanced { addresses, port, backends } in balanced {
        for address in addresses {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            let protocol = port.protocol.to_string().to_lowercase();
            let own: Vec<&SocketAddr> =
                backends.iter().filter(|backend| backend.is_ipv4() == address.is_ipv4()).collect();
            let packet = format!("{family} daddr {address} {protocol} dport {}", port.number);
            let verdict = if own.is_empty() {
                "drop".to_owned()
            } else {
                let places = own.iter().enumerate();
                let places = places.map(|(place, to)| format!("{place} : {} . {}", to.ip(), to.port()));
                let places = places.collect::<Vec<_>>().join(", ");
                format!("dnat {family} to numgen random mod {} map {{ {places} }}", own.len())
            };
            rules.push(format!("    {packet} {verdict}\n"));
        }
    }
    let rules = rules.concat();
    let chain = |name: &str, hook: &str| {
        format!("  chain {name} {{\n    type nat hook {hook} priority -100;\n{rules}  }}\n")
    };
    format!(
        "table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n{}{}}}\n",
        chain("forwarded", "prerouting"),
        chain("own", "output")
    )
}

#[cfg(test)]
mod tests {
    use super::{Balanced, ruleset};
    use crate::Port;

    #[test]
    fn each_family_goes_to_backends_of_its_own_and_none_nowhere() {
        let balanced = Balanced {
            addresses: vec!["10.96.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            port: Port::tcp(80),
            backends: vec!["10.0.0.1:8080".parse().unwrap(), "10.0.0.2:8081".parse().unwrap()],
        };
        let text = ruleset(&[balanced]);
        let v4 = "ip daddr 10.96.0.1 tcp dport 80 dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8081 }";
        for line in [v4, "ip6 daddr 2001:db8::1 tcp dport 80 drop"] {
            assert_eq!(text.lines().filter(|found| found.trim() == line).count(), 2, "{text}");
        }
    }
}
