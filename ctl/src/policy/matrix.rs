//! `margayctl policy matrix`: who may reach whom.
//!
//! Pods are grouped twice. Those that policy cannot tell apart (same namespace, labels, ports and blocks) are judged
//! once; groups with the same verdicts everywhere are then printed as one.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::Arc,
};

use anyhow::bail;
use clap::Args;
use margay_policy::{Block, Objects, Peer, Peers, Pod, PodName, Port, Ports, Protocol};
use serde::Serialize;
use serde_json::json;

use super::{
    Answer, From,
    judge::{Pair, Way, addresses},
    party::{Party, PortChoice, ResolvedPort},
    source::{Facts, Source},
    warn,
};
use crate::output::Output;

/// How many names stand for a group before the rest is counted.
const NAMES: usize = 3;
/// How wide the names of columns may be together before numbers take their place.
const MAX_WIDTH: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Whose pods; can be repeated.
    #[arg(short, long, value_name = "NAMESPACE", required_unless_present = "all_namespaces")]
    namespace: Vec<String>,
    /// All namespaces that have pods.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The destination port: 80, 80/tcp, 53/udp or the name of a port. Without it `+` means every port that a policy
    /// tells from others, and `~` some of them.
    #[arg(long, value_name = "PORT")]
    port: Option<PortChoice>,
    #[command(flatten)]
    objects: From,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> anyhow::Result<Answer> {
    let source = arguments.objects.load()?;
    warn(&source);
    let wanted = |name: &PodName| {
        arguments.all_namespaces || arguments.namespace.iter().any(|namespace| **namespace == *name.namespace)
    };
    for namespace in &arguments.namespace {
        if !source.objects.pods.keys().any(|name| *name.namespace == **namespace) {
            let mut known: Vec<&str> = source.objects.pods.keys().map(|name| &*name.namespace).collect();
            known.dedup();
            let known = if known.is_empty() { "none has any".to_owned() } else { known.join(", ") };
            bail!("no pod is in namespace `{namespace}`; namespaces with pods: {known}");
        }
    }
    let pods: Vec<&Pod> =
        source.objects.pods.values().map(AsRef::as_ref).filter(|pod| wanted(&pod.name)).collect();
    let (living, finished): (Vec<&Pod>, Vec<&Pod>) = pods.into_iter().partition(|pod| !pod.finished);
    let matrix = Matrix::new(&source, &living, arguments.port.as_ref())?;
    let audited: Vec<String> = source.audited().map(|name| name.to_string()).collect();
    let mut json = matrix.json(&finished);
    json["audit"] = audited.iter().cloned().collect();
    let text = output.structured(&json).unwrap_or_else(|| {
        let one = arguments.namespace.len() == 1;
        let mut text = matrix.text(one, arguments.port.is_some(), &finished);
        if !audited.is_empty() {
            text.extend(["in audit, not enforced: ", &audited.join(", "), "\n"]);
        }
        text
    });
    Ok(Answer { text, status: ExitCode::SUCCESS })
}

/// Whether a connection may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Cell {
    /// To all ports in question.
    Allowed,
    /// To some of them.
    Some,
    /// To none or to all, and that may change with an address that is not known.
    Uncertain,
    /// To none.
    Denied,
    /// There is one pod, and it is itself; or the port has a name that the destination does not have.
    None,
}

impl Cell {
    fn sign(self) -> char {
        match self {
            Self::Allowed => '+',
            Self::Some => '~',
            Self::Uncertain => '?',
            Self::Denied => '-',
            Self::None => '.',
        }
    }

    /// Whether two groups may be one as far as this cell goes; a group of one says nothing about itself.
    fn agrees(self, other: Self) -> bool {
        self == other || self == Self::None || other == Self::None
    }
}

/// Pods with the same verdicts.
#[derive(Debug)]
struct Group<'a> {
    pods: Vec<(&'a Pod, &'a Facts)>,
}

/// Groups, and for each source (row) and destination (column) a cell.
struct Matrix<'a> {
    groups: Vec<Group<'a>>,
    cells: Vec<Vec<Cell>>,
}

impl<'a> Matrix<'a> {
    fn new(source: &'a Source, pods: &[&'a Pod], port: Option<&PortChoice>) -> anyhow::Result<Self> {
        let blocks: BTreeSet<&Block> = blocks(&source.objects).collect();
        let nodes_matter = pods.iter().any(|pod| pod.host_network);
        let mut alike: BTreeMap<Likeness<'a>, Group<'a>> = BTreeMap::new();
        for pod in pods {
            let Some(facts) = source.facts.get(&pod.name) else { continue };
            let group = alike
                .entry(Likeness::of(source, (pod, facts), &blocks, nodes_matter))
                .or_insert_with(|| Group { pods: Vec::new() });
            group.pods.push((pod, facts));
        }
        let mut groups: Vec<Group<'a>> = alike.into_values().collect();
        groups.sort_by(|a, b| a.pods[0].0.name.cmp(&b.pods[0].0.name));
        let mut cells = Vec::new();
        for from in &groups {
            let mut row = Vec::new();
            for to in &groups {
                row.push(cell(source, from, to, port)?);
            }
            cells.push(row);
        }
        Ok(Self { groups, cells }.merged())
    }

    /// Groups that no cell tells apart become one.
    fn merged(self) -> Self {
        let mut kept: Vec<Vec<usize>> = Vec::new();
        let count = self.groups.len();
        for index in 0..count {
            let twins = |other: usize| {
                let elsewhere = (0..count).filter(|far| *far != index && *far != other);
                let namespace = |group: &Group<'_>| Arc::clone(&group.pods[0].0.name.namespace);
                let inner = [
                    self.cells[index][other],
                    self.cells[other][index],
                    self.cells[index][index],
                    self.cells[other][other],
                ];
                // A cell of no port stands for itself between two groups, and for "itself" only within one.
                inner[0] == inner[1]
                    && inner[0].agrees(inner[2])
                    && inner[0].agrees(inner[3])
                    && namespace(&self.groups[index]) == namespace(&self.groups[other])
                    && elsewhere.into_iter().all(|far| {
                        self.cells[index][far] == self.cells[other][far]
                            && self.cells[far][index] == self.cells[far][other]
                    })
            };
            match kept.iter_mut().find(|members| members.iter().all(|member| twins(*member))) {
                Some(members) => members.push(index),
                None => kept.push(vec![index]),
            }
        }
        let cell = |from: &[usize], to: &[usize]| match (from, to) {
            ([from, second, ..], _) if from == &to[0] => self.cells[*from][*second],
            _ => self.cells[from[0]][to[0]],
        };
        let cells = kept.iter().map(|from| kept.iter().map(|to| cell(from, to)).collect()).collect();
        let mut groups: Vec<Option<Group<'a>>> = self.groups.into_iter().map(Some).collect();
        let joined = kept.iter().map(|members| Group {
            pods: members
                .iter()
                .filter_map(|member| groups[*member].take())
                .flat_map(|group| group.pods)
                .collect(),
        });
        Self { groups: joined.collect(), cells }
    }

    fn text(&self, one_namespace: bool, one_port: bool, finished: &[&Pod]) -> String {
        let mut rows: Vec<String> = self.groups.iter().map(|group| group.name(one_namespace)).collect();
        let mut columns = rows.clone();
        let wide = |names: &[String]| names.iter().map(|name| name.chars().count() + 2).sum::<usize>();
        if wide(&columns) > MAX_WIDTH {
            columns = (1..=rows.len()).map(|number| number.to_string()).collect();
            rows = columns.iter().zip(&rows).map(|(number, name)| format!("{number} {name}")).collect();
        }
        let corner = "FROM \\ TO";
        let width = rows.iter().map(|name| name.chars().count()).chain([corner.len()]).max().unwrap_or(0);
        let mut lines = vec![format!("{corner:width$}  {}", columns.join("  "))];
        for (name, row) in rows.iter().zip(&self.cells) {
            let cells = row.iter().zip(&columns);
            let cells = cells.map(|(cell, column)| format!("{:1$}", cell.sign(), column.chars().count()));
            let line = format!("{name:width$}  {}", cells.collect::<Vec<_>>().join("  "));
            lines.push(line.trim_end().to_owned());
        }
        let seen = |cell| self.cells.iter().flatten().any(|other| *other == cell);
        let mut legend = vec!["+ allowed", "- denied"];
        if seen(Cell::Some) {
            legend.push("~ on some ports");
        }
        if seen(Cell::Uncertain) {
            legend.push("? by an address that is not known (--pod-cidr)");
        }
        if seen(Cell::None) {
            legend.push(if one_port { ". itself, or no port of that name" } else { ". itself" });
        }
        lines.push(format!("\n{}", legend.join("   ")));
        let host: Vec<String> =
            self.members().filter(|pod| pod.host_network).map(|pod| pod.name.to_string()).collect();
        if !host.is_empty() {
            lines.push(format!("in their node's network, which no policy selects: {}", host.join(", ")));
        }
        if !finished.is_empty() {
            let finished: Vec<String> = finished.iter().map(|pod| pod.name.to_string()).collect();
            lines.push(format!("left out, as they have finished: {}", finished.join(", ")));
        }
        lines.join("\n") + "\n"
    }

    fn members(&self) -> impl Iterator<Item = &Pod> {
        self.groups.iter().flat_map(|group| &group.pods).map(|(pod, _)| *pod)
    }

    fn json(&self, finished: &[&Pod]) -> serde_json::Value {
        let names = |group: &Group<'_>| -> Vec<String> {
            group.pods.iter().map(|(pod, _)| pod.name.to_string()).collect()
        };
        let finished: Vec<String> = finished.iter().map(|pod| pod.name.to_string()).collect();
        let host: Vec<String> =
            self.members().filter(|pod| pod.host_network).map(|pod| pod.name.to_string()).collect();
        json!({
            "groups": self.groups.iter().map(names).collect::<Vec<_>>(),
            "cells": self.cells,
            "host_network": host,
            "finished": finished,
        })
    }
}

impl Group<'_> {
    /// The workloads and lone pods in it.
    fn name(&self, one_namespace: bool) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (pod, facts) in &self.pods {
            let name = facts.workload.as_deref().unwrap_or(&pod.name.name);
            let name = if one_namespace { name.to_owned() } else { format!("{}/{name}", pod.name.namespace) };
            *counts.entry(name).or_default() += 1;
        }
        let counted = |(name, count): (&String, &usize)| match count {
            1 => name.clone(),
            count => format!("{name} ({count})"),
        };
        let more: usize = counts.values().skip(NAMES).sum();
        let mut names: Vec<String> = counts.iter().take(NAMES).map(counted).collect();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        names.join(", ")
    }
}

/// All by which policy can tell a pod from another.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Likeness<'a> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    ports: &'a [margay_policy::NamedPort],
    template: Option<&'a str>,
    host_network: bool,
    /// Its node, where pods of the matrix are in their node's network: they and the pods there are exempt.
    node: Option<&'a str>,
    addresses: Vec<Vec<bool>>,
}

impl<'a> Likeness<'a> {
    fn of(
        source: &Source,
        (pod, facts): (&'a Pod, &'a Facts),
        blocks: &BTreeSet<&Block>,
        nodes_matter: bool,
    ) -> Self {
        let families = addresses(source, Party::Pod(pod, facts)).into_iter().map(|address| {
            let within = blocks.iter().map(|block| block.contains(address));
            std::iter::once(address.is_ipv4()).chain(within).collect()
        });
        Self {
            namespace: &pod.name.namespace,
            labels: &pod.labels,
            ports: &pod.ports,
            template: facts.template.then_some(&*pod.name.name),
            host_network: pod.host_network,
            node: facts.node.as_deref().filter(|_| nodes_matter),
            addresses: families.collect(),
        }
    }
}

fn blocks(objects: &Objects) -> impl Iterator<Item = &Block> {
    let network = objects.policies.values();
    let network = network.flat_map(|policy| policy.ingress.iter().chain(&policy.egress).flatten());
    let cluster = objects.cluster_policies.values();
    let cluster = cluster.flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    let peers = network.map(|rule| &rule.peers).chain(cluster.map(|rule| &rule.peers));
    let peers = peers.flat_map(|peers| match peers {
        Peers::Any => &[] as &[Peer],
        Peers::Of(peers) => peers,
    });
    peers.filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods { .. } | Peer::Nodes(_) => None,
    })
}

fn cell(
    source: &Source,
    from: &Group<'_>,
    to: &Group<'_>,
    port: Option<&PortChoice>,
) -> anyhow::Result<Cell> {
    let (from_pod, from_facts) = from.pods[0];
    // Within a group: from the first to another, or among those of one template.
    let same = from_pod.name == to.pods[0].0.name;
    let (to_pod, to_facts) = match (same, to.pods.get(1)) {
        (true, Some(second)) => *second,
        (true, None) if !to.pods[0].1.template || to.pods[0].0.host_network => return Ok(Cell::None),
        _ => to.pods[0],
    };
    let (from, to) = (Party::Pod(from_pod, from_facts), Party::Pod(to_pod, to_facts));
    let ports = match port {
        Some(port) => match port.resolve(to) {
            Ok(port) => vec![port],
            Err(_no_such_port) => return Ok(Cell::None),
        },
        None => probes(source, from_pod, to_pod),
    };
    let pair = Pair::new(source, from, to)?;
    let (mut some, mut all, mut uncertain) = (false, true, false);
    for port in ports {
        let allowed = pair.views.iter().all(|view| view.allows(port));
        some |= allowed;
        all &= allowed;
        let doubtful = pair.views.iter().any(|view| view.uncertain(port));
        uncertain |= doubtful && pair.views.iter().all(|view| view.allows(port) || view.uncertain(port));
    }
    Ok(match (some, all) {
        (true, false) => Cell::Some,
        _ if uncertain => Cell::Uncertain,
        (_, true) => Cell::Allowed,
        (false, false) => Cell::Denied,
    })
}

/// A port out of each range that the policies of a pair tell from others.
fn probes(source: &Source, from: &Pod, to: &Pod) -> Vec<ResolvedPort> {
    let mut starts: BTreeSet<(Protocol, u16)> =
        Protocol::ALL.into_iter().map(|protocol| (protocol, 1)).collect();
    let mut range = |protocol, first: u16, last: u16| {
        starts.insert((protocol, first.max(1)));
        starts.extend(last.checked_add(1).map(|next| (protocol, next)));
    };
    for port in &to.ports {
        range(port.protocol, port.number, port.number);
    }
    for (way, pod) in [(Way::Egress, from), (Way::Ingress, to)] {
        let own =
            source.objects.policies.values().filter(|policy| *policy.name.namespace == *pod.name.namespace);
        let own = own.filter_map(|policy| way.rules(policy)).flatten().map(|rule| &rule.ports);
        let cluster =
            source.objects.cluster_policies.values().filter(|policy| source.is_subject(policy, pod));
        let cluster = cluster.flat_map(|policy| way.cluster_rules(policy)).map(|rule| &rule.ports);
        for ports in own.chain(cluster) {
            let Ports::Of(ports) = ports else { continue };
            for port in ports {
                if let Port::Numbered(protocol, ports) = port {
                    range(*protocol, ports.first, ports.last);
                }
            }
        }
    }
    starts.into_iter().map(|(protocol, number)| ResolvedPort { protocol, number }).collect()
}

#[cfg(test)]
mod tests {
    use super::Matrix;
    use crate::policy::source::Source;

    fn check(pods: &[&str], policies: &[&str], port: Option<&str>, expected: &str) {
        let mut source = Source::default();
        for pod in pods {
            source.add_pod(&serde_saphyr::from_str(pod).unwrap(), "");
        }
        for policy in policies {
            source.add_policy(&serde_saphyr::from_str(policy).unwrap(), "");
        }
        let source = source.complete();
        let pods: Vec<_> = source.objects.pods.values().map(AsRef::as_ref).collect();
        let port = port.map(|port| port.parse().unwrap());
        let text = Matrix::new(&source, &pods, port.as_ref()).unwrap().text(true, port.is_some(), &[]);
        assert_eq!(text.split("\n\n").next().unwrap(), expected.trim_end(), "{text}");
    }

    const WEB: [&str; 2] = [
        "{metadata: {namespace: x, name: web-0, labels: {app: web, nr: '0'}}}",
        "{metadata: {namespace: x, name: web-1, labels: {app: web, nr: '1'}}}",
    ];
    const DB: &str = "{metadata: {namespace: x, name: db, labels: {app: db}}, spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}}";
    const OPEN: &str = "{metadata: {namespace: x, name: db}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]}}";
    const DENY: &str = "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}";

    #[test]
    fn pods_with_the_same_verdicts_everywhere_are_one_row_even_if_their_labels_differ() {
        check(
            &[WEB[0], WEB[1], DB],
            &[OPEN, DENY],
            Some("5432"),
            "FROM \\ TO     db  web-0, web-1\ndb            .   -\nweb-0, web-1  +   -",
        );
        check(&[WEB[0], WEB[1], DB], &[], None, "FROM \\ TO         db, web-0, web-1\ndb, web-0, web-1  +");
    }

    #[test]
    fn without_a_port_some_ports_are_told_from_all_and_none() {
        check(&[WEB[0], DB], &[OPEN], None, "FROM \\ TO  db  web-0\ndb         .   +\nweb-0      ~   .");
    }

    #[test]
    fn a_denial_that_depends_on_an_unknown_address_is_marked() {
        let block = "{metadata: {namespace: x, name: p}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}";
        check(
            &[WEB[0], DB],
            &[block],
            Some("80"),
            "FROM \\ TO  db  web-0\ndb         .   +\nweb-0      ?   .",
        );
    }

    #[test]
    fn a_pod_in_its_nodes_network_reaches_the_pods_of_that_node_alone() {
        let pods = [
            "{metadata: {namespace: x, name: a}, spec: {nodeName: n1, containers: []}, status: {podIP: 10.0.0.1}}",
            "{metadata: {namespace: x, name: b}, spec: {nodeName: n2, containers: []}, status: {podIP: 10.0.0.2}}",
            "{metadata: {namespace: x, name: host}, spec: {nodeName: n1, hostNetwork: true, containers: []}, status: {podIP: 192.0.2.1}}",
        ];
        check(
            &pods,
            &[DENY],
            None,
            "FROM \\ TO  a  b  host\na          .  -  +\nb          -  .  +\nhost       +  -  .",
        );
    }

    #[test]
    fn a_pod_is_not_merged_with_one_that_reaches_others_but_not_it() {
        let third = "{metadata: {namespace: x, name: z, labels: {app: z}}}";
        let only_web = "{metadata: {namespace: x, name: p}, spec: {podSelector: {matchLabels: {app: z}}, ingress: [{from: [{podSelector: {matchLabels: {nr: '0'}}}]}]}}";
        check(
            &[WEB[0], WEB[1], third],
            &[only_web],
            Some("80"),
            "FROM \\ TO  web-0  web-1  z\nweb-0      .      +      +\nweb-1      +      .      -\nz          +      +      .",
        );
    }
}
