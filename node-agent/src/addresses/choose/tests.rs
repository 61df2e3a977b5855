//! Rules of who gets which addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnetwork::IpNetwork;
use margay_api::agent::{Addressing, NoAddress};
use margay_ipam::{Assignment, Claimed, Local, Pool, Range, Supply};

use super::{Choice, Known, Waits, choose};
use crate::addresses::Wanted;

struct State {
    pools: BTreeMap<String, Pool>,
    blocks: BTreeMap<IpNetwork, Claimed>,
    local: BTreeMap<IpNetwork, Local>,
    full: BTreeSet<String>,
    own: BTreeSet<IpAddr>,
}

fn pool(created: i64, cidr: &str, assignment: Assignment) -> Pool {
    let size = if cidr.contains(':') { 122 } else { 26 };
    Pool {
        created,
        range: Range::new(cidr, Some(size), &["10.0.0.32/27".to_owned(), "10.0.0.70".to_owned()]),
        selects_node: true,
        assignment,
        supply: Supply::Open,
    }
}

/// Two automatic pools of IPv4, the second by name the older one, one of IPv6, and a manual one.
fn state(local: &[(&str, u64)], others: &[(&str, &str)]) -> State {
    let claimed = |node: &str| Claimed { node: node.into(), owner: None };
    let ours = local.iter().map(|(block, _)| (*block, "n1"));
    let in_use = |(block, free): &(&str, u64)| {
        (block.parse().unwrap(), Local { active: true, held: 1, free: *free, empty_for: Duration::ZERO })
    };
    State {
        pools: [
            ("a".to_owned(), pool(2, "10.1.0.0/16", Assignment::Automatic)),
            ("b".to_owned(), pool(1, "10.0.0.0/16", Assignment::Automatic)),
            ("manual".to_owned(), pool(0, "10.9.0.0/16", Assignment::Manual)),
            ("six".to_owned(), pool(3, "2001:db8::/64", Assignment::Automatic)),
        ]
        .into(),
        blocks: ours
            .chain(others.iter().copied())
            .map(|(block, node)| (block.parse().unwrap(), claimed(node)))
            .collect(),
        local: local.iter().map(in_use).collect(),
        full: BTreeSet::new(),
        own: ["10.0.0.66".parse().unwrap(), "192.0.2.1".parse().unwrap()].into(),
    }
}

fn ask(state: &State, pools: Option<&[&str]>, addresses: &[&str]) -> Choice {
    let State { pools: all, blocks, local, full, own } = state;
    let known = Known { node: "n1", pools: all, blocks, local, full, own };
    let named =
        pools.map(|names| (names.iter().map(|name| (*name).to_owned()).collect(), "pod x/y".to_owned()));
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    choose(&known, &Wanted { pools: named, addresses })
}

fn blocks(choice: Choice) -> Vec<String> {
    match choice {
        Choice::Take(addressing) => addressing.blocks.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn waits(pools: &[&str], addresses: &[(&str, &str)]) -> Choice {
    Choice::Wait(Waits {
        pools: pools.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|(pool, text)| ((*pool).to_owned(), text.parse().unwrap())).collect(),
    })
}

const SIX: (&str, u64) = ("2001:db8::/122", 9);

#[test]
fn the_older_pool_comes_first_and_of_its_blocks_the_fullest_with_room() {
    let all = [("10.0.0.0/26", 9), ("10.0.0.64/26", 3), ("10.0.0.128/26", 0), ("10.1.0.0/26", 1), SIX];
    let state = state(&all, &[]);
    assert_eq!(
        blocks(ask(&state, None, &[])),
        ["10.0.0.64/26", "10.0.0.0/26", "10.1.0.0/26", "2001:db8::/122"]
    );
    assert_eq!(
        blocks(ask(&state, Some(&["a"]), &[])),
        ["10.1.0.0/26"],
        "only the families of the pools named"
    );
    assert_eq!(
        blocks(ask(&state, Some(&["a", "b"]), &[])),
        ["10.1.0.0/26", "10.0.0.64/26", "10.0.0.0/26"],
        "in the order in which they are named"
    );
}

#[test]
fn reserved_and_own_addresses_in_those_blocks_are_excluded_and_no_others() {
    let choice = ask(&state(&[("10.0.0.64/26", 3), SIX], &[]), None, &[]);
    let Choice::Take(Addressing { excluded, .. }) = choice else { panic!("{choice:?}") };
    let excluded: BTreeSet<String> = excluded.iter().map(ToString::to_string).collect();
    assert_eq!(excluded, ["10.0.0.66/32", "10.0.0.70/32"].map(ToOwned::to_owned).into());
}

#[test]
fn without_a_free_address_a_block_is_waited_for_of_the_first_pool_that_is_not_full() {
    let mut state = state(&[("10.0.0.0/26", 0), SIX], &[]);
    assert_eq!(ask(&state, None, &[]), waits(&["b"], &[]));
    state.full.insert("b".into());
    assert_eq!(ask(&state, None, &[]), waits(&["a"], &[]));
    state.full.insert("a".into());
    let Choice::Refuse(NoAddress::Full, reason) = ask(&state, None, &[]) else { panic!("not full") };
    assert!(reason.contains("b (10.0.0.0/16), a (10.1.0.0/16)"), "{reason}");
}

#[test]
fn no_address_is_taken_from_a_block_whose_object_somebody_deleted() {
    let mut state = state(&[("10.0.0.64/26", 5), ("2001:db8::/122", 9)], &[]);
    assert_eq!(blocks(ask(&state, None, &[])), ["10.0.0.64/26", "2001:db8::/122"]);
    state.blocks.remove(&"10.0.0.64/26".parse().unwrap());
    assert_eq!(ask(&state, None, &[]), waits(&["b"], &[]));
    assert_eq!(ask(&state, Some(&["b"]), &["10.0.0.71"]), waits(&[], &[("b", "10.0.0.71")]));
}

#[test]
fn a_requested_address_is_taken_waited_for_or_refused_with_the_reason() {
    let state = state(&[("10.0.0.0/26", 9), SIX], &[("10.0.1.0/26", "n2")]);
    let choice = ask(&state, None, &["10.0.0.9"]);
    let Choice::Take(taken) = choice else { panic!("{choice:?}") };
    assert_eq!(taken.addresses, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(ask(&state, None, &["10.0.2.9"]), waits(&[], &[("b", "10.0.2.9")]));
    for (pools, address, word) in [
        (None, "10.0.1.9", "node n2"),
        (None, "10.9.0.9", "in no pool that the pod may use"),
        (Some(&["manual"][..]), "10.0.0.9", "in no pool that the pod may use"),
        (None, "10.0.0.33", "reserves"),
        (None, "10.0.0.0", "is not handed out"),
        (None, "10.0.0.66", "an interface of this node"),
    ] {
        match ask(&state, pools, &[address]) {
            Choice::Refuse(NoAddress::Refused, reason) => {
                assert!(reason.contains(word), "{address}: {reason}");
            }
            other => panic!("{address}: {other:?}"),
        }
    }
}

#[test]
fn pools_that_are_not_there_or_give_nothing_here_are_named() {
    let mut state = state(&[("10.0.0.0/26", 9), SIX], &[]);
    state.pools.get_mut("a").unwrap().selects_node = false;
    for (pools, word) in
        [(&["red"][..], "pool red, which does not exist"), (&["a"], "nodeSelector does not choose")]
    {
        match ask(&state, Some(pools), &[]) {
            Choice::Refuse(NoAddress::Refused, reason) => assert!(reason.contains(word), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(blocks(ask(&state, Some(&["a", "b"]), &[])), ["10.0.0.0/26"]);
    state.pools.retain(|name, _| name == "manual");
    let Choice::Refuse(NoAddress::Later, reason) = ask(&state, None, &[]) else { panic!("there is none") };
    assert!(reason.contains("make one"), "{reason}");
}
