//! Which address of those that the node has. Pure.

use std::{cmp::Reverse, net::IpAddr};

use ipnetwork::IpNetwork;
use margay_api::endpoint::HOST_IFNAME_PREFIX;
use margay_netlink::link::IfIndex;

use super::method::{Method, Name, family};

/// How the names of interfaces begin that are there for containers, or for addresses that are no way to the node: those of
/// Margay, of other network plugins and runtimes, and of kube-proxy.
const OF_CONTAINERS: [&str; 23] = [
    "antrea-",
    "cali",
    "cbr",
    "cilium_",
    "cni",
    "docker",
    "flannel",
    "kube-",
    "lxc",
    "lxdbr",
    "nerdctl",
    "nodelocaldns",
    "ovn-k8s-",
    "podman",
    "tunl",
    "veth",
    "virbr",
    "vmnet",
    "vxlan-v6.calico",
    "vxlan.calico",
    "weave",
    "wg-v6.cali",
    "wireguard.cali",
];
/// Those of interfaces that lead nowhere: an address there may be the node's all the same, but not by itself.
const OF_NOTHING: [&str; 2] = ["dummy", "lo"];
/// Those of Margay's own tunnels.
const OF_TUNNELS: &str = "margay.";
/// Of more, the rest is left out where they are told.
const MOST_TOLD: usize = 8;

/// An address of the node that is neither new nor about to go, on an interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) interface: String,
    pub(super) link: IfIndex,
    /// The address with its subnet.
    pub(super) network: IpNetwork,
    /// There is one before it in its subnet, or it changes for privacy.
    pub(super) secondary: bool,
}

impl Found {
    fn address(&self) -> IpAddr {
        self.network.ip()
    }

    fn is_ours(&self) -> bool {
        self.interface.starts_with(HOST_IFNAME_PREFIX) || self.interface.starts_with(OF_TUNNELS)
    }

    fn is_of_containers(&self) -> bool {
        // Docker's own networks: other bridges may well be the node's uplink.
        let is_network = self
            .interface
            .strip_prefix("br-")
            .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|octet| octet.is_ascii_hexdigit()));
        self.is_ours() || is_network || OF_CONTAINERS.iter().any(|prefix| self.interface.starts_with(prefix))
    }

    fn is_first_found(&self) -> bool {
        !self.is_of_containers() && !OF_NOTHING.iter().any(|prefix| self.interface.starts_with(prefix))
    }
}

/// What decides besides the method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions<'a> {
    pub(super) found: &'a [Found],
    /// What other nodes go by now: of several on one interface that are as good, it stays.
    pub(super) present: &'a [IpAddr],
    /// What the node sends to the address from that it is to reach, if there is a way there.
    pub(super) source: Option<IpAddr>,
}

/// The node's address of a family; `None` where its object says it.
///
/// # Errors
/// In words, when there is none.
pub(super) fn choose(
    method: &Method,
    is_ipv4: bool,
    conditions: &Conditions<'_>,
) -> Result<Option<IpAddr>, String> {
    let Conditions { found, present, source } = *conditions;
    let of_family = found.iter().filter(|it| it.network.is_ipv4() == is_ipv4);
    // The lower the better; `None` does not come into question.
    let rank = |it: &Found| match method {
        Method::KubernetesInternalIp => None,
        Method::FirstFound => it.is_first_found().then_some(0),
        Method::CanReach(_) => (Some(it.address()) == source && !it.is_ours()).then_some(0),
        Method::Interface(names) => {
            names.iter().position(|name| name.is(&it.interface)).filter(|_| !it.is_ours())
        }
        Method::SkipInterface(names) => {
            let is_skipped = names.iter().any(|name: &Name| name.is(&it.interface));
            (it.is_first_found() && !is_skipped).then_some(0)
        }
        Method::Cidr(ranges) => {
            let range = ranges.iter().position(|range| range.contains(it.address()));
            range.filter(|_| !it.is_of_containers())
        }
    };
    if method.is_kubernetes() {
        return Ok(None);
    }
    let ranked = of_family.filter_map(|it| {
        let stays = Reverse(present.contains(&it.address()));
        // An address that is all of its subnet moves from node to node as often as not.
        let is_alone = it.network.prefix() == if is_ipv4 { 32 } else { 128 };
        Some(((rank(it)?, it.link, stays, it.secondary, is_alone, it.address()), it.address()))
    });
    let (_, address) = ranked.min().ok_or_else(|| nothing(method, is_ipv4, conditions))?;
    Ok(Some(address))
}

/// Why there is none.
fn nothing(method: &Method, is_ipv4: bool, conditions: &Conditions<'_>) -> String {
    let field = if is_ipv4 { "nodeAddress.ipv4" } else { "nodeAddress.ipv6" };
    let why = match (method, conditions.source) {
        (Method::CanReach(address), None) => format!("there is no route to {address}"),
        (Method::CanReach(address), Some(source)) => {
            format!(
                "the way to {address} begins at {source}, which is no lasting address of an uplink of this node"
            )
        }
        _ => "no address of this node is meant by it".to_owned(),
    };
    let of_family = conditions.found.iter().filter(|it| it.network.is_ipv4() == is_ipv4 && !it.is_ours());
    let all: Vec<String> = of_family.map(|it| format!("{} on {}", it.address(), it.interface)).collect();
    let there = match all.get(..MOST_TOLD) {
        Some(first) if all.len() > MOST_TOLD => {
            format!("{} and {} more", first.join(", "), all.len() - MOST_TOLD)
        }
        _ if all.is_empty() => "none that others can use, on no interface that is up".to_owned(),
        _ => all.join(", "),
    };
    format!(
        "{field} of the agent's file is `{method}`: {why}; of {} there is {there}; what other nodes knew stays",
        family(is_ipv4)
    )
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use margay_netlink::link::IfIndex;

    use super::{Conditions, Found, choose};
    use crate::node_address::File;

    /// Interfaces in the order of their numbers, each with an address; `~` before one that is secondary.
    fn node(interfaces: &[(&str, &str)]) -> Vec<Found> {
        let numbered = interfaces.iter().zip(1..);
        numbered
            .map(|((interface, network), index)| Found {
                interface: (*interface).into(),
                // An interface has one number, however many addresses it has.
                link: IfIndex::new(
                    interfaces
                        .iter()
                        .zip(1..)
                        .find(|((name, _), _)| name == interface)
                        .map_or(index, |(_, at)| at),
                )
                .unwrap(),
                network: network.trim_start_matches('~').parse().unwrap(),
                secondary: network.starts_with('~'),
            })
            .collect()
    }

    fn chosen(
        method: &str,
        is_ipv4: bool,
        found: &[Found],
        present: &[&str],
        source: Option<&str>,
    ) -> Result<Option<String>, String> {
        let family = if is_ipv4 { "ipv4" } else { "ipv6" };
        let file: File = serde_saphyr::from_str(&format!("{family}: {method}")).unwrap();
        let present: Vec<IpAddr> = present.iter().map(|text| text.parse().unwrap()).collect();
        let source = source.map(|text| text.parse().unwrap());
        let conditions = Conditions { found, present: &present, source };
        let settings = file.check().unwrap();
        Ok(choose(settings.method(is_ipv4), is_ipv4, &conditions)?.map(|address| address.to_string()))
    }

    /// Of a node with much on it, in both families, the same method means the same interface.
    #[test]
    fn each_method_means_the_addresses_that_it_says() {
        let interfaces = [
            "lo",
            "docker0",
            "br-0123456789ab",
            "mgy0123456789ab",
            "margay.vxlan4",
            "cali12",
            "kube-ipvs0",
            "eth0",
            "eth1",
            "br-ex",
            "dummy0",
        ];
        let of = |is_ipv4: bool, name: &str| {
            let number = interfaces.iter().position(|it| *it == name).unwrap() + 1;
            if is_ipv4 { format!("192.0.{number}.9") } else { format!("2001:db8:{number}::9") }
        };
        for is_ipv4 in [true, false] {
            let prefix = if is_ipv4 { 24 } else { 64 };
            let addresses = interfaces.map(|name| format!("{}/{prefix}", of(is_ipv4, name)));
            let all: Vec<(&str, &str)> =
                interfaces.into_iter().zip(addresses.iter().map(String::as_str)).collect();
            let found = node(&all);
            let cidr = |number: u8| {
                if is_ipv4 { format!("192.0.{number}.0/24") } else { format!("2001:db8:{number}::/64") }
            };
            for (method, expected) in [
                ("kubernetes-internal-ip".to_owned(), None),
                ("first-found".to_owned(), Some("eth0")),
                ("{interface: [eth1]}".to_owned(), Some("eth1")),
                ("{interface: [eth9, 'br-.*', 'eth.*']}".to_owned(), Some("br-0123456789ab")),
                ("{interface: ['eth[1-9]', eth0]}".to_owned(), Some("eth1")),
                // Who names it has it there.
                ("{interface: [dummy0]}".to_owned(), Some("dummy0")),
                ("{interface: [lo]}".to_owned(), Some("lo")),
                ("{interface: ['m.*', br-ex]}".to_owned(), Some("br-ex")),
                ("{skip-interface: [eth0]}".to_owned(), Some("eth1")),
                ("{skip-interface: ['eth.*']}".to_owned(), Some("br-ex")),
                (format!("{{cidr: ['{}']}}", cidr(9)), Some("eth1")),
                (format!("{{cidr: ['{}', '{}']}}", cidr(10), cidr(9)), Some("br-ex")),
                (format!("{{cidr: ['{}', '{}']}}", cidr(2), cidr(8)), Some("eth0")),
                (format!("{{cidr: ['{}']}}", cidr(11)), Some("dummy0")),
            ] {
                let expected = expected.map(|name| of(is_ipv4, name));
                assert_eq!(chosen(&method, is_ipv4, &found, &[], None), Ok(expected), "{method}");
            }
            let reach = if is_ipv4 { "{can-reach: 203.0.113.1}" } else { "{can-reach: '2001:db8:ff::1'}" };
            let source = of(is_ipv4, "eth1");
            assert_eq!(chosen(reach, is_ipv4, &found, &[], Some(&source)), Ok(Some(source)));
            for (source, words) in [
                (None, "there is no route to "),
                (Some(of(is_ipv4, "margay.vxlan4")), "which is no lasting address"),
            ] {
                let error = chosen(reach, is_ipv4, &found, &[], source.as_deref()).unwrap_err();
                assert!(error.contains(words), "{error}");
            }
        }
    }

    #[test]
    fn of_several_on_one_interface_what_is_known_stays_and_else_it_is_the_first() {
        let all = ["192.0.2.9/24", "~192.0.2.3/24", "192.0.2.1/32", "198.51.100.2/32"];
        let found = node(&all.map(|network| ("eth0", network)));
        for (present, expected) in [
            (&[][..], "192.0.2.9"),
            (&["192.0.2.3"], "192.0.2.3"),
            (&["198.51.100.2"], "198.51.100.2"),
            (&["203.0.113.7"], "192.0.2.9"),
        ] {
            assert_eq!(chosen("first-found", true, &found, present, None), Ok(Some(expected.into())));
        }
        // Another interface has what the method says, whatever is known.
        let two = node(&[("eth0", "192.0.2.9/24"), ("eth1", "198.51.100.2/24")]);
        assert_eq!(chosen("first-found", true, &two, &["198.51.100.2"], None), Ok(Some("192.0.2.9".into())));
    }

    #[test]
    fn where_there_is_none_what_there_is_is_named() {
        let found = node(&[("eth0", "192.0.2.9/24"), ("eth1", "2001:db8::9/64")]);
        let error = chosen("{interface: [eth7]}", true, &found, &[], None).unwrap_err();
        let words = [
            "nodeAddress.ipv4",
            "`interface: [eth7]`",
            "no address of this node",
            "of IPv4 there is 192.0.2.9 on eth0;",
        ];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        let error = chosen("first-found", false, &found[..1], &[], None).unwrap_err();
        assert!(error.contains("of IPv6 there is none"), "{error}");
    }
}
