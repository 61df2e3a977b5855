//! The difference of two tables, where it is of elements alone, in the kernel's own form.
//!
//! A pod that comes or goes changes a handful of elements. Written to the kernel from here that takes some ten
//! microseconds; a process of `nft` would take milliseconds.

use std::net::IpAddr;

use margay_netlink::nftables::{Element, Elements, Transaction, Value};

use super::ruleset::{Data, Field, Ruleset, Set, TABLE};

/// Octets of an interface name in a key (`IFNAMSIZ`).
const IFNAME: usize = 16;

/// The transaction from `present` to `wanted`; `None` when it is more than elements without intervals, or longer than
/// one send takes: then it is for `nft`.
pub(super) fn transaction(present: &Ruleset, wanted: &Ruleset) -> Option<Transaction> {
    if present.chains != wanted.chains || !present.sets.keys().eq(wanted.sets.keys()) {
        return None;
    }
    let mut transaction = Transaction::new(TABLE);
    let pairs = || present.sets.iter().zip(wanted.sets.values());
    // All that goes, then all that comes: a key with a new value is both.
    for ((name, before), after) in pairs() {
        if before.elements != after.elements && (before.interval || !before.is_same_kind(after)) {
            return None;
        }
        transaction.delete(name, &lacking(before, after)?);
        if transaction.octets() > Elements::MAX_OCTETS {
            return None;
        }
    }
    for ((name, before), after) in pairs() {
        transaction.add(name, &lacking(after, before)?);
        if transaction.octets() > Elements::MAX_OCTETS {
            return None;
        }
    }
    Some(transaction)
}

/// The elements of `these` that `those` lacks or has with another value.
fn lacking(these: &Set, those: &Set) -> Option<Vec<Element>> {
    let differing = these.elements.iter().filter(|(key, data)| those.elements.get(*key) != Some(*data));
    differing.map(|(key, data)| element(key, data.as_ref())).collect()
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
