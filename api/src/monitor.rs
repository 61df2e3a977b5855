//! What the agent tells of dropped packets and of flows that begin, and to whom.
//!
//! `margayctl monitor -o json` prints [`Dropped`] and [`Begun`] as they are: their field names are for others' programs, too.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// A packet that was dropped, or would be if the policies in audit were enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// When, in RFC 3339, UTC.
    pub time: String,
    /// The node that dropped it.
    pub node: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Seen from the pod that policy is about here.
    pub direction: Direction,
    /// Why.
    pub reason: Reason,
    /// Who sent it.
    pub source: Party,
    /// Whom it was for.
    pub destination: Party,
    /// Its name, or its number where it has none here.
    pub protocol: String,
    /// Of the sender, of protocols that have ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Of the receiver, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Of ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Of ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Those that drop it, or would; none for reasons that are no policy's. At most [`MAX_POLICIES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
    /// How many more there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_policies: usize,
    /// The node's end of the link of the pod that policy is about here, where the packet came to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// A flow that begins to take the short way of the eBPF dataplane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    /// When, in RFC 3339, UTC.
    pub time: String,
    /// The node that tells of it.
    pub node: String,
    /// Who opens it.
    pub source: Party,
    /// To whom.
    pub destination: Party,
    /// Its name.
    pub protocol: String,
    /// Of the source.
    pub source_port: u16,
    /// Of the destination.
    pub destination_port: u16,
    /// Why the source may, where it is a pod of this node: of another, its own node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Opening>,
    /// Why the destination may be reached, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Opening>,
}

/// Why a flow may pass one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "by")]
pub enum Opening {
    /// No policy is about it.
    Nobody,
    /// A rule opens it.
    Rule {
        /// Of this policy.
        policy: Policy,
        /// Its place among those of its direction, from 1.
        rule: usize,
    },
    /// Policy has changed since, and would not let it pass now.
    Before,
}

/// How many policies an event names: so many isolate no pod that anybody understands.
pub const MAX_POLICIES: usize = 16;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it asks about by reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It was dropped.
    Drop,
    /// It went on; policies that are only audited would have it dropped.
    Audit,
}

/// Seen from the pod that policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Its name.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// `NetworkPolicies` isolate the pod, and no rule of theirs allows it.
    Isolation,
    /// A rule of a `ClusterNetworkPolicy` denies it.
    Cluster,
    /// TCP in the middle of a connection that is not tracked, from or to an isolated pod.
    Midstream,
    /// Its source is no address of the pod that sent it.
    Spoof,
    /// It came from or was for a link whose pod is not known.
    Unknown,
    /// It was made for the tunnels between nodes, by one who is no node.
    Tunnel,
}

impl Reason {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Isolation, Self::Cluster, Self::Midstream, Self::Spoof, Self::Unknown, Self::Tunnel];

    /// Its name.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Isolation => "isolation",
            Self::Cluster => "cluster",
            Self::Midstream => "midstream",
            Self::Spoof => "spoof",
            Self::Unknown => "unknown",
            Self::Tunnel => "tunnel",
        }
    }
}

/// An end of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Its address in the packet.
    pub address: IpAddr,
    /// The pod, if it is one that is known; of a sender with an address that is not its own, the pod that really sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The node that has the address, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Names a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// Of a `NetworkPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl fmt::Display for Dropped {
    /// `TCP shop/report (192.0.2.7):41234 -> shop/db (192.0.2.9):5432, dropped by NetworkPolicy shop/deny-all`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, source, destination, source_port, destination_port, .. } = self;
        write!(f, "{protocol}")?;
        if let Some(kind) = self.icmp_type {
            write!(f, " type {kind} code {}", self.icmp_code.unwrap_or_default())?;
        }
        f.write_str(" ")?;
        source.write(f, *source_port)?;
        f.write_str(" -> ")?;
        destination.write(f, *destination_port)?;
        f.write_str(match self.verdict {
            Verdict::Drop => ", dropped",
            Verdict::Audit => ", would be dropped",
        })?;
        match self.reason {
            Reason::Midstream => f.write_str(": in the middle of a connection that is not tracked")?,
            Reason::Spoof => f.write_str(": not an address of the pod that sent it")?,
            Reason::Tunnel => f.write_str(": for the port of the nodes' tunnels, but from no other node")?,
            Reason::Unknown => f.write_str(": the pod is not known")?,
            Reason::Isolation | Reason::Cluster if self.policies.is_empty() => {
                f.write_str(" by a policy that is gone")?;
            }
            Reason::Isolation | Reason::Cluster => f.write_str(" by ")?,
        }
        for (number, policy) in self.policies.iter().take(SHOWN).enumerate() {
            write!(f, "{}{policy}", if number == 0 { "" } else { ", " })?;
        }
        match self.policies.len().saturating_sub(SHOWN) + self.more_policies {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Begun {
    /// `TCP shop/web (192.0.2.7):41234 -> shop/db (192.0.2.9):5432, out: no policy is about it; in: NetworkPolicy shop/db, rule 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, source, destination, source_port, destination_port, egress, ingress, .. } = self;
        write!(f, "{protocol} ")?;
        source.write(f, Some(*source_port))?;
        f.write_str(" -> ")?;
        destination.write(f, Some(*destination_port))?;
        let sides = [("out", egress), ("in", ingress)];
        let sides = sides.into_iter().filter_map(|(way, side)| Some((way, side.as_ref()?)));
        for (number, (way, side)) in sides.enumerate() {
            write!(f, "{} {way}: {side}", if number == 0 { "," } else { ";" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("no policy is about it"),
            Self::Rule { policy, rule } => write!(f, "{policy}, rule {rule}"),
            Self::Before => f.write_str("policy has changed since"),
        }
    }
}

/// Policies that a line of text names.
const SHOWN: usize = 3;

impl Party {
    fn write(&self, f: &mut fmt::Formatter<'_>, port: Option<u16>) -> fmt::Result {
        let address = &self.address;
        match (&self.pod, &self.node) {
            (Some(pod), _) => write!(f, "{pod} ({address})")?,
            (None, Some(node)) => write!(f, "node {node} ({address})")?,
            // As in a URL.
            (None, None) if address.is_ipv6() && port.is_some() => write!(f, "[{address}]")?,
            (None, None) => write!(f, "{address}")?,
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Whose packets a client wants to hear of: those that all of it lets pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// One end is a pod of one of these; any when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// One end is one of these, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodPrefix>,
    /// `None` for both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// `None` for both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// Pods by how their names begin: those of a Deployment, say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodPrefix {
    /// `None` for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How the name begins.
    pub name: String,
}

impl Filter {
    /// Whether it lets an event pass.
    pub fn passes(&self, event: &Dropped) -> bool {
        self.direction.is_none_or(|direction| direction == event.direction)
            && self.verdict.is_none_or(|verdict| verdict == event.verdict)
            && self.is_about([&event.source, &event.destination])
    }

    /// Whether it lets what is between two ends pass.
    pub fn is_about(&self, ends: [&Party; 2]) -> bool {
        let pods = || ends.into_iter().filter_map(|party| party.pod.as_ref());
        let is_meant = |prefix: &PodPrefix, pod: &Pod| {
            prefix.namespace.as_ref().is_none_or(|namespace| *namespace == pod.namespace)
                && pod.name.starts_with(&prefix.name)
        };
        (self.namespaces.is_empty() || pods().any(|pod| self.namespaces.contains(&pod.namespace)))
            && (self.pods.is_empty()
                || pods().any(|pod| self.pods.iter().any(|prefix| is_meant(prefix, pod))))
    }
}

#[cfg(test)]
mod tests {
    use super::{Begun, Direction, Dropped, Filter, Opening, Party, Pod, PodPrefix, Policy, Reason, Verdict};

    fn party(address: &str, pod: Option<[&str; 2]>) -> Party {
        let pod = pod.map(|[namespace, name]| Pod { namespace: namespace.into(), name: name.into() });
        Party { address: address.parse().unwrap(), pod, node: None }
    }

    fn policy(name: &str) -> Policy {
        Policy { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: name.into() }
    }

    fn event() -> Dropped {
        Dropped {
            time: "2026-11-21T09:20:15.123456Z".into(),
            node: "n1".into(),
            verdict: Verdict::Drop,
            direction: Direction::Ingress,
            reason: Reason::Isolation,
            source: party("192.0.2.7", Some(["web", "report-7f-x"])),
            destination: party("192.0.2.9", Some(["shop", "db"])),
            protocol: "TCP".into(),
            source_port: Some(41234),
            destination_port: Some(5432),
            icmp_type: None,
            icmp_code: None,
            policies: vec![policy("deny-all")],
            more_policies: 0,
            interface: None,
        }
    }

    #[test]
    fn the_field_names_are_stable() {
        assert_eq!(
            serde_json::to_string(&event()).unwrap(),
            r#"{"time":"2026-11-21T09:20:15.123456Z","node":"n1","verdict":"drop","direction":"ingress","reason":"isolation","source":{"address":"192.0.2.7","pod":{"namespace":"web","name":"report-7f-x"}},"destination":{"address":"192.0.2.9","pod":{"namespace":"shop","name":"db"}},"protocol":"TCP","sourcePort":41234,"destinationPort":5432,"policies":[{"kind":"NetworkPolicy","namespace":"shop","name":"deny-all"}]}"#
        );
        let text = serde_json::to_string(&event()).unwrap();
        assert_eq!(serde_json::from_str::<Dropped>(&text).unwrap(), event());
    }

    #[test]
    fn a_line_says_who_sent_what_to_whom_and_why_it_was_dropped() {
        let check = |event: &Dropped, expected: &str| assert_eq!(event.to_string(), expected);
        check(
            &event(),
            "TCP web/report-7f-x (192.0.2.7):41234 -> shop/db (192.0.2.9):5432, dropped by NetworkPolicy shop/deny-all",
        );
        let ping = Dropped {
            verdict: Verdict::Audit,
            source: party("2001:db8::1", None),
            destination: Party { node: Some("n2".into()), ..party("192.0.2.1", None) },
            protocol: "ICMP".into(),
            source_port: None,
            destination_port: None,
            icmp_type: Some(8),
            icmp_code: Some(0),
            policies: ["a", "b", "c", "d"].map(policy).into(),
            more_policies: 2,
            ..event()
        };
        check(
            &ping,
            "ICMP type 8 code 0 2001:db8::1 -> node n2 (192.0.2.1), would be dropped by NetworkPolicy shop/a, NetworkPolicy shop/b, NetworkPolicy shop/c and 3 more",
        );
        let spoofed = Dropped {
            reason: Reason::Spoof,
            source: party("2001:db8::1", None),
            policies: Vec::new(),
            ..event()
        };
        check(
            &spoofed,
            "TCP [2001:db8::1]:41234 -> shop/db (192.0.2.9):5432, dropped: not an address of the pod that sent it",
        );
    }

    #[test]
    fn a_flow_that_begins_is_told_with_what_opens_it_at_each_end_that_is_here() {
        let Dropped { time, node, source, destination, protocol, .. } = event();
        let begun = Begun {
            time,
            node,
            source,
            destination,
            protocol,
            source_port: 41234,
            destination_port: 5432,
            egress: Some(Opening::Nobody),
            ingress: Some(Opening::Rule { policy: policy("db"), rule: 1 }),
        };
        assert_eq!(
            begun.to_string(),
            "TCP web/report-7f-x (192.0.2.7):41234 -> shop/db (192.0.2.9):5432, out: no policy is about it; \
             in: NetworkPolicy shop/db, rule 1"
        );
        let text = serde_json::to_string(&begun).unwrap();
        assert!(
            text.ends_with(
                r#""protocol":"TCP","sourcePort":41234,"destinationPort":5432,"egress":{"by":"nobody"},"ingress":{"by":"rule","policy":{"kind":"NetworkPolicy","namespace":"shop","name":"db"},"rule":1}}"#
            ),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Begun>(&text).unwrap(), begun);
        let elsewhere = Begun { egress: None, ingress: Some(Opening::Before), ..begun };
        assert!(elsewhere.to_string().ends_with(":5432, in: policy has changed since"), "{elsewhere}");
    }

    #[test]
    fn a_filter_lets_pass_what_all_of_it_is_about() {
        let prefix = |namespace: Option<&str>, name: &str| PodPrefix {
            namespace: namespace.map(str::to_owned),
            name: name.into(),
        };
        let check =
            |filter: Filter, expected: bool| assert_eq!(filter.passes(&event()), expected, "{filter:?}");
        check(Filter::default(), true);
        check(Filter { namespaces: vec!["web".into()], ..Filter::default() }, true);
        check(Filter { namespaces: vec!["shop".into()], ..Filter::default() }, true);
        check(Filter { namespaces: vec!["sh".into()], ..Filter::default() }, false);
        check(Filter { pods: vec![prefix(None, "x"), prefix(None, "report")], ..Filter::default() }, true);
        check(Filter { pods: vec![prefix(Some("web"), "report")], ..Filter::default() }, true);
        check(Filter { pods: vec![prefix(Some("shop"), "report")], ..Filter::default() }, false);
        check(Filter { direction: Some(Direction::Egress), ..Filter::default() }, false);
        check(Filter { verdict: Some(Verdict::Drop), ..Filter::default() }, true);
        check(Filter { verdict: Some(Verdict::Audit), ..Filter::default() }, false);
    }
}
