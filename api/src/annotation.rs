//! Annotations of Kubernetes objects that are ours. That of policies, `margay.dev/enforcement`, is `margay_policy`'s own.

use std::net::IpAddr;

/// On a pod or a namespace, the pod's wins: the pools to take addresses from, separated by commas, the first that
/// has one first. One of each family that the named pools have.
pub const POOLS: &str = "margay.dev/ip-pools";
/// On a pod: the address it must have, or one of each family separated by a comma.
pub const ADDRESS: &str = "margay.dev/ip";

/// On a pod, written by the agent of its node when its interface is made: its addresses, separated by commas. Other
/// nodes go by it until the pod's status has its addresses.
pub const POD_IPS: &str = "margay.dev/pod-ips";

/// On a node, written by its agent where the node's address is chosen there: one address of each family that it was chosen
/// for, separated by commas. Other nodes reach it there and not at its `InternalIP` of that family.
pub const NODE_IPS: &str = "margay.dev/node-ips";
/// On a node, written by its agent: the kinds of tunnels, `VXLAN` and `IPIP`, that it takes packets from, separated by
/// commas. Other nodes send through no other, once it is there at all.
pub const TUNNELS_RECEIVED: &str = "margay.dev/tunnels-received";
/// On a node, likewise: the kinds of tunnels that it sends packets of pods through. Other nodes take none of them away.
pub const TUNNELS_SENT: &str = "margay.dev/tunnels-sent";
/// On a node: the number of its AS.
pub const BGP_ASN: &str = "margay.dev/bgp-asn";
/// On a node: its BGP identifier, in the form of an IPv4 address.
pub const BGP_ROUTER_ID: &str = "margay.dev/bgp-router-id";

/// On a namespace: `true` has the agents log what is dropped from or to its pods.
pub const LOG_DROPS: &str = "margay.dev/log-drops";

/// Octets of the longest value that is read: whoever can write to a pod can write a quarter of a mebibyte.
const MAX_OCTETS: usize = 4096;

/// A value that is not of the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A list in JSON.
    #[error(
        "annotation {key} is `{value}`; write names separated by commas, without brackets and quotes: blue,green"
    )]
    Json {
        /// Which annotation.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// Nothing, or nothing between two commas.
    #[error("annotation {key} is `{value}`, which has an empty entry; leave it out or fill it")]
    Empty {
        /// Which annotation.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// More than any list of pools takes.
    #[error("annotation {key} has {octets} octets; at most {MAX_OCTETS} are read")]
    TooLong {
        /// Which annotation.
        key: &'static str,
        /// How long it is.
        octets: usize,
    },
    /// No address.
    #[error(
        "annotation {key} is `{value}`: `{entry}` is no address; write 192.0.2.7, or 192.0.2.7,2001:db8::7"
    )]
    NoAddress {
        /// Which annotation.
        key: &'static str,
        /// What it says.
        value: String,
        /// The part that is wrong.
        entry: String,
    },
    /// Two addresses of a family.
    #[error("annotation {key} is `{value}`: it takes one address of each family")]
    TwoOfAFamily {
        /// Which annotation.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// Neither on nor off.
    #[error("annotation {LOG_DROPS} is `{0}`; write \"true\" or \"false\", with the quotes")]
    NoSwitch(String),
}

/// The names in [`POOLS`], each once.
///
/// # Errors
/// When it is no list of names.
pub fn pools(value: &str) -> Result<Vec<String>, AnnotationError> {
    let mut names: Vec<String> = Vec::new();
    for name in entries(POOLS, value)? {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The addresses in [`ADDRESS`].
///
/// # Errors
/// When it is no list of addresses of different families.
pub fn addresses(value: &str) -> Result<Vec<IpAddr>, AnnotationError> {
    of_families(ADDRESS, value)
}

/// The addresses in [`NODE_IPS`].
///
/// # Errors
/// When it is no list of addresses of different families.
pub fn node_ips(value: &str) -> Result<Vec<IpAddr>, AnnotationError> {
    let addresses = of_families(NODE_IPS, value)?;
    let is_nodes = |address: &IpAddr| {
        let is_mapped = address.to_canonical() != *address;
        !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_mapped)
    };
    match addresses.iter().find(|address| !is_nodes(address)) {
        None => Ok(addresses),
        Some(other) => Err(AnnotationError::NoAddress {
            key: NODE_IPS,
            value: value.to_owned(),
            entry: other.to_string(),
        }),
    }
}

/// Where other nodes reach a node: at what [`NODE_IPS`] says, and in a family that it does not name at the addresses of type
/// `InternalIP`.
pub fn reached_at(node_ips: &[IpAddr], internal: &[IpAddr]) -> Vec<IpAddr> {
    let is_named = |address: &&IpAddr| node_ips.iter().any(|named| named.is_ipv4() == address.is_ipv4());
    node_ips.iter().chain(internal.iter().filter(|address| !is_named(address))).copied().collect()
}

fn of_families(key: &'static str, value: &str) -> Result<Vec<IpAddr>, AnnotationError> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for entry in entries(key, value)? {
        let address: IpAddr = entry.parse().map_err(|_not_an_address| AnnotationError::NoAddress {
            key,
            value: value.to_owned(),
            entry: entry.to_owned(),
        })?;
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(AnnotationError::TwoOfAFamily { key, value: value.to_owned() });
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Whether [`LOG_DROPS`] is on.
///
/// # Errors
/// When it says neither `true` nor `false`.
pub fn log_drops(value: &str) -> Result<bool, AnnotationError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ if value.len() > MAX_OCTETS => {
            Err(AnnotationError::TooLong { key: LOG_DROPS, octets: value.len() })
        }
        _ => Err(AnnotationError::NoSwitch(value.to_owned())),
    }
}

fn entries<'a>(key: &'static str, value: &'a str) -> Result<Vec<&'a str>, AnnotationError> {
    if value.len() > MAX_OCTETS {
        return Err(AnnotationError::TooLong { key, octets: value.len() });
    }
    if value.contains(['[', ']', '"']) {
        return Err(AnnotationError::Json { key, value: value.to_owned() });
    }
    let entries: Vec<&str> = value.split(',').map(str::trim).collect();
    if entries.iter().any(|entry| entry.is_empty()) {
        return Err(AnnotationError::Empty { key, value: value.to_owned() });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{addresses, log_drops, node_ips, pools, reached_at};

    #[test]
    fn lists_are_separated_by_commas_and_other_forms_are_refused_with_words() {
        assert_eq!(pools(" blue, green,blue").unwrap(), ["blue", "green"]);
        let long = pools(&"[".repeat(5000)).unwrap_err().to_string();
        assert!(long.contains("5000 octets") && long.len() < 100, "{long}");
        for (value, word) in
            [("[\"blue\"]", "without brackets"), ("blue,", "empty entry"), ("", "empty entry")]
        {
            let error = pools(value).unwrap_err().to_string();
            assert!(error.contains(word), "{value}: {error}");
        }
        let both = addresses("192.0.2.7,2001:db8::7").unwrap();
        assert_eq!(both, ["192.0.2.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().unwrap()));
        for (value, word) in [
            ("192.0.2.7/32", "is no address"),
            ("192.0.2.7,192.0.2.8", "one address of each family"),
            ("[\"192.0.2.7\"]", "without brackets"),
        ] {
            let error = addresses(value).unwrap_err().to_string();
            assert!(error.contains(word), "{value}: {error}");
        }
    }

    #[test]
    fn a_node_is_reached_where_its_agent_says_and_else_at_its_internal_addresses() {
        let all =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        for (said, internal, expected) in [
            (None, ["192.0.2.1", "2001:db8::1"], ["192.0.2.1", "2001:db8::1"]),
            (Some("198.51.100.1"), ["192.0.2.1", "2001:db8::1"], ["198.51.100.1", "2001:db8::1"]),
            (Some("2001:db8::2"), ["192.0.2.1", "2001:db8::1"], ["2001:db8::2", "192.0.2.1"]),
            (Some("198.51.100.1,2001:db8::2"), ["192.0.2.1", "2001:db8::1"], ["198.51.100.1", "2001:db8::2"]),
        ] {
            let said = said.map(|text| node_ips(text).unwrap()).unwrap_or_default();
            assert_eq!(reached_at(&said, &all(&internal)), all(&expected), "{said:?}");
        }
        for other in ["192.0.2.7/32", "127.0.0.1", "0.0.0.0", "224.0.0.1", "::", "::ffff:192.0.2.7"] {
            let error = node_ips(other).unwrap_err().to_string();
            assert!(error.starts_with(&format!("annotation margay.dev/node-ips is `{other}`")), "{error}");
        }
    }

    #[test]
    fn a_switch_is_on_or_off() {
        assert_eq!((log_drops("true"), log_drops("false")), (Ok(true), Ok(false)));
        for value in ["", "yes", "True", " true"] {
            let error = log_drops(value).unwrap_err().to_string();
            assert!(error.contains(&format!("margay.dev/log-drops is `{value}`")), "{error}");
        }
        assert!(log_drops(&"x".repeat(5000)).unwrap_err().to_string().contains("5000 octets"));
    }
}
