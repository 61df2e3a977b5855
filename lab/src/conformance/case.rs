//! A case as it is written.

use super::pattern::{Pattern, PortPattern};
use crate::pods::PodKey;
use crate::station::Port;
use anyhow::Context;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) type Labels = BTreeMap<String, String>;

/// A case.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    #[serde(rename = "about")]
    _about: Option<String>,
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "upstream")]
    _upstream: Option<Value>,
    #[serde(default)]
    pub(super) needs: Vec<String>,
    #[serde(default, rename = "relies-on")]
    _relies_on: Vec<String>,
    pub(super) families: Option<Vec<IpFamily>>,
    #[serde(default)]
    pub(super) probe: ProbeSpec,
    pub(super) cluster: ClusterSpec,
    pub(super) steps: Vec<Step>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

impl Case {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let case: Self = serde_saphyr::from_str(text)?;
        anyhow::ensure!(!case.steps.is_empty(), "it has no step");
        Ok(case)
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum IpFamily {
    Ipv4,
    Ipv6,
}

/// A named cluster, or one that is described.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum ClusterSpec {
    Named(String),
    Described(Box<Described>),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    pub(super) base: Option<String>,
    pub(super) only: Option<Vec<Name>>,
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, Labels>,
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, Labels>,
    #[serde(default)]
    pub(super) pods: Vec<PodDef>,
    #[serde(default)]
    pub(super) external: BTreeMap<String, ExternalDef>,
    #[serde(default)]
    pub(super) services: Vec<ServiceDef>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct PodDef {
    pub(super) name: Name,
    #[serde(default)]
    pub(super) labels: Labels,
    #[serde(default = "first_node")]
    pub(super) node: String,
    #[serde(default)]
    pub(super) host: bool,
    #[serde(default)]
    pub(super) ports: Vec<NamedPort>,
    #[serde(default)]
    pub(super) sidecar_ports: Vec<NamedPort>,
    pub(super) reuse_ip_of: Option<Name>,
}

fn first_node() -> String {
    "n1".into()
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExternalDef {
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    #[serde(default)]
    pub(super) ports: Vec<NamedPort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceDef {
    pub(super) name: Name,
    pub(super) selector: Labels,
    pub(super) ports: Vec<ServicePort>,
}

/// `PORT/PROTOCOL=TARGET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePort {
    pub(super) port: Port,
    pub(super) target: Target,
}

/// What a service's port is on its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Number(u16),
    Name(String),
}

impl<'de> Deserialize<'de> for ServicePort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("`{text}` is not PORT/PROTOCOL=TARGET"));
        let (port, target) = text.split_once('=').ok_or_else(wrong)?;
        let target = target.parse().map_or_else(|_is_a_name| Target::Name(target.to_owned()), Target::Number);
        Ok(Self { port: port.parse().map_err(serde::de::Error::custom)?, target })
    }
}

/// `NUMBER/PROTOCOL`, `=NAME` when it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPort {
    pub(super) port: Port,
    pub(super) name: Option<String>,
}

impl NamedPort {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let (port, name) = match text.split_once('=') {
            Some((port, name)) => (port, Some(name.to_owned())),
            None => (text, None),
        };
        Ok(Self { port: port.parse()?, name })
    }
}

/// `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) PodKey);

/// What is probed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbeSpec {
    pub(super) from: Option<OneOrMany<Pattern>>,
    pub(super) to: Option<OneOrMany<Pattern>>,
    pub(super) ports: Option<OneOrMany<PortPattern>>,
    pub(super) nodes: Option<bool>,
}

/// A step.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) delete: Vec<String>,
    #[serde(default)]
    pub(super) remove: Vec<Name>,
    #[serde(default)]
    pub(super) finish: Vec<Name>,
    #[serde(default)]
    pub(super) terminate: Vec<Name>,
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, Labels>,
    #[serde(default)]
    pub(super) pods: Vec<PodDef>,
    #[serde(default)]
    pub(super) services: Vec<ServiceDef>,
    #[serde(default)]
    pub(super) relabel: BTreeMap<String, Labels>,
    #[serde(default)]
    pub(super) apply: Vec<Value>,
    pub(super) probe: Option<ProbeSpec>,
    pub(super) expect: Option<Expect>,
    #[serde(default)]
    pub(super) open: BTreeMap<String, OpenDef>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenDef {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) port: Port,
}

/// A truth table.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) default: Verdict,
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
    #[serde(rename = "self")]
    pub(super) own: Option<Verdict>,
    #[serde(default)]
    pub(super) open: BTreeMap<String, Fate>,
    #[serde(default)]
    pub(super) from_start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Allow,
    Deny,
    Any,
}

/// What has become of a kept connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fate {
    Alive,
    Ended,
    Any,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) verdict: Verdict,
    pub(super) rows: RowsSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RowsSpec {
    pub(super) from: Option<OneOrMany<Pattern>>,
    pub(super) to: Option<OneOrMany<Pattern>>,
    pub(super) ports: Option<OneOrMany<PortPattern>>,
    pub(super) family: Option<IpFamily>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl<T> OneOrMany<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::Many(all) => all,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            allow: Option<RowsSpec>,
            deny: Option<RowsSpec>,
            any: Option<RowsSpec>,
        }
        let (verdict, rows) = match Raw::deserialize(deserializer)? {
            Raw { allow: Some(rows), deny: None, any: None } => (Verdict::Allow, rows),
            Raw { allow: None, deny: Some(rows), any: None } => (Verdict::Deny, rows),
            Raw { allow: None, deny: None, any: Some(rows) } => (Verdict::Any, rows),
            _ => return Err(serde::de::Error::custom("a rule is one of allow, deny, any")),
        };
        Ok(Self { verdict, rows })
    }
}

impl<'de> Deserialize<'de> for NamedPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .context("a name")
            .map(Self)
            .map_err(|error| serde::de::Error::custom(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, ClusterSpec, Verdict};

    #[test]
    fn every_form_of_the_format_is_read() {
        let case = Case::parse(
            "name: c\nneeds: [sctp]\nfamilies: [ipv4, ipv6]\nprobe: {from: x/*, ports: [80, TCP, 81/UDP], nodes: true}\n\
             cluster:\n  base: standard\n  only: [x/a]\n  namespaces: {w: {ns: w}}\n  \
             pods: [{name: w/p, host: true, ports: [80/TCP=web, 53/UDP]}]\n  \
             external: {e1: {ipv4: 192.0.2.10, ports: [80/TCP]}}\n\
             steps:\n  - name: one\n    delete: [NetworkPolicy/x/p]\n    remove: ['w/*']\n    relabel: {'pod:x/a': {pod: b}}\n    \
             expect:\n      default: deny\n      rules: [{allow: {from: [x/b, 'y/*'], to: x/a, family: ipv4}}, {any: {}}]\n      \
             self: allow\n      open: {c1: alive}\n      from-start: true\n    open: {c1: {from: x/a, to: w/p, port: 80/TCP}}\n",
        )
        .unwrap();
        assert!(
            matches!(&case.cluster, ClusterSpec::Described(described) if described.pods[0].ports[0].name.is_some())
        );
        let expect = case.steps[0].expect.as_ref().unwrap();
        assert_eq!((expect.default, expect.rules.len(), expect.from_start), (Verdict::Deny, 2, true));
        assert_eq!(case.steps[0].open["c1"].port.to_string(), "80/TCP");
    }

    #[test]
    fn what_the_format_does_not_know_is_refused() {
        for (text, word) in [
            ("name: c\ncluster: standard\nsteps: []", "no step"),
            ("name: c\ncluster: standard\nsteps: [{expext: 1}]", "expext"),
            ("name: c\ncluster: standard\nsteps: [{expect: {default: maybe}}]", "maybe"),
            ("name: c\ncluster: standard\nsteps: [{expect: {default: any, rules: [{}]}}]", "one of allow"),
        ] {
            let error = format!("{:#}", Case::parse(text).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
