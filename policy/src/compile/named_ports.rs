//! The numbers that the pods of the cluster give a port's name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{Pod, PodName, Protocol, Shared};

/// A port's name and its protocol.
pub(super) type Named = (String, Protocol);

/// Names with their numbers.
type Numbers = BTreeSet<(Named, u16)>;

/// Which number has which name on how many pods, kept up to date pod by pod.
#[derive(Debug, Default)]
pub(super) struct NamedPorts {
    pods: BTreeMap<Named, BTreeMap<u16, usize>>,
    of_pod: BTreeMap<PodName, Arc<Numbers>>,
    /// Pods of a workload have the same.
    numbers: Shared<Numbers>,
}

impl NamedPorts {
    /// Takes a pod as it is now; says which names have other numbers than before.
    pub(super) fn set(&mut self, name: &PodName, pod: Option<&Pod>) -> BTreeSet<Named> {
        let pod = pod.filter(|pod| pod.in_pod_network());
        let ports = pod.into_iter().flat_map(|pod| &pod.ports);
        let ports: Numbers = ports.map(|port| ((port.name.clone(), port.protocol), port.number)).collect();
        let before = self.of_pod.remove(name).unwrap_or_default();
        let mut changed = BTreeSet::new();
        for (named, number) in ports.difference(&before) {
            let count = self.pods.entry(named.clone()).or_default().entry(*number).or_default();
            *count += 1;
            if *count == 1 {
                changed.insert(named.clone());
            }
        }
        for (named, number) in before.difference(&ports) {
            let Some(numbers) = self.pods.get_mut(named) else { continue };
            if let Some(count) = numbers.get_mut(number) {
                *count -= 1;
                if *count == 0 {
                    numbers.remove(number);
                    changed.insert(named.clone());
                }
            }
            if numbers.is_empty() {
                self.pods.remove(named);
            }
        }
        if !ports.is_empty() {
            self.of_pod.insert(name.clone(), self.numbers.share(ports));
        }
        changed
    }

    /// The numbers that a name has anywhere.
    pub(super) fn numbers(&self, named: &Named) -> impl Iterator<Item = u16> {
        self.pods.get(named).into_iter().flatten().map(|(number, _)| *number)
    }
}
