//! Which pod has an address, when several may say that they do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{Pod, PodName};

/// What pods say of addresses, kept up to date pod by pod; decides as [`crate::Objects::owners`] does.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// In the order of the pods' names. Nearly every list is of one: a map would take ten times the memory.
    by_address: BTreeMap<IpAddr, Vec<(PodName, Claim)>>,
    of_pod: BTreeMap<PodName, Vec<IpAddr>>,
}

/// Of two, the higher counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Announced,
    Own { stays: bool, created: i64 },
}

impl Claims {
    /// Takes a pod as it is now; says which addresses it had and has.
    pub(super) fn set(&mut self, name: &PodName, pod: Option<&Pod>) -> BTreeSet<IpAddr> {
        let mut touched = BTreeSet::new();
        for address in self.of_pod.remove(name).into_iter().flatten() {
            touched.insert(address);
            if let Some(claims) = self.by_address.get_mut(&address) {
                if let Ok(place) = place(claims, name) {
                    claims.remove(place);
                }
                if claims.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        let Some(pod) = pod.filter(|pod| pod.in_pod_network()) else { return touched };
        let own = Claim::Own { stays: !pod.terminating, created: pod.created };
        let announced = pod.announced.iter().map(|address| (*address, Claim::Announced));
        // What it has counts, where it is also announced.
        for (address, claim) in announced.chain(pod.addresses.iter().map(|address| (*address, own))) {
            touched.insert(address);
            let claims = self.by_address.entry(address).or_insert_with(|| Vec::with_capacity(1));
            match place(claims, name) {
                Ok(place) => claims[place].1 = claim,
                Err(place) => claims.insert(place, (name.clone(), claim)),
            }
        }
        if !touched.is_empty() {
            let all: BTreeSet<IpAddr> = pod.announced.iter().chain(&pod.addresses).copied().collect();
            self.of_pod.insert(name.clone(), all.into_iter().collect());
        }
        touched
    }

    /// The pod that has an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&PodName> {
        let mut best: Option<(&PodName, Claim)> = None;
        let mut tied = false;
        for (name, claim) in self.by_address.get(&address)? {
            match best {
                Some((_, other)) if other > *claim => {}
                Some((_, other)) if other == *claim => tied = true,
                _ => (best, tied) = (Some((name, *claim)), false),
            }
        }
        // Two for which it is only announced get it neither; of two that have it, the first by name does.
        best.filter(|(_, claim)| !tied || *claim != Claim::Announced).map(|(name, _)| name)
    }

    /// The addresses that a pod says it has.
    pub(super) fn of_pod(&self, name: &PodName) -> impl Iterator<Item = IpAddr> {
        self.of_pod.get(name).into_iter().flatten().copied()
    }
}

/// Where a pod's claim is, or would be.
fn place(claims: &[(PodName, Claim)], name: &PodName) -> Result<usize, usize> {
    claims.binary_search_by(|(other, _)| other.cmp(name))
}
