//! The difference of two tables, where it is of elements alone, in the kernel's own form.
//!
//! A pod that comes or goes changes a handful of elements. Written to the kernel from here that takes some ten
//! microseconds; a process of `nft` would take milliseconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use margay_api::endpoint::{EndpointId, PodRef};
use margay_netlink::nftables::{Element, Elements, Transaction, Value};
use margay_policy::compile::Direction;

use super::{
    layout::{Entry, Way, addresses_of_pods, chain_of, of_address, of_class, of_endpoint},
    ruleset::{Data, Field, TABLE},
};
use crate::decide::{Admitted, Wanted};

/// Octets of an interface name in a key (`IFNAMSIZ`).
const IFNAME: usize = 16;

/// The transaction from `present` to `wanted`; `None` when it is more than elements without intervals, or longer than
/// one send takes: then it is for `nft`. Looks at what differs, and at the rest only to see that it does not.
pub(super) fn transaction(present: &Wanted, wanted: &Wanted) -> Option<Transaction> {
    let Changes { gone, come } = changes(present, wanted)?;
    let mut transaction = Transaction::new(TABLE);
    for (set, elements) in by_set(&gone)? {
        transaction.delete(set, &elements);
    }
    for (set, elements) in by_set(&come)? {
        transaction.add(set, &elements);
    }
    (transaction.octets() <= Elements::MAX_OCTETS).then_some(transaction)
}

/// All that goes, then all that comes: a key with a new value is both.
#[derive(Debug, Default)]
struct Changes {
    gone: Vec<Entry>,
    come: Vec<Entry>,
}

fn changes(present: &Wanted, wanted: &Wanted) -> Option<Changes> {
    if present.compiled.ranges != wanted.compiled.ranges {
        return None;
    }
    let mut changes = Changes::default();
    policy_sets(present, wanted, &mut changes)?;
    let (before, after) = (&present.compiled.addresses, &wanted.compiled.addresses);
    changes.gone.extend(lacking(before, after).map(|(address, class)| of_address(*address, *class)));
    changes.come.extend(lacking(after, before).map(|(address, class)| of_address(*address, *class)));
    endpoints(present, wanted, &mut changes)?;
    Some(changes)
}

/// What `these` have and `those` lack, or have with another value.
fn lacking<'a, K: Ord, V: PartialEq>(
    these: &'a BTreeMap<K, V>,
    those: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    these.iter().filter(|(key, value)| those.get(key) != Some(*value))
}

/// Classes that are new in a policy set, or have another verdict. A set that comes or goes, and one that says something
/// else to everybody, has other chains and rules.
fn policy_sets(present: &Wanted, wanted: &Wanted, changes: &mut Changes) -> Option<()> {
    let (before, after) = (&present.compiled.sets, &wanted.compiled.sets);
    if !before.keys().eq(after.keys()) {
        return None;
    }
    for ((id, before), after) in before.iter().zip(after.values()) {
        let ways = [(Way::In, &before.ingress, &after.ingress), (Way::Out, &before.egress, &after.egress)];
        for (way, before, after) in ways {
            let (Some(before), Some(after)) = (before, after) else {
                if before.is_some() == after.is_some() {
                    continue;
                }
                return None;
            };
            if before.any != after.any {
                return None;
            }
            let entries = |these: &Direction, those: &Direction| -> Vec<Entry> {
                let differing = lacking(&these.classes, &those.classes);
                differing
                    .flat_map(|(class, entries)| of_class(&chain_of(*id, way), *class, entries))
                    .collect()
            };
            changes.gone.extend(entries(before, after));
            changes.come.extend(entries(after, before));
        }
    }
    Some(())
}

fn endpoints(present: &Wanted, wanted: &Wanted, changes: &mut Changes) -> Option<()> {
    let (before, after) = (&present.endpoints, &wanted.endpoints);
    let mut touched: BTreeSet<&EndpointId> = BTreeSet::new();
    let mut pods: BTreeSet<&PodRef> = BTreeSet::new();
    for (id, admitted) in lacking(before, after).chain(lacking(after, before)) {
        touched.insert(id);
        pods.extend(admitted.endpoint.pod.as_ref());
    }
    if touched.is_empty() {
        return Some(());
    }
    // A pod may send from the addresses of all its interfaces, so one of them touches the others.
    let of_pods = |(id, admitted)| is_of(admitted, &pods).then_some(id);
    touched.extend(before.iter().chain(after).filter_map(of_pods));
    for (side, entries) in [(present, &mut changes.gone), (wanted, &mut changes.come)] {
        let of_pod = addresses_of_pods(side);
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for id in &touched {
            let Some(admitted) = side.endpoints.get(*id) else { continue };
            let pod = admitted.endpoint.pod.as_ref().and_then(|pod| of_pod.get(pod));
            let sources = pod.unwrap_or(&admitted.endpoint.addresses);
            entries.extend(of_endpoint(admitted, sources, &side.compiled));
            for address in &admitted.endpoint.addresses {
                if !addresses.insert(*address) {
                    return None;
                }
            }
        }
        // Two endpoints with one address share an element, which one of them alone must not take away.
        let others = side.endpoints.iter().filter(|(id, _)| !touched.contains(id));
        if others.flat_map(|(_, other)| &other.endpoint.addresses).any(|address| addresses.contains(address))
        {
            return None;
        }
    }
    Some(())
}

fn is_of(admitted: &Admitted, pods: &BTreeSet<&PodRef>) -> bool {
    admitted.endpoint.pod.as_ref().is_some_and(|pod| pods.contains(pod))
}

fn by_set(entries: &[Entry]) -> Option<BTreeMap<&str, Vec<Element>>> {
    let mut sets: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
    for entry in entries {
        sets.entry(&entry.set).or_default().push(element(&entry.key, entry.data.as_ref())?);
    }
    Some(sets)
}

fn element(key: &[Field], data: Option<&Data>) -> Option<Element> {
    let mut octets = Vec::new();
    for field in key {
        match field {
            Field::Interface(name) => {
                let start = octets.len();
                octets.extend(name.as_bytes());
                octets.resize(start + IFNAME, 0);
            }
            // As the packet priority is: a number of this machine.
            Field::Class(class) => octets.extend(class.0.to_ne_bytes()),
            Field::Address(IpAddr::V4(address)) => octets.extend(address.octets()),
            Field::Address(IpAddr::V6(address)) => octets.extend(address.octets()),
            Field::Number(_) | Field::Numbers(..) | Field::Addresses(..) => return None,
        }
    }
    let value = data.map(|data| match data {
        Data::Class(class) => Value::Octets(class.0.to_ne_bytes().to_vec()),
        Data::Jump(chain) => Value::Jump(chain.clone()),
        Data::Return => Value::Return,
        Data::Drop => Value::Drop,
    });
    Some(Element { key: octets, value })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

    use margay_api::endpoint::{Endpoint, EndpointId, PodRef};
    use margay_policy::{
        ClassId, PolicySetId, PortSet,
        compile::{Compiled, Direction, Entries, PolicySet},
    };
    use proptest::{collection::btree_map, option, prelude::*, sample::select};

    use super::{Changes, changes, transaction};
    use crate::{
        decide::{Admitted, Wanted},
        program::nft::{layout, ruleset::Ruleset},
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

    fn applied(mut ruleset: Ruleset, Changes { gone, come }: Changes) -> Ruleset {
        for entry in gone {
            let set = ruleset.sets.get_mut(&entry.set).unwrap();
            assert_eq!(set.elements.remove(&entry.key), Some(entry.data), "{:?} in {}", entry.key, entry.set);
        }
        for entry in come {
            let set = ruleset.sets.get_mut(&entry.set).unwrap();
            assert_eq!(set.elements.insert(entry.key, entry.data), None, "in {}", entry.set);
        }
        ruleset
    }

    proptest! {
        #[test]
        fn the_difference_makes_the_wanted_table_of_the_present_one(present in wanted(), wanted in wanted()) {
            if let Some(changes) = changes(&present, &wanted) {
                prop_assert_eq!(applied(layout(&present), changes), layout(&wanted));
            }
        }

        #[test]
        fn pods_of_their_own_that_come_and_go_are_always_elements_alone(wanted in wanted(), kept in any::<u8>()) {
            let mut holders: BTreeMap<IpAddr, usize> = BTreeMap::new();
            for admitted in wanted.endpoints.values() {
                *holders.entry(admitted.endpoint.addresses[0]).or_default() += 1;
            }
            prop_assume!(holders.values().all(|count| *count == 1));
            let mut fewer = wanted.clone();
            let mut place = 0;
            fewer.endpoints.retain(|_, _| {
                place += 1;
                kept & (1 << place) != 0
            });
            prop_assert!(transaction(&fewer, &wanted).is_some() && transaction(&wanted, &fewer).is_some());
        }
    }
}
