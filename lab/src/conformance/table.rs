//! Truth tables: which rows there are, and what each must be.

use super::case::{Expect, IpFamily, OneOrMany, ProbeSpec, RowsSpec, Verdict};
use super::pattern::{Endpoint, Pattern, PortPattern};
use crate::pods::PodKey;
use crate::station::Port;
use std::collections::BTreeSet;

/// Somebody who can be in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    /// A pod with a network of its own.
    pub(super) is_pod: bool,
    pub(super) ports: Vec<Port>,
    pub(super) families: Vec<IpFamily>,
    /// The pods that answer for it; of a service.
    pub(super) backends: BTreeSet<PodKey>,
}

impl Member {
    /// Whether rows lead from here to another. A service is none's source, and takes none but pods of the cluster that
    /// are not behind it.
    fn may_ask(&self, to: &Self) -> bool {
        match (&self.endpoint, &to.endpoint) {
            (Endpoint::Service(_), _) | (Endpoint::External(_), Endpoint::Service(_)) => false,
            (Endpoint::Pod(key), Endpoint::Service(_)) => !to.backends.contains(key),
            (from, to) => from != to,
        }
    }
}

/// One connection that is tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) port: Port,
    pub(super) family: IpFamily,
}

/// All rows between `members` that the probe leaves, in order.
pub(super) fn rows(members: &[Member], probe: &ProbeSpec, families: &[IpFamily]) -> Vec<Row> {
    let mut rows = BTreeSet::new();
    for from in members.iter().filter(|from| matches(probe.from.as_ref(), &from.endpoint)) {
        for to in members.iter().filter(|to| matches(probe.to.as_ref(), &to.endpoint)) {
            if !from.may_ask(to) || !(from.is_pod || to.is_pod) {
                continue;
            }
            rows.extend(between(from, to, probe, families));
        }
    }
    rows.into_iter().collect()
}

/// Each pod to itself.
pub(super) fn own_rows(members: &[Member], probe: &ProbeSpec, families: &[IpFamily]) -> Vec<Row> {
    let probed = |member: &&Member| {
        member.is_pod
            && matches(probe.from.as_ref(), &member.endpoint)
            && matches(probe.to.as_ref(), &member.endpoint)
    };
    members.iter().filter(probed).flat_map(|member| between(member, member, probe, families)).collect()
}

fn between(from: &Member, to: &Member, probe: &ProbeSpec, families: &[IpFamily]) -> Vec<Row> {
    let ports = to.ports.iter().filter(|port| matches_port(probe.ports.as_ref(), **port));
    let both = |family: &&IpFamily| from.families.contains(family) && to.families.contains(family);
    ports
        .flat_map(|port| {
            families.iter().filter(both).map(|family| Row {
                from: from.endpoint.clone(),
                to: to.endpoint.clone(),
                port: *port,
                family: *family,
            })
        })
        .collect()
}

/// What a row must be: the last rule that matches it decides.
pub(super) fn verdict(expect: &Expect, row: &Row) -> Verdict {
    let deciding = expect.rules.iter().rev().find(|rule| covers(&rule.rows, row));
    deciding.map_or(expect.default, |rule| rule.verdict)
}

fn covers(rows: &RowsSpec, row: &Row) -> bool {
    matches(rows.from.as_ref(), &row.from)
        && matches(rows.to.as_ref(), &row.to)
        && matches_port(rows.ports.as_ref(), row.port)
        && rows.family.is_none_or(|family| family == row.family)
}

fn matches(patterns: Option<&OneOrMany<Pattern>>, endpoint: &Endpoint) -> bool {
    patterns.is_none_or(|patterns| patterns.as_slice().iter().any(|pattern| pattern.matches(endpoint)))
}

fn matches_port(patterns: Option<&OneOrMany<PortPattern>>, port: Port) -> bool {
    patterns.is_none_or(|patterns| patterns.as_slice().iter().any(|pattern| pattern.matches(port)))
}

/// A step's probe over the case's.
pub(super) fn narrowed(case: &ProbeSpec, step: Option<&ProbeSpec>) -> ProbeSpec {
    let Some(step) = step else { return case.clone() };
    ProbeSpec {
        from: step.from.clone().or_else(|| case.from.clone()),
        to: step.to.clone().or_else(|| case.to.clone()),
        ports: step.ports.clone().or_else(|| case.ports.clone()),
        nodes: step.nodes.or(case.nodes),
    }
}

/// Whether a probe adds nodes.
pub(super) fn has_nodes(probe: &ProbeSpec) -> bool {
    let named = |patterns: Option<&OneOrMany<Pattern>>| {
        patterns.is_some_and(|patterns| patterns.as_slice().iter().any(Pattern::names_nodes))
    };
    probe.nodes.unwrap_or_else(|| named(probe.from.as_ref()) || named(probe.to.as_ref()))
}

/// The ports that nodes serve for a probe.
pub(super) fn node_ports(probe: &ProbeSpec) -> Vec<Port> {
    let patterns = probe.ports.as_ref().map(OneOrMany::as_slice).unwrap_or_default();
    patterns.iter().filter_map(|pattern| pattern.exact()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Member, own_rows, rows, verdict};
    use crate::conformance::case::{Expect, IpFamily, ProbeSpec, Verdict};
    use crate::conformance::pattern::Endpoint;
    use crate::{PodKey, Port};

    fn pod(name: &str) -> Member {
        Member {
            endpoint: Endpoint::Pod(PodKey::new("x", name)),
            is_pod: true,
            ports: vec![Port::tcp(80), Port::tcp(81)],
            families: vec![IpFamily::Ipv4],
            backends: BTreeSet::new(),
        }
    }

    fn host(name: &str) -> Member {
        Member { is_pod: false, ..pod(name) }
    }

    fn probe(yaml: &str) -> ProbeSpec {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn rows_are_ordered_pairs_with_at_least_one_pod_over_the_destinations_ports() {
        let members = [pod("a"), pod("b"), host("h"), host("i")];
        let count = |text: &str| rows(&members, &probe(text), &[IpFamily::Ipv4]).len();
        assert_eq!(count("{}"), 2 * (12 - 2));
        assert_eq!(count("{ports: [80]}"), 10);
        assert_eq!(count("{from: x/a, to: [x/b, x/h]}"), 4);
        assert_eq!(rows(&members, &probe("{}"), &[IpFamily::Ipv6]).len(), 0);
        assert_eq!(own_rows(&members, &probe("{}"), &[IpFamily::Ipv4]).len(), 4);
    }

    #[test]
    fn a_service_asks_nobody_and_is_asked_by_pods_that_are_not_behind_it() {
        let service = Member {
            endpoint: Endpoint::Service(PodKey::new("x", "web")),
            is_pod: false,
            ports: vec![Port::tcp(8080)],
            backends: [PodKey::new("x", "b")].into(),
            ..pod("web")
        };
        let external = Member { endpoint: Endpoint::External("e".into()), ..host("e") };
        let members = [pod("a"), pod("b"), external, service];
        let rows = rows(&members, &probe("{to: 'service:*'}"), &[IpFamily::Ipv4]);
        let asking: Vec<String> =
            rows.iter().map(|row| format!("{} {}", row.from, row.port.number)).collect();
        assert_eq!(asking, ["x/a 8080"]);
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let expect: Expect = serde_saphyr::from_str(
            "{default: allow, rules: [{deny: {to: x/a}}, {allow: {from: x/b, to: x/a, ports: [80/TCP]}}, {any: {to: x/b, family: ipv6}}]}",
        )
        .unwrap();
        let members = [pod("a"), pod("b"), pod("c")];
        let verdicts: Vec<(String, Verdict)> = rows(&members, &ProbeSpec::default(), &[IpFamily::Ipv4])
            .iter()
            .map(|row| (format!("{}-{}:{}", row.from, row.to, row.port.number), verdict(&expect, row)))
            .collect();
        let of = |text: &str| verdicts.iter().find(|(row, _)| row == text).map(|(_, verdict)| *verdict);
        assert_eq!(of("x/b-x/a:80"), Some(Verdict::Allow));
        assert_eq!(of("x/b-x/a:81"), Some(Verdict::Deny));
        assert_eq!(of("x/c-x/a:80"), Some(Verdict::Deny));
        assert_eq!(of("x/a-x/b:80"), Some(Verdict::Allow));
    }
}
