//! The rules of a policy in terms.

use std::collections::BTreeSet;

use super::{
    named_ports::{Named, NamedPorts},
    output::Way,
    terms::{TermId, Terms},
};
use crate::{
    Action, ClusterPolicy, Enforcement, Peers, Policy, PolicyRef, Port, PortRange, PortSet, Ports, Tier,
    term::{ResolvedPort, Term},
};

/// A policy that selects pods of this node.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) place: Place,
    pub(super) enforcement: Enforcement,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
    /// Names of ports of which the numbers anywhere count.
    pub(super) egress_names: BTreeSet<Named>,
}

/// Where a policy stands in the order of decisions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Admin { priority: u16, name: String },
    Network(PolicyRef),
    Baseline { priority: u16, name: String },
}

/// Traffic, and what becomes of it.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// The far ends; `None`: everybody.
    pub(super) terms: Option<Vec<TermId>>,
    pub(super) ports: PortSet,
    /// Names of ports that mean what the pod itself calls so.
    pub(super) own_names: Vec<Named>,
    pub(super) action: Action,
}

impl Rules {
    /// The rules of a NetworkPolicy; its terms are in use from now on.
    pub(super) fn of_network(policy: &Policy, named: &NamedPorts, terms: &mut Terms) -> Self {
        let mut reader = Reader { named, terms, egress_names: BTreeSet::new() };
        let mut read = |way: Way, rules: &Option<Vec<crate::Rule>>| {
            let rules = rules.as_ref()?.iter();
            Some(rules.flat_map(|rule| reader.read(way, &rule.peers, &rule.ports, Action::Accept)).collect())
        };
        Self {
            place: Place::Network(policy.name.clone()),
            enforcement: policy.enforcement,
            ingress: read(Way::Ingress, &policy.ingress),
            egress: read(Way::Egress, &policy.egress),
            egress_names: reader.egress_names,
        }
    }

    /// The rules of a ClusterNetworkPolicy, likewise.
    pub(super) fn of_cluster(policy: &ClusterPolicy, named: &NamedPorts, terms: &mut Terms) -> Self {
        let mut reader = Reader { named, terms, egress_names: BTreeSet::new() };
        let mut read = |way: Way, rules: &[crate::ClusterRule]| {
            let rules: Vec<Rule> = rules
                .iter()
                .flat_map(|rule| reader.read(way, &rule.peers, &rule.ports, rule.action))
                .collect();
            (!rules.is_empty()).then_some(rules)
        };
        let (priority, name) = (policy.priority, policy.name.clone());
        Self {
            place: match policy.tier {
                Tier::Admin => Place::Admin { priority, name },
                Tier::Baseline => Place::Baseline { priority, name },
            },
            enforcement: policy.enforcement,
            ingress: read(Way::Ingress, &policy.ingress),
            egress: read(Way::Egress, &policy.egress),
            egress_names: reader.egress_names,
        }
    }

    /// The rules of one direction; `None` when the policy is not about it.
    pub(super) fn way(&self, way: Way) -> Option<&Vec<Rule>> {
        match way {
            Way::Ingress => self.ingress.as_ref(),
            Way::Egress => self.egress.as_ref(),
        }
    }

    /// Its terms are no longer in use.
    pub(super) fn release(self, terms: &mut Terms) {
        for rule in [self.ingress, self.egress].into_iter().flatten().flatten() {
            for id in rule.terms.into_iter().flatten() {
                terms.release(id);
            }
        }
    }

    /// Names of ports that mean what the pod itself calls so.
    pub(super) fn own_names(&self) -> impl Iterator<Item = &Named> {
        self.ingress.iter().flatten().flat_map(|rule| &rule.own_names)
    }
}

struct Reader<'a> {
    named: &'a NamedPorts,
    terms: &'a mut Terms,
    egress_names: BTreeSet<Named>,
}

impl Reader<'_> {
    /// One rule as those that it is, in one place of the order: a named port of an egress rule means another number at
    /// each destination.
    fn read(&mut self, way: Way, peers: &Peers, ports: &Ports, action: Action) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut numbers = PortSet::nothing();
        let mut own_names = Vec::new();
        match ports {
            Ports::Any => numbers = PortSet::everything(),
            Ports::Of(ports) => {
                for port in ports {
                    match port {
                        Port::Numbered(protocol, range) => numbers.insert(*protocol, *range),
                        Port::Named(protocol, name) if way == Way::Ingress => {
                            own_names.push((name.clone(), *protocol));
                        }
                        Port::Named(protocol, name) => {
                            let named = (name.clone(), *protocol);
                            rules.extend(self.resolve(&named, peers, action));
                            self.egress_names.insert(named);
                        }
                    }
                }
            }
        }
        if !numbers.is_nothing() || !own_names.is_empty() {
            let terms = match peers {
                Peers::Any => None,
                Peers::Of(_) => Some(self.acquire(peers, None)),
            };
            rules.push(Rule { terms, ports: numbers, own_names, action });
        }
        rules
    }

    /// Each number that a name has, with the terms of the destinations where it has it.
    fn resolve(&mut self, named: &Named, peers: &Peers, action: Action) -> Vec<Rule> {
        let (name, protocol) = named;
        let numbers: Vec<u16> = self.named.numbers(named).collect();
        numbers
            .into_iter()
            .map(|number| {
                let port = ResolvedPort { name: name.clone(), protocol: *protocol, number };
                let mut ports = PortSet::nothing();
                ports.insert(*protocol, PortRange::single(number));
                let terms = Some(self.acquire(peers, Some(&port)));
                Rule { terms, ports, own_names: Vec::new(), action }
            })
            .collect()
    }

    fn acquire(&mut self, peers: &Peers, port: Option<&ResolvedPort>) -> Vec<TermId> {
        Term::of_peers(peers, port).into_iter().map(|term| self.terms.acquire(term)).collect()
    }
}
