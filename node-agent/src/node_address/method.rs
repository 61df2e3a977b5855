//! How the node's address is found, as the agent's file says.

use std::{fmt, net::IpAddr};

use anyhow::Context;
use ipnetwork::IpNetwork;
use regex::Regex;
use serde::Deserialize;

/// The section `nodeAddress` of the agent's file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct File {
    ipv4: Option<MethodFile>,
    ipv6: Option<MethodFile>,
}

/// A method, not checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MethodFile {
    KubernetesInternalIp,
    FirstFound,
    /// One of these two, as `NetworkConfig` says it, whose fields are all objects.
    Method(Plain),
    CanReach(String),
    Interface(Vec<String>),
    SkipInterface(Vec<String>),
    Cidr(Vec<String>),
}

/// A method that takes no argument.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Plain {
    KubernetesInternalIp,
    FirstFound,
}

/// How the node's addresses are found, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeAddress {
    ipv4: Method,
    ipv6: Method,
}

/// How the node's address of a family is found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Method {
    /// The `InternalIP` of the Node object, which the kubelet or the cloud provider has written.
    #[default]
    KubernetesInternalIp,
    /// That of the first interface that is not made for containers.
    FirstFound,
    /// What the node sends to this address from.
    CanReach(IpAddr),
    /// That of an interface whose name one of these is, the first of them first.
    Interface(Vec<Name>),
    /// As the first found, of the interfaces whose name none of these is.
    SkipInterface(Vec<Name>),
    /// One in one of these, the first of them first.
    Cidr(Vec<IpNetwork>),
}

/// A pattern of names of interfaces; two of them are the same if they are written so.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// As the operator wrote it.
    text: String,
    whole: Regex,
}

impl Name {
    fn parse(text: &str) -> anyhow::Result<Self> {
        // By itself first: `a)|(?:b` would close the group below.
        let _one = Regex::new(text).context("it takes a regular expression")?;
        // Without the group, `a|b` would be `a` at the beginning or `b` at the end.
        let whole = Regex::new(&format!("^(?:{text})$")).context("it takes a regular expression")?;
        Ok(Self { text: text.to_owned(), whole })
    }

    /// Whether it is the whole of a name.
    pub(super) fn is(&self, interface: &str) -> bool {
        self.whole.is_match(interface)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl File {
    /// What it says, and of a family of which it says nothing what all nodes have in common.
    pub(crate) fn over(self, common: Self) -> Self {
        Self { ipv4: self.ipv4.or(common.ipv4), ipv6: self.ipv6.or(common.ipv6) }
    }

    /// Checks the section.
    ///
    /// # Errors
    /// The field that is not of its form.
    pub(crate) fn check(&self) -> anyhow::Result<NodeAddress> {
        let of = |method: &Option<MethodFile>, is_ipv4| {
            method.as_ref().map_or(Ok(Method::default()), |method| method.check(is_ipv4))
        };
        Ok(NodeAddress {
            ipv4: of(&self.ipv4, true).context("nodeAddress.ipv4")?,
            ipv6: of(&self.ipv6, false).context("nodeAddress.ipv6")?,
        })
    }
}

impl MethodFile {
    fn check(&self, is_ipv4: bool) -> anyhow::Result<Method> {
        let of_family = |address: IpAddr, text: &str| {
            anyhow::ensure!(address.is_ipv4() == is_ipv4, "`{text}` is not of {}", family(is_ipv4));
            Ok(address)
        };
        Ok(match self {
            Self::KubernetesInternalIp | Self::Method(Plain::KubernetesInternalIp) => {
                Method::KubernetesInternalIp
            }
            Self::FirstFound | Self::Method(Plain::FirstFound) => Method::FirstFound,
            Self::CanReach(text) => {
                let address: IpAddr = text
                    .parse()
                    .with_context(|| format!("can-reach: `{text}` is no address; names are not looked up"))?;
                let address = of_family(address, text).context("can-reach")?;
                let is_one = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
                anyhow::ensure!(is_one, "can-reach: `{text}` is no address of another host");
                Method::CanReach(address)
            }
            Self::Interface(names) => Method::Interface(list("interface", names, Name::parse)?),
            Self::SkipInterface(names) => Method::SkipInterface(list("skip-interface", names, Name::parse)?),
            Self::Cidr(ranges) => Method::Cidr(list("cidr", ranges, |text| {
                let network: IpNetwork = text.parse().context("it takes a CIDR")?;
                of_family(network.ip(), text)?;
                anyhow::ensure!(
                    network.ip() == network.network(),
                    "it has bits set behind its prefix; is {}/{} meant?",
                    network.network(),
                    network.prefix()
                );
                Ok(network)
            })?),
        })
    }
}

fn list<T>(
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    anyhow::ensure!(!texts.is_empty(), "{field} is empty: it takes at least one");
    let all = texts.iter().enumerate();
    all.map(|(index, text)| parse(text).with_context(|| format!("{field}[{index}] is `{text}`"))).collect()
}

impl NodeAddress {
    /// How that of a family is found.
    pub(super) fn method(&self, is_ipv4: bool) -> &Method {
        if is_ipv4 { &self.ipv4 } else { &self.ipv6 }
    }

    /// Whether Node objects say it all by themselves.
    pub(crate) fn is_kubernetes(&self) -> bool {
        [true, false].into_iter().all(|is_ipv4| self.method(is_ipv4).is_kubernetes())
    }

    /// Whether routes decide.
    pub(super) fn follows_routes(&self) -> bool {
        [true, false].into_iter().any(|is_ipv4| matches!(self.method(is_ipv4), Method::CanReach(_)))
    }
}

impl Method {
    /// Whether the Node object says it.
    pub(super) fn is_kubernetes(&self) -> bool {
        matches!(self, Self::KubernetesInternalIp)
    }
}

/// As the file has it.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |names: &[Name]| names.iter().map(|name| name.text.clone()).collect::<Vec<_>>().join(", ");
        match self {
            Self::KubernetesInternalIp => f.write_str("kubernetes-internal-ip"),
            Self::FirstFound => f.write_str("first-found"),
            Self::CanReach(address) => write!(f, "can-reach: {address}"),
            Self::Interface(wanted) => write!(f, "interface: [{}]", names(wanted)),
            Self::SkipInterface(skipped) => write!(f, "skip-interface: [{}]", names(skipped)),
            Self::Cidr(ranges) => {
                let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                write!(f, "cidr: [{}]", ranges.join(", "))
            }
        }
    }
}

/// Its name.
pub(super) fn family(is_ipv4: bool) -> &'static str {
    if is_ipv4 { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::{File, Method, NodeAddress};

    fn check(yaml: &str) -> anyhow::Result<NodeAddress> {
        serde_saphyr::from_str::<File>(yaml)?.check()
    }

    #[test]
    fn each_method_is_read_as_it_is_written() {
        for (yaml, expected) in [
            ("kubernetes-internal-ip", "kubernetes-internal-ip"),
            ("first-found", "first-found"),
            ("{can-reach: 192.0.2.1}", "can-reach: 192.0.2.1"),
            ("{interface: [eth1, 'bond.*']}", "interface: [eth1, bond.*]"),
            ("{skip-interface: [eth0]}", "skip-interface: [eth0]"),
            ("{cidr: [192.0.2.0/24, 198.51.100.0/24]}", "cidr: [192.0.2.0/24, 198.51.100.0/24]"),
        ] {
            let found = check(&format!("ipv4: {yaml}")).unwrap();
            assert_eq!(found.method(true).to_string(), expected);
            assert!(found.method(false).is_kubernetes());
        }
        assert!(check("{}").unwrap().is_kubernetes());
        assert!(check("ipv6: {can-reach: 2001:db8::1}").unwrap().follows_routes());
    }

    #[test]
    fn a_pattern_is_the_whole_of_a_name() {
        let found = check("ipv4: {interface: ['eth1|en.*']}").unwrap();
        let Method::Interface(names) = found.method(true) else { panic!("{found:?}") };
        let is = |name: &str| names[0].is(name);
        assert_eq!(["eth1", "eno2", "veth1", "eth10"].map(is), [true, true, false, false]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (yaml, words) in [
            ("ipv4: autodetect", "first-found"),
            ("ipv5: first-found", "ipv5"),
            ("ipv4: {can-reach: example.org}", "nodeAddress.ipv4: can-reach: `example.org` is no address"),
            ("ipv4: {can-reach: 2001:db8::1}", "nodeAddress.ipv4: can-reach: `2001:db8::1` is not of IPv4"),
            ("ipv6: {can-reach: '::1'}", "nodeAddress.ipv6: can-reach: `::1` is no address of another host"),
            ("ipv4: {interface: []}", "nodeAddress.ipv4: interface is empty"),
            ("ipv4: {interface: [eth0, 'eth(']}", "nodeAddress.ipv4: interface[1] is `eth(`"),
            ("ipv6: {skip-interface: ['*']}", "nodeAddress.ipv6: skip-interface[0] is `*`"),
            ("ipv4: {cidr: [192.0.2.1/24]}", "cidr[0] is `192.0.2.1/24`: it has bits set behind its prefix"),
            ("ipv6: {cidr: [192.0.2.0/24]}", "nodeAddress.ipv6: cidr[0] is `192.0.2.0/24`"),
        ] {
            let error = format!("{:#}", check(yaml).unwrap_err());
            assert!(error.contains(words), "{yaml}: {error}");
        }
    }
}
