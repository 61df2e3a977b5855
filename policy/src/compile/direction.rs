//! The rules of a policy set to verdicts by class.

use std::collections::{BTreeMap, BTreeSet};

use super::{Direction, Entries, NamedPorts, PolicySet};
use crate::{ClassId, Peers, Policy, Port, PortRange, PortSet, Ports, Rule, class::PolicySetKey, term::Term};

/// A rule with its ports resolved: to all of `terms`, or to everybody, these ports.
struct Opening {
    /// `None`: everybody.
    terms: Option<Vec<Term>>,
    ports: PortSet,
}

/// The terms that a policy's rules name.
pub(super) fn terms(policy: &Policy, named: &NamedPorts) -> Vec<Term> {
    // Which numbers the pod's own names have changes the ports of a rule, not its terms.
    let no_ports = PolicySetKey { policies: BTreeSet::new(), ports: BTreeMap::new() };
    let ingress = policy.ingress.iter().flatten().flat_map(|rule| ingress_openings(rule, &no_ports));
    let egress = policy.egress.iter().flatten().flat_map(|rule| egress_openings(rule, named));
    ingress.chain(egress).filter_map(|opening| opening.terms).flatten().collect()
}

pub(super) fn policy_set<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    key: &PolicySetKey,
    named: &NamedPorts,
    members: &BTreeMap<ClassId, BTreeSet<Term>>,
) -> PolicySet {
    let ingress: Vec<&Vec<Rule>> = policies.clone().filter_map(|policy| policy.ingress.as_ref()).collect();
    let egress: Vec<&Vec<Rule>> = policies.filter_map(|policy| policy.egress.as_ref()).collect();
    let open_in = || ingress.iter().copied().flatten().flat_map(|rule| ingress_openings(rule, key)).collect();
    let open_out =
        || egress.iter().copied().flatten().flat_map(|rule| egress_openings(rule, named)).collect();
    PolicySet {
        ingress: (!ingress.is_empty()).then(|| direction(open_in(), members)),
        egress: (!egress.is_empty()).then(|| direction(open_out(), members)),
    }
}

fn direction(openings: Vec<Opening>, members: &BTreeMap<ClassId, BTreeSet<Term>>) -> Direction {
    let mut any = PortSet::nothing();
    let mut by_term: BTreeMap<Term, PortSet> = BTreeMap::new();
    for opening in openings {
        match opening.terms {
            None => any.extend(&opening.ports),
            Some(terms) => {
                for term in terms {
                    by_term.entry(term).or_default().extend(&opening.ports);
                }
            }
        }
    }
    let mut classes = BTreeMap::new();
    for (class, terms) in members {
        let mut allowed = any.clone();
        for term in terms {
            if let Some(ports) = by_term.get(term) {
                allowed.extend(ports);
            }
        }
        if allowed != any {
            classes.insert(*class, Entries { allowed });
        }
    }
    Direction { classes, any: Entries { allowed: any } }
}

fn ingress_openings(rule: &Rule, key: &PolicySetKey) -> Vec<Opening> {
    let ports = match &rule.ports {
        Ports::Any => PortSet::everything(),
        Ports::Of(ports) => {
            let mut set = PortSet::nothing();
            for port in ports {
                match port {
                    Port::Numbered(protocol, range) => set.insert(*protocol, *range),
                    Port::Named(protocol, name) => {
                        for number in key.ports.get(&(name.clone(), *protocol)).into_iter().flatten() {
                            set.insert(*protocol, PortRange::single(*number));
                        }
                    }
                }
            }
            set
        }
    };
    vec![Opening { terms: terms_of(&rule.peers), ports }]
}

fn egress_openings(rule: &Rule, named: &NamedPorts) -> Vec<Opening> {
    let Ports::Of(ports) = &rule.ports else {
        return vec![Opening { terms: terms_of(&rule.peers), ports: PortSet::everything() }];
    };
    let mut openings = Vec::new();
    let mut numbered = PortSet::nothing();
    for port in ports {
        match port {
            Port::Numbered(protocol, range) => numbered.insert(*protocol, *range),
            Port::Named(protocol, name) => {
                for (number, terms) in named.resolve(&rule.peers, *protocol, name) {
                    let mut ports = PortSet::nothing();
                    ports.insert(*protocol, PortRange::single(number));
                    openings.push(Opening { terms: Some(terms), ports });
                }
            }
        }
    }
    openings.push(Opening { terms: terms_of(&rule.peers), ports: numbered });
    openings
}

fn terms_of(peers: &Peers) -> Option<Vec<Term>> {
    match peers {
        Peers::Any => None,
        Peers::Of(_) => Some(Term::of_peers(peers, None)),
    }
}
