//! What leaves the cluster with a node's address.

use margay_netlink::nftables::{Base, Chain, ChainKind, Expr, Field, Found, Hook, Policy, SetKind, Type};

use super::super::{
    rule::{self, Address, Family, rule},
    table::Table,
};
use super::{Entry, by_family};
use crate::decide::Masquerade;

/// What masquerading takes: the sources, and the destinations that see them. They are there only with it: a chain that
/// may translate costs each new connection of the node a look.
const MASQUERADING: [(Family, &str, &str, &[Type]); 2] = [
    (Family::V4, "masqueraded4", "inside4", &[Type::Ipv4Addr]),
    (Family::V6, "masqueraded6", "inside6", &[Type::Ipv6Addr]),
];

const POSTROUTING: &str = "postrouting";
/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

/// Wants this masqueraded, and nothing else.
pub(crate) fn put_masquerade(table: &mut Table, masquerade: &Masquerade) {
    remove_masquerade(table);
    let mut rules = Vec::new();
    for (family, sources, inside, key) in MASQUERADING {
        for name in [sources, inside] {
            table.put_set(name, SetKind { key, data: None, intervals: true });
        }
        rules.push(rule([
            rule::address_in(family, Address::Source, sources, Found::Is),
            rule::address_in(family, Address::Destination, inside, Found::IsNot),
            vec![Expr::Masquerade],
        ]));
    }
    let ranges = masquerade.sources.iter().map(|range| (range, "masqueraded4", "masqueraded6"));
    let kept = masquerade.kept.iter().map(|range| (range, "inside4", "inside6"));
    for (range, v4, v6) in ranges.chain(kept) {
        let key = vec![Field::Addresses(range.first, range.last)];
        Entry { set: by_family(range.first, v4, v6), key, data: None }.put(table);
    }
    let base =
        Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: SOURCE_NAT, policy: Policy::Accept };
    table.put_chain(POSTROUTING, Chain { base: Some(base), rules });
}

/// Wants nothing masqueraded.
pub(crate) fn remove_masquerade(table: &mut Table) {
    table.remove_chain(POSTROUTING);
    for (_, sources, inside, _) in MASQUERADING {
        table.remove_set(sources);
        table.remove_set(inside);
    }
}
