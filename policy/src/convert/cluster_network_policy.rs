//! The API's ClusterNetworkPolicy to the checked one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Problem, Reader};
use crate::{
    Action, Block, ClusterPolicy, ClusterRule, NamespaceChoice, Peer, Peers, PolicyId, Port, PortRange,
    Ports, Protocol, Selector, Subject, Tier,
    v1alpha2::{self, ClusterNetworkPolicy, DestinationPort, EgressPeer, Entry, IngressPeer, ProtocolMatch},
};

/// The highest priority, which comes last.
const LAST: u16 = 1000;

/// Reads a policy of the cluster. What cannot be read fails closed, and is reported:
/// - A peer (of an unknown kind, a wrong network or selector, `domainNames`): of an Accept rule it matches nothing; a
///   Deny rule denies everybody on its ports; a Pass rule becomes such a Deny rule.
/// - An entry of `protocols`: of an Accept rule it matches nothing; a Deny rule denies its peers on all ports; a Pass
///   rule becomes such a Deny rule.
/// - An unknown action is Deny.
/// - A priority that is missing or out of range is the nearest one, the last if it is missing.
///
/// `None` when it cannot be told which pods it is about, or in which tier: nothing of it applies then. To close all pods
/// for it would let one wrong letter in a selector take a cluster down.
pub fn convert_cluster(policy: &ClusterNetworkPolicy) -> (Option<ClusterPolicy>, Vec<Problem>) {
    let name = policy.metadata.name.clone().unwrap_or_default();
    let mut reader = Reader::new(PolicyId::Cluster(name.clone()));
    let read = reader.cluster_policy(policy, name);
    (read, reader.problems)
}

/// What could be read of a list.
struct Listed<T> {
    read: Vec<T>,
    /// The places of the problems about what could not.
    problems: Vec<usize>,
}

impl<T> Listed<T> {
    /// Reads a list: an entry that cannot be read gives `None`, and one problem.
    fn of<E>(
        reader: &mut Reader,
        field: &str,
        entries: &[Entry<E>],
        mut read: impl FnMut(&mut Reader, &str, &E) -> Option<Vec<T>>,
    ) -> Self {
        let mut listed = Self { read: Vec::new(), problems: Vec::new() };
        for (index, entry) in entries.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let place = reader.problems.len();
            let found = match entry {
                Entry::Read(entry) => read(reader, &field, entry),
                Entry::Unreadable(reason) => {
                    reader.problem(field, format!("is of no form that is known: {reason}"));
                    None
                }
            };
            match found {
                Some(found) => listed.read.extend(found),
                None => listed.problems.push(place),
            }
        }
        listed
    }

    fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Reader {
    fn cluster_policy(&mut self, policy: &ClusterNetworkPolicy, name: String) -> Option<ClusterPolicy> {
        let spec = &policy.spec;
        let tier = match spec.tier.as_deref() {
            Some("Admin") => Tier::Admin,
            Some("Baseline") => Tier::Baseline,
            other => {
                let found = other.map_or_else(
                    || "is missing".to_owned(),
                    |tier| format!("`{tier}` is not one of Admin, Baseline"),
                );
                self.problem("spec.tier", format!("{found}; the policy is passed over"));
                return None;
            }
        };
        let subject = self.subject(spec.subject.as_ref())?;
        let priority = self.priority(spec.priority);
        let ingress = spec.ingress.iter().flatten().enumerate().map(|(index, rule)| {
            let field = format!("spec.ingress[{index}]");
            let peers = rule.from.as_deref().unwrap_or_default();
            let peers = Listed::of(self, &format!("{field}.from"), peers, Self::ingress_peer);
            self.rule(&field, (rule.name.as_ref(), rule.action.as_deref()), peers, rule.protocols.as_deref())
        });
        let ingress = ingress.collect();
        let egress = spec.egress.iter().flatten().enumerate().map(|(index, rule)| {
            let field = format!("spec.egress[{index}]");
            let peers = rule.to.as_deref().unwrap_or_default();
            let peers = Listed::of(self, &format!("{field}.to"), peers, Self::egress_peer);
            self.rule(&field, (rule.name.as_ref(), rule.action.as_deref()), peers, rule.protocols.as_deref())
        });
        let egress = egress.collect();
        let enforcement = self.enforcement(&policy.metadata);
        Some(ClusterPolicy { name, tier, priority, subject, ingress, egress, enforcement })
    }

    fn priority(&mut self, said: Option<i64>) -> u16 {
        let Some(said) = said else {
            self.problem("spec.priority", format!("is missing; {LAST} is taken"));
            return LAST;
        };
        let within = said.clamp(0, i64::from(LAST));
        if within != said {
            self.problem("spec.priority", format!("{said} is not from 0 to {LAST}; {within} is taken"));
        }
        u16::try_from(within).unwrap_or(LAST)
    }

    fn subject(&mut self, subject: Option<&Entry<v1alpha2::Subject>>) -> Option<Subject> {
        let read = match subject {
            Some(Entry::Read(v1alpha2::Subject { namespaces: Some(namespaces), pods: None })) => {
                let namespaces = self.selector("spec.subject.namespaces", namespaces);
                namespaces.map(|namespaces| Subject { namespaces, pods: Selector::default() })
            }
            Some(Entry::Read(v1alpha2::Subject { namespaces: None, pods: Some(pods) })) => {
                let pods = self.namespaced("spec.subject.pods", pods);
                pods.map(|(namespaces, pods)| Subject { namespaces, pods })
            }
            Some(Entry::Read(_)) => {
                self.problem("spec.subject", "must have exactly one of namespaces, pods");
                None
            }
            Some(Entry::Unreadable(reason)) => {
                self.problem("spec.subject", format!("is of no form that is known: {reason}"));
                None
            }
            None => {
                self.problem("spec.subject", "is missing");
                None
            }
        };
        if read.is_none()
            && let Some(problem) = self.problems.last_mut()
        {
            problem.reason.push_str("; the policy is passed over");
        }
        read
    }

    fn rule(
        &mut self,
        field: &str,
        (name, action): (Option<&String>, Option<&str>),
        mut peers: Listed<Peer>,
        protocols: Option<&[Entry<ProtocolMatch>]>,
    ) -> ClusterRule {
        let said = match action {
            Some("Accept") => Action::Accept,
            Some("Deny") => Action::Deny,
            Some("Pass") => Action::Pass,
            other => {
                let other = other.unwrap_or_default();
                let reason = format!("`{other}` is not one of Accept, Deny, Pass; Deny is taken");
                self.problem(format!("{field}.action"), reason);
                Action::Deny
            }
        };
        if peers.is_whole() && peers.read.is_empty() {
            peers.problems.push(self.problems.len());
            self.problem(field, "names no peer");
        }
        let ports = match protocols {
            // To the API server a list of nothing is none.
            None | Some([]) => None,
            Some(protocols) => {
                Some(Listed::of(self, &format!("{field}.protocols"), protocols, Self::protocol))
            }
        };
        let unread_ports = ports.as_ref().map_or(&[] as &[usize], |ports| &ports.problems);
        let action = match said {
            Action::Pass if !peers.is_whole() || !unread_ports.is_empty() => Action::Deny,
            said => said,
        };
        for (problems, all) in [(peers.problems.as_slice(), "everybody"), (unread_ports, "on all ports")] {
            let outcome = match said {
                Action::Accept => "; it matches nothing".to_owned(),
                Action::Deny => format!("; the rule denies {all}"),
                Action::Pass => format!("; the rule denies {all} in place of passing"),
            };
            for place in problems {
                if let Some(problem) = self.problems.get_mut(*place) {
                    problem.reason.push_str(&outcome);
                }
            }
        }
        let closes = |is_whole: bool| action == Action::Deny && !is_whole;
        let peers = if closes(peers.is_whole()) { Peers::Any } else { Peers::Of(peers.read) };
        let ports = match ports {
            Some(ports) if !closes(ports.is_whole()) => Ports::Of(ports.read),
            _ => Ports::Any,
        };
        ClusterRule { name: name.cloned().unwrap_or_default(), action, peers, ports }
    }

    fn ingress_peer(&mut self, field: &str, peer: &IngressPeer) -> Option<Vec<Peer>> {
        match peer {
            IngressPeer { namespaces: Some(namespaces), pods: None } => self.all_pods(field, namespaces),
            IngressPeer { namespaces: None, pods: Some(pods) } => self.some_pods(field, pods),
            _ => {
                self.problem(field, "must have exactly one of namespaces, pods");
                None
            }
        }
    }

    fn egress_peer(&mut self, field: &str, peer: &EgressPeer) -> Option<Vec<Peer>> {
        let EgressPeer { namespaces, pods, nodes, networks, domain_names } = peer;
        match (namespaces, pods, nodes, networks, domain_names) {
            (Some(namespaces), None, None, None, None) => self.all_pods(field, namespaces),
            (None, Some(pods), None, None, None) => self.some_pods(field, pods),
            (None, None, Some(nodes), None, None) => {
                Some(vec![Peer::Nodes(self.selector(&format!("{field}.nodes"), nodes)?)])
            }
            (None, None, None, Some(networks), None) => {
                let mut blocks = Vec::new();
                for (index, text) in networks.iter().enumerate() {
                    let cidr = self.network(&format!("{field}.networks[{index}]"), text)?;
                    blocks.push(Peer::Block(Block { cidr, except: Vec::new() }));
                }
                Some(blocks)
            }
            (None, None, None, None, Some(_)) => {
                self.problem(format!("{field}.domainNames"), "are not supported");
                None
            }
            _ => {
                self.problem(
                    field,
                    "must have exactly one of namespaces, pods, nodes, networks, domainNames",
                );
                None
            }
        }
    }

    fn all_pods(&mut self, field: &str, namespaces: &LabelSelector) -> Option<Vec<Peer>> {
        let namespaces = self.selector(&format!("{field}.namespaces"), namespaces)?;
        let namespaces = NamespaceChoice::Selected(namespaces);
        Some(vec![Peer::Pods { namespaces, pods: Selector::default() }])
    }

    fn some_pods(&mut self, field: &str, pods: &v1alpha2::NamespacedPod) -> Option<Vec<Peer>> {
        let (namespaces, pods) = self.namespaced(&format!("{field}.pods"), pods)?;
        Some(vec![Peer::Pods { namespaces: NamespaceChoice::Selected(namespaces), pods }])
    }

    fn namespaced(&mut self, field: &str, pods: &v1alpha2::NamespacedPod) -> Option<(Selector, Selector)> {
        let namespaces = self.selector(&format!("{field}.namespaceSelector"), &pods.namespace_selector)?;
        let pods = self.selector(&format!("{field}.podSelector"), &pods.pod_selector)?;
        Some((namespaces, pods))
    }

    fn protocol(&mut self, field: &str, entry: &ProtocolMatch) -> Option<Vec<Port>> {
        let ProtocolMatch { tcp, udp, sctp, destination_named_port } = entry;
        let (protocol, name, port) = match (tcp, udp, sctp, destination_named_port) {
            (Some(port), None, None, None) => (Protocol::Tcp, "tcp", port),
            (None, Some(port), None, None) => (Protocol::Udp, "udp", port),
            (None, None, Some(port), None) => (Protocol::Sctp, "sctp", port),
            (None, None, None, Some(name)) if !name.is_empty() => {
                // Of whichever protocol the destination pod gives it.
                return Some(Protocol::ALL.map(|protocol| Port::Named(protocol, name.clone())).into());
            }
            _ => {
                self.problem(field, "must have exactly one of tcp, udp, sctp, destinationNamedPort");
                return None;
            }
        };
        let field = format!("{field}.{name}.destinationPort");
        let Some(port) = &port.destination_port else {
            // The API server lets nothing else through, so that there was something that it dropped.
            self.problem(field, "is missing");
            return None;
        };
        let (first, last) = match port {
            DestinationPort { number: Some(number), range: None } => (*number, *number),
            DestinationPort { number: None, range: Some(range) } => (range.start, range.end),
            _ => {
                self.problem(field, "must have exactly one of number, range");
                return None;
            }
        };
        let number = |number: i64| u16::try_from(number).ok().filter(|number| *number > 0);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                Some(vec![Port::Numbered(protocol, PortRange { first, last })])
            }
            _ => {
                self.problem(field, format!("{first} to {last} is no range of ports from 1 to 65535"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::convert_cluster;
    use crate::{Action, ClusterPolicy, ClusterRule, Enforcement, Peer, Peers, Ports, Tier};

    fn read(policy: &str) -> (Option<ClusterPolicy>, Vec<String>) {
        let (policy, problems) = convert_cluster(&serde_saphyr::from_str(policy).unwrap());
        (policy, problems.iter().map(ToString::to_string).collect())
    }

    fn rules(field: &str, rules: &str) -> (Vec<ClusterRule>, Vec<String>) {
        let (policy, problems) = read(&format!(
            "{{metadata: {{name: p}}, spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {field}: [{rules}]}}}}"
        ));
        let policy = policy.unwrap();
        (if field == "egress" { policy.egress } else { policy.ingress }, problems)
    }

    #[test]
    fn every_kind_of_peer_and_port_is_read() {
        let (rules, problems) = rules(
            "egress",
            "{name: n, action: Accept, to: [{namespaces: {matchLabels: {a: b}}}, {pods: {namespaceSelector: {}, podSelector: {}}},\
              {nodes: {}}, {networks: [192.0.2.7/24, '2001:db8::/32']}],\
              protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {sctp: {destinationPort: {number: 7}}}, {destinationNamedPort: web}]}",
        );
        assert_eq!(problems, [""; 0]);
        let [ClusterRule { name, action: Action::Accept, peers: Peers::Of(peers), ports: Ports::Of(ports) }] =
            rules.as_slice()
        else {
            panic!("{rules:?}")
        };
        assert_eq!((name.as_str(), peers.len(), ports.len()), ("n", 5, 6));
        assert!(matches!(&peers[3], Peer::Block(block) if block.cidr.to_string() == "192.0.2.0/24"));
    }

    #[test]
    fn what_cannot_be_read_of_peers_matches_nothing_if_accepted_and_everybody_if_not() {
        for (field, peer, problem) in [
            (
                "from",
                "{future: {}}",
                "[0]: is of no form that is known: unknown field `future`, expected `namespaces` or `pods`",
            ),
            (
                "from",
                "{networks: [192.0.2.0/24]}",
                "[0]: is of no form that is known: unknown field `networks`, expected `namespaces` or `pods`",
            ),
            ("from", "{}", "[0]: must have exactly one of namespaces, pods"),
            ("to", "{}", "[0]: must have exactly one of namespaces, pods, nodes, networks, domainNames"),
            (
                "to",
                "{nodes: {}, namespaces: {}}",
                "[0]: must have exactly one of namespaces, pods, nodes, networks, domainNames",
            ),
            (
                "to",
                "{networks: [192.0.2.0]}",
                "[0].networks[0]: `192.0.2.0` is not a network such as 192.0.2.0/24",
            ),
            ("to", "{domainNames: [example.org]}", "[0].domainNames: are not supported"),
            (
                "to",
                "{namespaces: {matchExpressions: [{key: a, operator: Like}]}}",
                "[0].namespaces.matchExpressions[0].operator: `Like` is not one of In, NotIn, Exists, DoesNotExist",
            ),
        ] {
            let direction = if field == "to" { "egress" } else { "ingress" };
            for (action, outcome, becomes, peers) in [
                ("Accept", "it matches nothing", Action::Accept, 1),
                ("Deny", "the rule denies everybody", Action::Deny, 0),
                ("Pass", "the rule denies everybody in place of passing", Action::Deny, 0),
            ] {
                let (rules, problems) = rules(
                    direction,
                    &format!(
                        "{{action: {action}, {field}: [{peer}, {{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}}]}}"
                    ),
                );
                let expected =
                    format!("ClusterNetworkPolicy p: spec.{direction}[0].{field}{problem}; {outcome}");
                assert_eq!(problems, [expected]);
                let [rule] = rules.as_slice() else { panic!("{rules:?}") };
                assert_eq!(rule.action, becomes);
                // What can be read stands.
                match &rule.peers {
                    Peers::Of(found) => assert_eq!(found.len(), peers),
                    Peers::Any => assert_eq!(action_of(rule), "Deny"),
                }
                assert!(matches!(&rule.ports, Ports::Of(ports) if ports.len() == 1));
            }
        }
    }

    fn action_of(rule: &ClusterRule) -> String {
        format!("{:?}", rule.action)
    }

    #[test]
    fn what_cannot_be_read_of_protocols_matches_nothing_if_accepted_and_all_ports_if_not() {
        for (entry, problem) in [
            ("{tcp: {}}", "tcp.destinationPort: is missing"),
            (
                "{tcp: {destinationPort: {number: 0}}}",
                "tcp.destinationPort: 0 to 0 is no range of ports from 1 to 65535",
            ),
            (
                "{udp: {destinationPort: {range: {start: 9, end: 1}}}}",
                "udp.destinationPort: 9 to 1 is no range of ports from 1 to 65535",
            ),
            ("{udp: {destinationPort: {}}}", "udp.destinationPort: must have exactly one of number, range"),
        ] {
            for (action, outcome) in [
                ("Accept", "it matches nothing"),
                ("Deny", "the rule denies on all ports"),
                ("Pass", "the rule denies on all ports in place of passing"),
            ] {
                let (rules, problems) = rules(
                    "ingress",
                    &format!("{{action: {action}, from: [{{namespaces: {{}}}}], protocols: [{entry}]}}"),
                );
                assert_eq!(
                    problems,
                    [format!("ClusterNetworkPolicy p: spec.ingress[0].protocols[0].{problem}; {outcome}")]
                );
                let ports = if action == "Accept" { Ports::Of(vec![]) } else { Ports::Any };
                assert_eq!(rules[0].ports, ports);
                assert!(matches!(&rules[0].peers, Peers::Of(peers) if peers.len() == 1));
            }
        }
    }

    #[test]
    fn a_rule_without_a_peer_or_with_an_unknown_action_closes() {
        for (rule, action, peers, problem) in [
            (
                "{action: Accept}",
                Action::Accept,
                Peers::Of(vec![]),
                "spec.egress[0]: names no peer; it matches nothing",
            ),
            (
                "{action: Pass, to: []}",
                Action::Deny,
                Peers::Any,
                "spec.egress[0]: names no peer; the rule denies everybody in place of passing",
            ),
            (
                "{action: Log, to: [{networks: [192.0.2.0/24]}]}",
                Action::Deny,
                Peers::Any,
                "spec.egress[0].action: `Log` is not one of Accept, Deny, Pass; Deny is taken",
            ),
        ] {
            let (rules, problems) = rules("egress", rule);
            assert_eq!(problems, [format!("ClusterNetworkPolicy p: {problem}")]);
            assert_eq!(rules[0].action, action);
            if !matches!(rules[0].peers, Peers::Of(ref found) if !found.is_empty()) {
                assert_eq!(rules[0].peers, peers);
            }
        }
    }

    #[test]
    fn a_policy_of_no_known_tier_or_subject_is_passed_over_and_a_priority_out_of_range_is_the_nearest() {
        for (spec, problem) in [
            ("{priority: 1, subject: {namespaces: {}}}", "spec.tier: is missing"),
            (
                "{tier: Middle, priority: 1, subject: {namespaces: {}}}",
                "spec.tier: `Middle` is not one of Admin, Baseline",
            ),
            ("{tier: Admin, priority: 1}", "spec.subject: is missing"),
            (
                "{tier: Admin, priority: 1, subject: {}}",
                "spec.subject: must have exactly one of namespaces, pods",
            ),
            (
                "{tier: Admin, priority: 1, subject: {future: {}}}",
                "spec.subject: is of no form that is known: unknown field `future`, expected `namespaces` or `pods`",
            ),
            (
                "{tier: Admin, priority: 1, subject: {namespaces: {matchExpressions: [{key: a, operator: In}]}}}",
                "spec.subject.namespaces.matchExpressions[0].values: In needs at least one value",
            ),
        ] {
            let (policy, problems) = read(&format!("{{metadata: {{name: p}}, spec: {spec}}}"));
            assert!(policy.is_none());
            assert_eq!(problems, [format!("ClusterNetworkPolicy p: {problem}; the policy is passed over")]);
        }
        for (said, priority, count) in
            [("0", 0, 0), ("1000", 1000, 0), ("1001", 1000, 1), ("-1", 0, 1), ("null", 1000, 1)]
        {
            let (policy, problems) = read(&format!(
                "{{metadata: {{name: p}}, spec: {{tier: Baseline, priority: {said}, subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{}}}}}}}}}}"
            ));
            let policy = policy.unwrap();
            assert_eq!((policy.tier, policy.priority, problems.len()), (Tier::Baseline, priority, count));
        }
    }

    #[test]
    fn the_annotation_says_whether_it_is_enforced() {
        for (annotation, enforcement, count) in [
            ("{}", Enforcement::Enforce, 0),
            ("{margay.dev/enforcement: enforce}", Enforcement::Enforce, 0),
            ("{margay.dev/enforcement: audit}", Enforcement::Audit, 0),
            ("{margay.dev/enforcement: Audit}", Enforcement::Enforce, 1),
        ] {
            let meta = format!("{{name: p, namespace: x, annotations: {annotation}}}");
            let (policy, problems) = read(&format!(
                "{{metadata: {meta}, spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}}}}}"
            ));
            assert_eq!((policy.unwrap().enforcement, problems.len()), (enforcement, count), "{annotation}");
            let policy =
                serde_saphyr::from_str(&format!("{{metadata: {meta}, spec: {{podSelector: {{}}}}}}"));
            let (policy, problems) = crate::convert(&policy.unwrap());
            assert_eq!((policy.unwrap().enforcement, problems.len()), (enforcement, count), "{annotation}");
        }
    }
}
