//! From one wanted state to another: the pieces that differ, to the table.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use margay_api::endpoint::PodRef;
use margay_netlink::nftables::{Data, Key};
use margay_policy::{PolicySetId, compile::Direction};

use super::{
    layout::{
        Entry, Way, chain_of, of_address, of_any, of_class, of_endpoint, of_range, put_direction,
        remove_direction,
    },
    table::Table,
};
use crate::decide::{Admitted, Wanted};

/// Makes a table that has all of `before` have all of `after`.
pub(super) fn apply(before: &Wanted, after: &Wanted, table: &mut Table) {
    let (these, those) = (&before.compiled, &after.compiled);
    for (address, class) in lacking(&these.addresses, &those.addresses) {
        of_address(*address, *class).remove(table);
    }
    for (address, class) in lacking(&those.addresses, &these.addresses) {
        of_address(*address, *class).put(table);
    }
    for (range, class) in lacking(&these.ranges, &those.ranges) {
        of_range(range, *class).remove(table);
    }
    for (range, class) in lacking(&those.ranges, &these.ranges) {
        of_range(range, *class).put(table);
    }
    policy_sets(before, after, table);
    let (gone, come) = (of_endpoints(before), of_endpoints(after));
    for ((set, key), _) in lacking(&gone, &come) {
        table.remove(set, key);
    }
    for ((set, key), data) in lacking(&come, &gone) {
        table.put(set, key.clone(), data.clone());
    }
}

/// What `these` have and `those` lack, or have with another value.
fn lacking<'a, K: Ord, V: PartialEq>(
    these: &'a BTreeMap<K, V>,
    those: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    these.iter().filter(|(key, value)| those.get(key) != Some(*value))
}

fn policy_sets(before: &Wanted, after: &Wanted, table: &mut Table) {
    let (before, after) = (&before.compiled.sets, &after.compiled.sets);
    let ids: BTreeSet<PolicySetId> =
        lacking(before, after).chain(lacking(after, before)).map(|(id, _)| *id).collect();
    for id in ids {
        let (before, after) = (before.get(&id), after.get(&id));
        for way in [Way::In, Way::Out] {
            let [before, after] = [before, after].map(|set| match way {
                Way::In => set?.ingress.as_ref(),
                Way::Out => set?.egress.as_ref(),
            });
            direction(before, after, &chain_of(id, way), table);
        }
    }
}

fn direction(before: Option<&Direction>, after: Option<&Direction>, chain: &str, table: &mut Table) {
    let Some(after) = after else {
        remove_direction(table, chain);
        return;
    };
    let none = BTreeMap::new();
    let classes = before.map_or(&none, |before| &before.classes);
    if let Some(before) = before {
        for entry in of_any(chain, &before.any) {
            entry.remove(table);
        }
    }
    put_direction(table, chain, &after.any, &[]);
    for (class, entries) in lacking(classes, &after.classes) {
        for entry in of_class(chain, *class, entries) {
            entry.remove(table);
        }
    }
    for (class, entries) in lacking(&after.classes, classes) {
        for entry in of_class(chain, *class, entries) {
            entry.put(table);
        }
    }
}

/// The elements of all endpoints, together: two may share one.
fn of_endpoints(wanted: &Wanted) -> BTreeMap<(Cow<'static, str>, Key), Option<Data>> {
    let mut of_pod: BTreeMap<&PodRef, Vec<IpAddr>> = BTreeMap::new();
    for Admitted { endpoint, .. } in wanted.endpoints.values() {
        if let Some(pod) = &endpoint.pod {
            of_pod.entry(pod).or_default().extend(&endpoint.addresses);
        }
    }
    let entries = wanted.endpoints.values().flat_map(|admitted| {
        let endpoint = &admitted.endpoint;
        let sources = endpoint.pod.as_ref().and_then(|pod| of_pod.get(pod)).unwrap_or(&endpoint.addresses);
        let set = admitted.set.and_then(|id| Some((id, wanted.compiled.sets.get(&id)?)));
        let isolated: Vec<(Way, PolicySetId)> = set
            .into_iter()
            .flat_map(|(id, set)| {
                [(Way::In, set.ingress.is_some()), (Way::Out, set.egress.is_some())]
                    .into_iter()
                    .filter_map(move |(way, is_isolated)| is_isolated.then_some((way, id)))
            })
            .collect();
        of_endpoint(endpoint, sources, &isolated)
    });
    entries.map(|Entry { set, key, data }| ((set, key), data)).collect()
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use margay_api::endpoint::{Endpoint, EndpointId, PodRef};
    use margay_policy::{
        ClassId, PolicySetId, PortSet,
        compile::{Compiled, Direction, Entries, PolicySet},
    };
    use proptest::{collection::btree_map, option, prelude::*, sample::select};

    use super::apply;
    use crate::{
        decide::{Admitted, Wanted},
        program::nft::{layout, table::Table},
    };

    fn address() -> impl Strategy<Value = IpAddr> {
        select(vec!["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"])
            .prop_map(|text| text.parse().unwrap())
    }

    fn direction() -> impl Strategy<Value = Direction> {
        let ports =
            || any::<bool>().prop_map(|all| if all { PortSet::everything() } else { PortSet::nothing() });
        let classes = btree_map((1_u32..4).prop_map(ClassId), ports(), 0..3);
        (classes, ports()).prop_map(|(classes, any)| Direction {
            classes: classes.into_iter().map(|(id, allowed)| (id, Entries { allowed })).collect(),
            any: Entries { allowed: any },
        })
    }

    /// Few of everything, so that two of them share much: pods with several interfaces, and addresses on two pods.
    fn wanted() -> impl Strategy<Value = Wanted> {
        let set = (option::of(direction()), option::of(direction()))
            .prop_map(|(ingress, egress)| PolicySet { ingress, egress });
        let sets = btree_map((0_u32..2).prop_map(PolicySetId), set, 2);
        let endpoint = (option::of(0_u8..2), address(), option::of((0_u32..2).prop_map(PolicySetId)));
        let endpoints = btree_map(0_u8..4, endpoint, 0..4);
        let addresses = btree_map(address(), (1_u32..4).prop_map(ClassId), 0..4);
        (sets, endpoints, addresses).prop_map(|(sets, endpoints, addresses)| {
            let endpoints = endpoints.into_iter().map(|(number, (pod, address, set))| {
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
                (id, Admitted { endpoint: Arc::new(endpoint), set })
            });
            let compiled = Compiled { addresses, sets, ..Compiled::default() };
            Wanted { endpoints: endpoints.collect(), compiled, ..Wanted::default() }
        })
    }

    fn laid_out(states: &[&Wanted]) -> Table {
        let mut table = Table::default();
        layout::put_base(&mut table);
        let mut before = &Wanted::default();
        for state in states {
            apply(before, state, &mut table);
            before = state;
        }
        table
    }

    proptest! {
        #[test]
        fn what_was_before_leaves_no_trace(before in wanted(), after in wanted()) {
            let straight = laid_out(&[&after]).transaction();
            prop_assert_eq!(laid_out(&[&before, &after]).transaction(), straight.clone());
            prop_assert_eq!(laid_out(&[&before, &after, &before, &after]).transaction(), straight);
        }

        #[test]
        fn going_back_before_a_commit_costs_nothing(before in wanted(), after in wanted()) {
            let mut table = laid_out(&[&before]);
            table.committed();
            apply(&before, &after, &mut table);
            apply(&after, &before, &mut table);
            prop_assert_eq!(table.transaction().count(), 0);
        }
    }
}
