//! Rules of the store, on a real file system.

use std::{collections::BTreeSet, fs, net::IpAddr, path::PathBuf, thread};

use proptest::prelude::*;

use super::{
    Choice, Error, Held, Store,
    file::{HEADER, SLOT},
};
use crate::Owner;

fn owner(number: usize) -> Owner {
    Owner::new(&format!("container-{number}"), "eth0").unwrap()
}

fn store(blocks: &[&str]) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    set(&store, blocks);
    (dir, store)
}

fn set(store: &Store, blocks: &[&str]) {
    let networks: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
    store.set_blocks(&networks).unwrap();
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn file(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    dir.path().join("blocks").join(name)
}

#[test]
fn a_file_under_the_name_of_another_block_hands_nothing_out() {
    let (dir, store) = store(&["192.0.2.0/28", "192.0.2.128/28"]);
    fs::rename(file(&dir, "192.0.2.128-28.block"), file(&dir, "192.0.2.0-28.block")).unwrap();
    let network = "192.0.2.0/28".parse().unwrap();
    let refused = store.allocate_from(&owner(1), Choice { blocks: &[network], ..Choice::default() });
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("192.0.2.0-28.block is damaged: its header names another network"), "{refused}");
}

#[test]
fn what_is_written_behind_a_block_is_no_address_of_it() {
    let (dir, store) = store(&["192.0.2.0/28"]);
    let path = file(&dir, "192.0.2.0-28.block");
    let mut octets = fs::read(&path).unwrap();
    octets.resize(HEADER + 40 * SLOT, 0);
    octets[HEADER + 20 * SLOT..].fill(0xff);
    fs::write(&path, &octets).unwrap();
    assert_eq!(store.allocations().unwrap(), []);
    assert!(store.allocate(&owner(1), &[]).is_ok());
}

#[test]
fn a_slot_that_is_cut_off_within_its_zeros_is_whole() {
    let (dir, store) = store(&["192.0.2.0/28"]);
    store.allocate(&owner(1), &[]).unwrap();
    let held = store.allocations().unwrap();
    let path = file(&dir, "192.0.2.0-28.block");
    let octets = fs::read(&path).unwrap();
    fs::write(&path, &octets[..octets.len() - 60]).unwrap();
    assert_eq!(store.allocations().unwrap(), held);
    store.allocate(&owner(2), &[]).unwrap();
    assert_eq!(store.allocations().unwrap()[0], held[0]);
}

#[test]
fn an_owner_gets_one_address_of_each_family_and_keeps_it() {
    let (_dir, store) = store(&["2001:db8::/64", "192.0.2.0/24"]);
    let first = store.allocate(&owner(1), &[]).unwrap();
    assert_eq!(first.addresses, ips(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(first.held, Held::Newly);
    let again = store.allocate(&owner(1), &[]).unwrap();
    assert_eq!((again.addresses, again.held), (first.addresses.clone(), Held::Before));
    assert_eq!(store.release(&owner(1)).unwrap(), first.addresses);
    assert_eq!(store.release(&owner(1)).unwrap(), ips(&[]));
    assert_eq!(store.allocate(&owner(2), &[]).unwrap().addresses, ips(&["192.0.2.2", "2001:db8::2"]));
}

#[test]
fn a_full_family_is_an_error_that_says_what_to_do_and_takes_nothing_of_the_other() {
    let (_dir, store) = store(&["192.0.2.0/24", "2001:db8::/127"]);
    store.allocate(&owner(1), &[]).unwrap();
    let error = store.allocate(&owner(2), &[]).unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }));
    assert!(error.to_string().contains("2001:db8::/127"), "{error}");
    assert_eq!(store.allocations().unwrap().len(), 2);
    assert_eq!(store.free().unwrap(), [Some(253), Some(0)]);
}

#[test]
fn a_wish_is_met_or_refused_with_the_reason() {
    let (_dir, store) = store(&["192.0.2.0/24"]);
    assert_eq!(store.allocate(&owner(1), &ips(&["192.0.2.77"])).unwrap().addresses, ips(&["192.0.2.77"]));
    assert!(matches!(store.allocate(&owner(2), &ips(&["192.0.2.77"])), Err(Error::Taken { .. })));
    assert!(matches!(store.allocate(&owner(2), &ips(&["198.51.100.1"])), Err(Error::NotOurs(_))));
    assert!(matches!(store.allocate(&owner(2), &ips(&["192.0.2.0"])), Err(Error::NotOurs(_))));
    assert_eq!(store.allocations().unwrap().len(), 1);
}

#[test]
fn without_a_block_the_error_names_the_pod_cidr() {
    let (_dir, store) = store(&[]);
    let error = store.allocate(&owner(1), &[]).unwrap_err();
    assert!(error.to_string().contains("podCIDR"), "{error}");
}

#[test]
fn a_block_no_longer_named_gives_no_address_and_goes_with_its_last() {
    let (dir, store) = store(&["192.0.2.0/24"]);
    store.allocate(&owner(1), &[]).unwrap();
    set(&store, &["198.51.100.0/24"]);
    assert_eq!(store.allocate(&owner(2), &[]).unwrap().addresses, ips(&["198.51.100.1"]));
    assert_eq!(store.allocations().unwrap().len(), 2);
    store.release(&owner(1)).unwrap();
    assert!(!file(&dir, "192.0.2.0-24.block").exists());
    assert_eq!(store.blocks().unwrap(), ["198.51.100.0/24".parse().unwrap()]);
}

#[test]
fn a_torn_slot_counts_as_held_and_a_torn_header_is_reported_with_its_file() {
    let (dir, store) = store(&["192.0.2.0/24"]);
    store.allocate(&owner(1), &[]).unwrap();
    let path = file(&dir, "192.0.2.0-24.block");
    let mut octets = fs::read(&path).unwrap();
    octets[HEADER + SLOT + 40] ^= 1;
    fs::write(&path, &octets).unwrap();
    assert_eq!(store.allocations().unwrap()[0].owner, None);
    assert_eq!(store.allocate(&owner(2), &[]).unwrap().addresses, ips(&["192.0.2.2"]));
    fs::write(&path, b"nonsense").unwrap();
    assert!(store.allocate(&owner(3), &[]).unwrap_err().to_string().contains("192.0.2.0-24.block"));
}

#[test]
fn many_at_once_never_get_the_same_address() {
    let (_dir, store) = store(&["192.0.2.0/24", "2001:db8::/64"]);
    let store = &store;
    let addresses: Vec<IpAddr> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    (0..30)
                        .flat_map(|number| {
                            store.allocate(&owner(thread * 100 + number), &[]).unwrap().addresses
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(addresses.len(), 480);
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 480);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The file says after each step what a map in memory says.
    #[test]
    fn the_file_agrees_with_a_model(steps in prop::collection::vec((0_usize..9, any::<bool>()), 1..60)) {
        let (_dir, store) = store(&["192.0.2.0/29", "2001:db8::/125"]);
        let mut model = std::collections::BTreeMap::new();
        for (number, add) in steps {
            let owner = owner(number);
            if add {
                match store.allocate(&owner, &[]) {
                    Ok(reserved) => {
                        let before = model.insert(owner, reserved.addresses.clone());
                        prop_assert!(before.is_none_or(|addresses| addresses == reserved.addresses));
                    }
                    Err(error) => {
                        prop_assert!(matches!(error, Error::Exhausted { .. }), "{}", error);
                        prop_assert_eq!(model.len(), 6);
                    }
                }
            } else {
                let freed = store.release(&owner).unwrap();
                prop_assert_eq!(freed, model.remove(&owner).unwrap_or_default());
            }
            let mut expected: Vec<_> = model
                .iter()
                .flat_map(|(owner, addresses)| addresses.iter().map(move |address| (*address, owner.clone())))
                .collect();
            expected.sort();
            let found: Vec<_> =
                store.allocations().unwrap().into_iter().map(|a| (a.address, a.owner.unwrap())).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

fn nets(texts: &[&str]) -> Vec<ipnetwork::IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn addresses_come_from_the_blocks_named_in_their_order_without_the_excluded_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let all = nets(&["192.0.2.0/29", "192.0.2.8/29", "192.0.2.16/29"]);
    store.set_blocks(&all).unwrap();
    let (blocks, excluded) =
        (nets(&["192.0.2.8/29", "192.0.2.0/29"]), nets(&["192.0.2.8/30", "192.0.2.2/32"]));
    let mut taken = Vec::new();
    for number in 0..8 {
        let holder = owner(number);
        let choice = Choice { blocks: &blocks, excluded: &excluded, wishes: &[] };
        taken.extend(store.allocate_from(&holder, choice).unwrap().addresses);
    }
    let taken: Vec<String> = taken.iter().map(ToString::to_string).collect();
    let last = ["12", "13", "14", "1", "3", "4", "5", "6"];
    assert_eq!(taken, last.map(|octet| format!("192.0.2.{octet}")));
    let holder = owner(99);
    let choice = Choice { blocks: &blocks, excluded: &excluded, wishes: &[] };
    assert!(matches!(store.allocate_from(&holder, choice), Err(Error::Exhausted { .. })));
    let choice = Choice { wishes: &["192.0.2.9".parse().unwrap()], ..choice };
    assert!(matches!(store.allocate_from(&holder, choice), Err(Error::Withheld(_))));
    let usage = store.usage(|address| excluded.iter().any(|range| range.contains(address))).unwrap();
    let counts: Vec<_> = usage.iter().map(|usage| (usage.held, usage.free)).collect();
    assert_eq!(counts, [(5, 0), (3, 0), (0, 6)]);
}

#[test]
fn a_block_is_given_back_empty_or_not_at_all_whoever_comes_at_that_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    let blocks = nets(&["192.0.2.0/29"]);
    for round in 0..200 {
        store.activate(blocks[0]).unwrap();
        let holder = owner(round);
        let choice = Choice { blocks: &blocks, ..Choice::default() };
        let (added, removed) = thread::scope(|scope| {
            let adding = scope.spawn(|| store.allocate_from(&holder, choice));
            let removed = store.remove_if_empty(blocks[0]).unwrap();
            (adding.join().unwrap(), removed)
        });
        assert_eq!(added.is_ok(), !removed, "round {round}: {added:?}");
        assert_eq!(store.allocations().unwrap().len(), usize::from(!removed));
        store.release(&holder).unwrap();
    }
}

#[test]
fn a_block_that_was_lost_gives_nobody_an_address_that_an_endpoint_has() {
    let (_dir, store) = store(&["192.0.2.0/29"]);
    let kept = ips(&["192.0.2.1", "192.0.2.2", "198.51.100.1"]);
    assert_eq!(store.hold(&owner(1), &kept).unwrap(), ips(&["192.0.2.1", "192.0.2.2"]));
    assert_eq!(store.hold(&owner(1), &kept).unwrap(), ips(&[]));
    assert_eq!(store.hold(&owner(2), &kept).unwrap(), ips(&[]), "another holds them");
    let networks = nets(&["192.0.2.0/29"]);
    let choice = Choice { blocks: &networks, ..Choice::default() };
    assert_eq!(store.allocate_from(&owner(2), choice).unwrap().addresses, ips(&["192.0.2.3"]));
}

#[test]
fn a_block_of_another_version_is_refused_by_its_number() {
    let (dir, store) = store(&["192.0.2.0/29"]);
    let path = dir.path().join("blocks/192.0.2.0-29.block");
    let mut octets = fs::read(&path).unwrap();
    // As the first version wrote it.
    assert!(octets.starts_with(b"MGYBLK\x00\x01\x01\x0c192.0.2.0/29\x00"));
    octets[7] = 9;
    fs::write(&path, &octets).unwrap();
    let refused = store.allocations().unwrap_err().to_string();
    assert!(refused.contains("is of version 9") && refused.contains("knows version 1"), "{refused}");
}
