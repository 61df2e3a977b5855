//! Which policies select the pods of this node.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    named_ports::{Named, NamedPorts},
    output::PolicySetId,
    partition::{Moved, Partition},
    rules::Rules,
    terms::Terms,
};
use crate::{ClusterPolicy, Objects, Pod, PodName, Policy, PolicyId};

/// Policies in use, and the policy sets that they make of pods.
#[derive(Debug, Default)]
pub(super) struct Selection {
    numbers: BTreeMap<PolicyId, Number>,
    last: u32,
    /// The pods of this node, each with the policies that select it.
    local: BTreeMap<PodName, BTreeSet<Number>>,
    in_use: BTreeMap<Number, InUse>,
    sets: Partition<PodName, SetKey>,
}

/// Stands for a policy: names are compared and copied too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(u32);

#[derive(Debug, Default)]
struct InUse {
    /// How many pods of this node it selects.
    pods: usize,
    rules: Option<Rules>,
}

/// What makes pods share a policy set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetKey {
    policies: Vec<Number>,
    /// Numbers behind the names of ports that the policies mean as the pods do.
    pub(super) ports: BTreeMap<Named, BTreeSet<u16>>,
}

/// What may have changed.
pub(super) struct Touched<'a> {
    pub(super) pods: &'a BTreeSet<PodName>,
    pub(super) policies: &'a BTreeSet<PolicyId>,
    /// Names of ports that have other numbers.
    pub(super) names: &'a BTreeSet<Named>,
}

/// What has changed.
pub(super) struct Selected {
    pub(super) moved: Moved<PodName>,
    /// Policy sets that are there, and of which a policy says something else.
    pub(super) rewritten: BTreeSet<PolicySetId>,
    /// Pods that were not here before.
    pub(super) arrived: BTreeSet<PodName>,
}

impl Selection {
    /// Takes what has changed in `objects`, and uses and releases terms accordingly.
    pub(super) fn update(
        &mut self,
        objects: &Objects,
        local: impl Fn(&PodName) -> bool,
        touched: &Touched<'_>,
        named: &NamedPorts,
        terms: &mut Terms,
    ) -> Selected {
        let edited = self.number(touched.policies);
        let mut arrived = BTreeSet::new();
        let mut dirty = BTreeSet::new();
        for name in touched.pods {
            let pod = objects.pods.get(name).filter(|pod| !pod.host_network && local(name));
            let policies = pod.map(|pod| self.selecting(objects, pod));
            if policies.is_some() && !self.local.contains_key(name) {
                arrived.insert(name.clone());
            }
            if policies.is_some() || self.local.contains_key(name) {
                self.select(name, policies);
                dirty.insert(name.clone());
            }
        }
        for (id, number) in &edited {
            dirty.extend(self.toggle(objects, id, *number));
        }
        self.numbers.retain(|id, _| !touched.policies.contains(id) || is_there(objects, id));

        let edited: BTreeSet<Number> = edited.into_iter().map(|(_, number)| number).collect();
        let rewritten = self.read(objects, &edited, touched.names, named, terms);
        // An edit may name other ports of the pods.
        let selected = |policies: &BTreeSet<Number>| rewritten.iter().any(|number| policies.contains(number));
        dirty.extend(self.local.iter().filter(|(_, of)| selected(of)).map(|(name, _)| name.clone()));
        let keys = dirty.into_iter().map(|name| {
            let key = self.key(objects, &name);
            (name, key)
        });
        let keys = keys.collect();
        let moved = self.sets.assign(keys);
        let names = |key: &SetKey| rewritten.iter().any(|number| key.policies.binary_search(number).is_ok());
        let sets = self.sets.parts().filter(|(_, key)| names(key)).map(|(set, _)| PolicySetId(set));
        Selected { rewritten: sets.collect(), moved, arrived }
    }

    /// The policy set of a pod.
    pub(super) fn set_of(&self, pod: &PodName) -> Option<PolicySetId> {
        self.sets.of(pod).map(PolicySetId)
    }

    /// The pods that have a policy set.
    pub(super) fn pods(&self) -> impl Iterator<Item = &PodName> {
        self.sets.all().keys()
    }

    /// The pods of a policy set.
    pub(super) fn pods_of(&self, set: PolicySetId) -> impl Iterator<Item = &PodName> {
        self.sets.members(set.0)
    }

    /// What a policy set is of; `None` when it is gone.
    pub(super) fn key_of(&self, set: PolicySetId) -> Option<&SetKey> {
        self.sets.key(set.0)
    }

    /// The rules of the policies of a policy set.
    pub(super) fn rules<'a>(&'a self, key: &'a SetKey) -> impl Iterator<Item = &'a Rules> {
        key.policies.iter().filter_map(|number| self.in_use.get(number)?.rules.as_ref())
    }

    /// The rules of all policies that select a pod of this node.
    pub(super) fn all_rules(&self) -> impl Iterator<Item = &Rules> {
        self.in_use.values().filter_map(|policy| policy.rules.as_ref())
    }

    fn number(&mut self, policies: &BTreeSet<PolicyId>) -> Vec<(PolicyId, Number)> {
        let mut numbered = Vec::with_capacity(policies.len());
        for id in policies {
            let number = *self.numbers.entry(id.clone()).or_insert_with(|| {
                self.last += 1;
                Number(self.last)
            });
            numbered.push((id.clone(), number));
        }
        numbered
    }

    fn selecting(&self, objects: &Objects, pod: &Pod) -> BTreeSet<Number> {
        let own = objects.policies_of(&pod.name.namespace).filter(|policy| selects(policy, pod));
        let namespace = objects.namespace_labels(&pod.name.namespace);
        let cluster = objects.cluster_policies.values();
        let cluster = cluster.filter(|policy| selects_from_afar(policy, &namespace, pod));
        let ids = own.map(|policy| PolicyId::Network(policy.name.clone()));
        let ids = ids.chain(cluster.map(|policy| PolicyId::Cluster(policy.name.clone())));
        ids.filter_map(|id| self.numbers.get(&id).copied()).collect()
    }

    /// Takes what selects a pod now; `None` when it is not here any more.
    fn select(&mut self, name: &PodName, policies: Option<BTreeSet<Number>>) {
        let before = self.local.remove(name).unwrap_or_default();
        for number in policies.iter().flatten() {
            self.in_use.entry(*number).or_default().pods += 1;
        }
        for number in before {
            if let Some(policy) = self.in_use.get_mut(&number) {
                policy.pods -= 1;
            }
        }
        if let Some(policies) = policies {
            self.local.insert(name.clone(), policies);
        }
    }

    /// Has a policy select the pods that it does now; gives those of which that has changed.
    fn toggle(&mut self, objects: &Objects, id: &PolicyId, number: Number) -> Vec<PodName> {
        let mut toggled = Vec::new();
        for (name, policies) in &mut self.local {
            let pod = objects.pods.get(name);
            let is_selected = pod.is_some_and(|pod| match id {
                PolicyId::Network(id) => objects.policies.get(id).is_some_and(|policy| selects(policy, pod)),
                PolicyId::Cluster(id) => objects.cluster_policies.get(id).is_some_and(|policy| {
                    selects_from_afar(policy, &objects.namespace_labels(&name.namespace), pod)
                }),
            });
            if is_selected == policies.contains(&number) {
                continue;
            }
            let policy = self.in_use.entry(number).or_default();
            if is_selected {
                policies.insert(number);
                policy.pods += 1;
            } else {
                policies.remove(&number);
                policy.pods -= 1;
            }
            toggled.push(name.clone());
        }
        toggled
    }

    /// Reads the rules of policies that came into use or mean something else now; gives those.
    fn read(
        &mut self,
        objects: &Objects,
        edited: &BTreeSet<Number>,
        names: &BTreeSet<Named>,
        named: &NamedPorts,
        terms: &mut Terms,
    ) -> BTreeSet<Number> {
        let mut unread: BTreeSet<Number> = BTreeSet::new();
        for (number, policy) in &self.in_use {
            let is_stale = policy.rules.as_ref().is_none_or(|rules| {
                policy.pods == 0 || edited.contains(number) || !rules.egress_names.is_disjoint(names)
            });
            if is_stale {
                unread.insert(*number);
            }
        }
        if unread.is_empty() {
            return unread;
        }
        let ids: BTreeMap<Number, &PolicyId> = self
            .numbers
            .iter()
            .filter(|(_, number)| unread.contains(number))
            .map(|(id, number)| (*number, id))
            .collect();
        for number in &unread {
            let Some(policy) = self.in_use.get_mut(number) else { continue };
            let id = ids.get(number).filter(|_| policy.pods > 0);
            let rules = id.and_then(|id| match id {
                PolicyId::Network(id) => Some(Rules::of_network(objects.policies.get(id)?, named, terms)),
                PolicyId::Cluster(id) => {
                    Some(Rules::of_cluster(objects.cluster_policies.get(id)?, named, terms))
                }
            });
            // After the new ones are in use: what both name never goes.
            if let Some(rules) = std::mem::replace(&mut policy.rules, rules) {
                rules.release(terms);
            }
        }
        self.in_use.retain(|_, policy| policy.pods > 0);
        unread
    }

    fn key(&self, objects: &Objects, name: &PodName) -> Option<SetKey> {
        let policies = self.local.get(name).filter(|policies| !policies.is_empty())?;
        let pod = objects.pods.get(name)?;
        let mut ports: BTreeMap<Named, BTreeSet<u16>> = BTreeMap::new();
        for number in policies {
            let rules = self.in_use.get(number).and_then(|policy| policy.rules.as_ref());
            for named in rules.into_iter().flat_map(Rules::own_names) {
                let of_pod = pod.ports.iter().filter(|port| port.name == named.0 && port.protocol == named.1);
                ports.entry(named.clone()).or_default().extend(of_pod.map(|port| port.number));
            }
        }
        Some(SetKey { policies: policies.iter().copied().collect(), ports })
    }
}

fn is_there(objects: &Objects, id: &PolicyId) -> bool {
    match id {
        PolicyId::Network(id) => objects.policies.contains_key(id),
        PolicyId::Cluster(id) => objects.cluster_policies.contains_key(id),
    }
}

fn selects(policy: &Policy, pod: &Pod) -> bool {
    *policy.name.namespace == *pod.name.namespace && policy.pod_selector.matches(&pod.labels)
}

fn selects_from_afar(policy: &ClusterPolicy, namespace: &crate::selector::Labels, pod: &Pod) -> bool {
    policy.subject.namespaces.matches(namespace) && policy.subject.pods.matches(&pod.labels)
}
