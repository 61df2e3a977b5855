//! The rules of all policies of a policy set in order, and what they say about a class.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{
    named_ports::Named,
    output::{Cause, CauseId, Entries, Verdict, Way},
    rules::{Place, Rules},
    terms::TermId,
};
use crate::{Action, Enforcement, PolicyRef, PortRange, PortSet};

/// The rules of one direction.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In the order in which they are asked.
    rules: Vec<Rule>,
    /// The places of those that are about everybody.
    everybody: Vec<usize>,
    /// The places of those that are about a term.
    by_term: BTreeMap<TermId, Vec<usize>>,
    /// The NetworkPolicies that isolate.
    pub(super) isolating: Vec<PolicyRef>,
    /// Those that would, if they were not only audited.
    pub(super) audited: Vec<PolicyRef>,
    has_audited_rules: bool,
}

/// Rules of a table, by place. Classes of which the same rules name terms are given the same answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Naming(Vec<usize>);

impl Naming {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The answers of a table, each worked out once.
pub(super) struct Answers<'a> {
    table: &'a Table,
    known: BTreeMap<Naming, Entries>,
}

impl<'a> Answers<'a> {
    pub(super) fn of(table: &'a Table) -> Self {
        Self { table, known: BTreeMap::new() }
    }

    /// As [`Table::entries`].
    pub(super) fn entries(&mut self, naming: Naming) -> &Entries {
        match self.known.entry(naming) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(missing) => {
                let entries = self.table.entries(missing.key());
                missing.insert(entries)
            }
        }
    }
}

#[derive(Debug)]
struct Rule {
    stage: Stage,
    ports: PortSet,
    action: Action,
    enforcement: Enforcement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Admin(CauseId),
    Network,
    Baseline(CauseId),
}

/// Which rules are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Enforced,
    All,
}

impl Table {
    /// The table of policies, if any of them is about the direction. `own` are the numbers that the pods themselves give
    /// to names, `cause` what stands for a policy of the cluster.
    pub(super) fn new<'a>(
        policies: impl Iterator<Item = &'a Rules>,
        way: Way,
        own: &BTreeMap<Named, std::collections::BTreeSet<u16>>,
        mut cause: impl FnMut(&str) -> CauseId,
    ) -> Option<Self> {
        let mut policies: Vec<&Rules> = policies.filter(|policy| policy.way(way).is_some()).collect();
        if policies.is_empty() {
            return None;
        }
        policies.sort_unstable_by(|a, b| a.place.cmp(&b.place));
        let mut table = Self::default();
        for policy in policies {
            let enforcement = policy.enforcement;
            let stage = match &policy.place {
                Place::Admin { name, .. } => Stage::Admin(cause(name)),
                Place::Baseline { name, .. } => Stage::Baseline(cause(name)),
                Place::Network(name) => {
                    match enforcement {
                        Enforcement::Enforce => table.isolating.push(name.clone()),
                        Enforcement::Audit => table.audited.push(name.clone()),
                    }
                    Stage::Network
                }
            };
            table.has_audited_rules |= enforcement == Enforcement::Audit;
            for rule in policy.way(way).into_iter().flatten() {
                let mut ports = rule.ports.clone();
                for name in &rule.own_names {
                    for number in own.get(name).into_iter().flatten() {
                        ports.insert(name.1, PortRange::single(*number));
                    }
                }
                let place = table.rules.len();
                table.rules.push(Rule { stage, ports, action: rule.action, enforcement });
                match &rule.terms {
                    None => table.everybody.push(place),
                    Some(terms) => {
                        for term in terms {
                            table.by_term.entry(*term).or_default().push(place);
                        }
                    }
                }
            }
        }
        Some(table)
    }

    /// The terms that its rules name.
    pub(super) fn terms(&self) -> impl Iterator<Item = TermId> {
        self.by_term.keys().copied()
    }

    /// The rules that name one of these terms.
    pub(super) fn naming(&self, terms: &[TermId]) -> Naming {
        let places = terms.iter().filter_map(|term| self.by_term.get(term)).flatten();
        let mut places: Vec<usize> = places.copied().collect();
        places.sort_unstable();
        places.dedup();
        Naming(places)
    }

    /// The final answer for addresses of which the rules name terms, beside those that are about everybody.
    pub(super) fn entries(&self, Naming(places): &Naming) -> Entries {
        let mut places = [self.everybody.as_slice(), places].concat();
        places.sort_unstable();
        places.dedup();
        let enforced = self.parts(&places, Asked::Enforced);
        if !self.has_audited_rules {
            return Entries::of_parts(&enforced);
        }
        let all = self.parts(&places, Asked::All);
        let mut parts = Vec::new();
        for (ports, verdict) in enforced {
            if !verdict.passes() {
                parts.push((ports, verdict));
                continue;
            }
            for (other, verdict) in &all {
                let both = ports.intersection(other);
                if !both.is_nothing() {
                    let verdict = match verdict {
                        Verdict::Deny(cause) => Verdict::Audit(*cause),
                        _ => Verdict::Allow,
                    };
                    parts.push((both, verdict));
                }
            }
        }
        Entries::of_parts(&joined(parts))
    }

    /// Verdicts for disjoint parts of everything, of the rules at these places.
    fn parts(&self, places: &[usize], asked: Asked) -> Vec<(PortSet, Verdict)> {
        let rules = || {
            let rules = places.iter().filter_map(|place| self.rules.get(*place));
            rules.filter(|rule| asked == Asked::All || rule.enforcement == Enforcement::Enforce)
        };
        let mut decided = Decided::default();
        // Admin: what no rule matches, and what one passes on, is for the next to decide.
        let open = decided.tier(PortSet::everything(), rules(), |stage| match stage {
            Stage::Admin(cause) => Some(cause),
            _ => None,
        });
        // NetworkPolicy is final for pods that it isolates.
        let isolates = !self.isolating.is_empty() || (asked == Asked::All && !self.audited.is_empty());
        if isolates {
            let mut allowed = PortSet::nothing();
            for rule in rules().filter(|rule| rule.stage == Stage::Network) {
                allowed.extend(&rule.ports);
            }
            decided.add(open.intersection(&allowed), Verdict::Allow);
            decided.add(open.minus(&allowed), Verdict::Deny(Cause::Isolation));
            return joined(decided.parts);
        }
        let open = decided.tier(open, rules(), |stage| match stage {
            Stage::Baseline(cause) => Some(cause),
            _ => None,
        });
        decided.add(open, Verdict::Allow);
        joined(decided.parts)
    }
}

#[derive(Default)]
struct Decided {
    parts: Vec<(PortSet, Verdict)>,
}

impl Decided {
    fn add(&mut self, ports: PortSet, verdict: Verdict) {
        if !ports.is_nothing() {
            self.parts.push((ports, verdict));
        }
    }

    /// Has the rules of a tier decide about what is open, the first that matches; gives what is still open.
    fn tier<'a>(
        &mut self,
        mut open: PortSet,
        rules: impl Iterator<Item = &'a Rule>,
        cause: impl Fn(Stage) -> Option<CauseId>,
    ) -> PortSet {
        let mut passed = PortSet::nothing();
        for rule in rules {
            let Some(cause) = cause(rule.stage) else { continue };
            let ports = rule.ports.intersection(&open);
            open = open.minus(&ports);
            match rule.action {
                Action::Accept => self.add(ports, Verdict::Allow),
                Action::Deny => self.add(ports, Verdict::Deny(Cause::Cluster(cause))),
                Action::Pass => passed.extend(&ports),
            }
        }
        open.extend(&passed);
        open
    }
}

/// One part for each verdict.
fn joined(parts: Vec<(PortSet, Verdict)>) -> Vec<(PortSet, Verdict)> {
    let mut by_verdict: BTreeMap<Verdict, PortSet> = BTreeMap::new();
    for (ports, verdict) in parts {
        by_verdict.entry(verdict).or_default().extend(&ports);
    }
    by_verdict.into_iter().map(|(verdict, ports)| (ports, verdict)).collect()
}
