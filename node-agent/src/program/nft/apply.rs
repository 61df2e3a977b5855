//! What has changed, to the table.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry as BTreeEntry},
    net::IpAddr,
    sync::Arc,
};

use margay_api::endpoint::{EndpointId, PodRef};
use margay_policy::compile::{
    Changes, ClassId, Compiler, Direction, DirectionChange, Entries, PolicySetId, Way,
};

use super::{
    band::{Bands, Named},
    layout::{
        self, Entry, Lookup, chain_of, of_address, of_any, of_band, of_class, of_class_in_bands, of_endpoint,
        of_range, of_tunnel_ends, put_band, put_direction, remove_band, remove_direction,
    },
    table::Table,
};
use crate::decide::{Admitted, Masquerade, TunnelEnds};

/// What the table was told to hold, so that it can be told to hold it no more.
#[derive(Debug, Default)]
pub(super) struct LaidOut {
    endpoints: BTreeMap<EndpointId, (Admitted, Vec<Entry>)>,
    /// The endpoints as they were last wanted.
    wanted: Arc<BTreeMap<EndpointId, Admitted>>,
    directions: BTreeMap<(PolicySetId, Way), Held>,
    masquerade: Option<Arc<Masquerade>>,
    tunnel_ends: Option<Arc<TunnelEnds>>,
}

/// A direction as the table holds it.
#[derive(Debug)]
struct Held {
    classes: BTreeMap<ClassId, Entries>,
    any: Entries,
    /// The ports that the classes name.
    named: Named,
    lookups: Vec<Lookup>,
    bands: Bands,
}

impl Held {
    /// Has the table hold these bands, and what classes may do on them.
    fn cut(&mut self, bands: Bands, chain: &str, table: &mut Table) {
        let before = std::mem::replace(&mut self.bands, bands);
        let entries = |bands: &Bands| {
            let classes = self.classes.iter();
            let of_classes = classes.flat_map(|(id, entries)| of_class_in_bands(chain, *id, entries, bands));
            bands.all().map(|band| of_band(chain, band)).chain(of_classes).collect::<Vec<Entry>>()
        };
        for entry in entries(&before) {
            entry.remove(table);
        }
        for band in before.all() {
            remove_band(table, chain, band);
        }
        for band in self.bands.all() {
            put_band(table, chain, band);
        }
        for entry in entries(&self.bands) {
            entry.put(table);
        }
    }
}

impl LaidOut {
    /// Has the table hold what the compiler says now, of what has changed.
    pub(super) fn policy(&mut self, compiler: &Compiler, changes: &Changes, table: &mut Table) {
        for cause in &changes.causes {
            match compiler.cause(*cause) {
                Some(_) => layout::put_cluster_cause(table, *cause),
                None => layout::remove_cluster_cause(table, *cause),
            }
        }
        for address in &changes.addresses {
            match compiler.class_of(*address) {
                Some(class) => of_address(*address, class).put(table),
                None => layout::remove_address(table, *address),
            }
        }
        for range in &changes.ranges {
            match compiler.class_of_range(range) {
                Some(class) => of_range(range, class).put(table),
                None => layout::remove_range(table, range),
            }
        }
        for (id, change) in &changes.sets {
            let set = compiler.set(*id);
            for way in Way::ALL {
                let change = change.way(way);
                if *change == DirectionChange::default() {
                    continue;
                }
                let chain = chain_of(*id, way);
                match set.and_then(|set| set.way(way)) {
                    Some(now) => {
                        let held = self.directions.entry((*id, way));
                        direction(&chain, way, (now, change), held, table);
                    }
                    None => {
                        if let Some(mut held) = self.directions.remove(&(*id, way)) {
                            held.cut(Bands::default(), &chain, table);
                            remove_direction(table, &chain);
                        }
                    }
                }
            }
        }
    }

    /// Has the table masquerade this.
    pub(super) fn masquerade(&mut self, wanted: Option<&Arc<Masquerade>>, table: &mut Table) {
        if self.masquerade.as_ref() == wanted {
            return;
        }
        match wanted {
            Some(masquerade) => layout::put_masquerade(table, masquerade),
            None => layout::remove_masquerade(table),
        }
        self.masquerade = wanted.cloned();
    }

    /// Has the table keep the tunnels between nodes to those.
    pub(super) fn tunnel_ends(&mut self, wanted: Option<&Arc<TunnelEnds>>, table: &mut Table) {
        if self.tunnel_ends.as_ref() == wanted {
            return;
        }
        let entries = |ends: Option<&Arc<TunnelEnds>>| ends.map_or_else(Vec::new, |it| of_tunnel_ends(it));
        for entry in entries(self.tunnel_ends.as_ref()) {
            entry.remove(table);
        }
        for entry in entries(wanted) {
            entry.put(table);
        }
        match wanted {
            Some(_) => layout::put_untracked(table),
            None => layout::remove_untracked(table),
        }
        self.tunnel_ends = wanted.cloned();
    }

    /// Has the table hold these endpoints.
    pub(super) fn endpoints(&mut self, wanted: &Arc<BTreeMap<EndpointId, Admitted>>, table: &mut Table) {
        if Arc::ptr_eq(&self.wanted, wanted) {
            return;
        }
        self.wanted = Arc::clone(wanted);
        let mut dirty: BTreeSet<EndpointId> = BTreeSet::new();
        let gone = self.endpoints.keys().filter(|id| !wanted.contains_key(*id));
        dirty.extend(gone.cloned());
        for (id, admitted) in wanted.iter() {
            if self.endpoints.get(id).is_none_or(|(before, _)| before != admitted) {
                dirty.insert(id.clone());
            }
        }
        if dirty.is_empty() {
            return;
        }
        self.spread(&mut dirty, wanted);
        for id in &dirty {
            let entries = self.endpoints.remove(id).map(|(_, entries)| entries);
            entries.iter().flatten().for_each(|entry| entry.remove(table));
        }
        let mut of_pod: BTreeMap<&PodRef, Vec<IpAddr>> = BTreeMap::new();
        for Admitted { endpoint, .. } in wanted.values() {
            if let Some(pod) = &endpoint.pod {
                of_pod.entry(pod).or_default().extend(&endpoint.addresses);
            }
        }
        for id in dirty {
            let Some(admitted) = wanted.get(&id) else { continue };
            let endpoint = &admitted.endpoint;
            let sources =
                endpoint.pod.as_ref().and_then(|pod| of_pod.get(pod)).unwrap_or(&endpoint.addresses);
            let set = admitted.set.into_iter();
            let isolated: Vec<(Way, PolicySetId)> =
                set.flat_map(|set| admitted.ways.iter().map(move |way| (*way, set))).collect();
            let entries = of_endpoint(endpoint, sources, &isolated);
            for entry in &entries {
                entry.clone().put(table);
            }
            self.endpoints.insert(id, (admitted.clone(), entries));
        }
    }

    /// Adds the endpoints that share elements with some: those of the same pods, which may send from all the pod's
    /// addresses, and those that have an address of theirs.
    fn spread(&self, dirty: &mut BTreeSet<EndpointId>, wanted: &BTreeMap<EndpointId, Admitted>) {
        let all = || {
            let before = self.endpoints.iter().map(|(id, (admitted, _))| (id, admitted));
            before.chain(wanted)
        };
        let mut pods: BTreeSet<&PodRef> = BTreeSet::new();
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for (_, admitted) in all().filter(|(id, _)| dirty.contains(*id)) {
            pods.extend(&admitted.endpoint.pod);
            addresses.extend(&admitted.endpoint.addresses);
        }
        let shares = |admitted: &Admitted| {
            admitted.endpoint.pod.as_ref().is_some_and(|pod| pods.contains(pod))
                || admitted.endpoint.addresses.iter().any(|address| addresses.contains(address))
        };
        let more: Vec<EndpointId> =
            all().filter(|(_, admitted)| shares(admitted)).map(|(id, _)| id.clone()).collect();
        dirty.extend(more);
    }
}

/// Has the table hold what a direction says now, of what has changed.
fn direction(
    chain: &str,
    way: Way,
    (now, change): (&Direction, &DirectionChange),
    held: BTreeEntry<'_, (PolicySetId, Way), Held>,
    table: &mut Table,
) {
    let is_new = matches!(held, BTreeEntry::Vacant(_));
    let held = held.or_insert_with(|| Held {
        classes: BTreeMap::new(),
        any: now.any.clone(),
        named: Named::default(),
        lookups: Vec::new(),
        bands: Bands::default(),
    });
    let mut are_ranges_others = false;
    for class in &change.classes {
        are_ranges_others |= held.named.replace(held.classes.get(class), now.classes.get(class));
    }
    let lookups = Lookup::of(now, &held.named);
    if is_new || change.any || held.lookups != lookups {
        for entry in of_any(chain, &held.any) {
            entry.remove(table);
        }
        put_direction(table, chain, way, now, &lookups);
        held.lookups = lookups;
        held.any = now.any.clone();
    }
    if are_ranges_others {
        held.cut(Bands::of(&held.named), chain, table);
    }
    for class in &change.classes {
        let elements = |entries: &Entries| {
            let in_bands = of_class_in_bands(chain, *class, entries, &held.bands);
            of_class(chain, *class, entries).into_iter().chain(in_bands)
        };
        for entry in held.classes.get(class).into_iter().flat_map(elements) {
            entry.remove(table);
        }
        match now.classes.get(class) {
            Some(entries) => {
                elements(entries).for_each(|entry| entry.put(table));
                held.classes.insert(*class, entries.clone());
            }
            None => drop(held.classes.remove(class)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

    use margay_api::endpoint::{Endpoint, EndpointId, PodRef};
    use margay_policy::compile::{PolicySetId, Way};
    use proptest::{
        collection::{btree_map, vec},
        option,
        prelude::*,
        sample::{select, subsequence},
    };

    use super::LaidOut;
    use crate::{
        decide::Admitted,
        program::nft::{layout, table::Table},
    };

    type Endpoints = BTreeMap<EndpointId, Admitted>;

    fn address() -> impl Strategy<Value = IpAddr> {
        select(vec!["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"])
            .prop_map(|text| text.parse().unwrap())
    }

    /// Few of everything, so that two of them share much: pods with several interfaces, and addresses on two pods.
    fn endpoints() -> impl Strategy<Value = Endpoints> {
        let set = (option::of((0_u32..2).prop_map(PolicySetId)), subsequence(Way::ALL.to_vec(), 0..=2));
        let endpoint = (option::of(0_u8..2), address(), set);
        btree_map(0_u8..4, endpoint, 0..4).prop_map(|endpoints| {
            let endpoints = endpoints.into_iter().map(|(number, (pod, address, (set, ways)))| {
                let container_id = format!("c{number}");
                let id = EndpointId::of(&container_id, "eth0");
                let endpoint = Endpoint {
                    host_ifname: id.host_ifname(),
                    container_id,
                    ifname: "eth0".into(),
                    network: "margay".into(),
                    netns: String::new(),
                    mac: String::new(),
                    host_mac: String::new(),
                    addresses: vec![address],
                    mtu: 1500,
                    pod: pod.map(|pod| PodRef { namespace: "x".into(), name: format!("p{pod}"), uid: None }),
                };
                let ways = if set.is_some() { ways } else { Vec::new() };
                (id, Admitted { endpoint: Arc::new(endpoint), set, ways })
            });
            endpoints.collect()
        })
    }

    fn laid_out(states: &[Endpoints]) -> (LaidOut, Table) {
        let (mut laid_out, mut table) = (LaidOut::default(), Table::default());
        layout::put_base(&mut table);
        for state in states {
            laid_out.endpoints(&Arc::new(state.clone()), &mut table);
        }
        (laid_out, table)
    }

    proptest! {
        #[test]
        fn what_was_before_leaves_no_trace(states in vec(endpoints(), 1..5)) {
            let last = states[states.len() - 1..].to_vec();
            prop_assert_eq!(laid_out(&states).1.transaction(), laid_out(&last).1.transaction());
        }

        #[test]
        fn going_back_before_a_commit_costs_nothing(before in endpoints(), after in endpoints()) {
            let (mut laid_out, mut table) = laid_out(std::slice::from_ref(&before));
            table.committed();
            laid_out.endpoints(&Arc::new(after), &mut table);
            laid_out.endpoints(&Arc::new(before), &mut table);
            prop_assert_eq!(table.transaction().count(), 0);
        }
    }
}
