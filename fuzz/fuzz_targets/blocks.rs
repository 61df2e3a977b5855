//! A block of addresses on disk, torn or edited: no address is handed out that somebody holds, or that is of another block.
#![no_main]

use std::{collections::BTreeMap, fs, net::IpAddr};

use ipnetwork::IpNetwork;
use libfuzzer_sys::fuzz_target;
use margay_fuzz::Folder;
use margay_ipam::{Choice, Error, Owner, Store};

fuzz_target!(|octets: &[u8]| {
    let folder = Folder::new();
    let block: IpNetwork = "192.0.2.0/28".parse().expect("a network");
    let file = folder.path().join("blocks/192.0.2.0-28.block");
    fs::create_dir(folder.path().join("blocks")).expect("a folder");
    fs::write(&file, octets).expect("a file");
    let store = Store::new(folder.path());
    let held = || store.allocations().map(|all| all.into_iter().map(|it| (it.address, it.owner)).collect());
    let before: BTreeMap<IpAddr, Option<Owner>> = match held() {
        Ok(before) => before,
        Err(error) => return refused(&error, &file, octets),
    };
    assert!(before.keys().all(|address| block.contains(*address)), "an address of another block: {before:?}");

    let owner = Owner::new("container", "eth0").expect("an owner");
    let had: Vec<IpAddr> =
        before.iter().filter(|(_, it)| it.as_ref() == Some(&owner)).map(|(at, _)| *at).collect();
    match store.allocate_from(&owner, Choice { blocks: &[block], ..Choice::default() }) {
        Ok(reserved) => {
            let [address] = reserved.addresses[..] else { panic!("{:?}", reserved.addresses) };
            assert!(block.contains(address), "{address} is of another block");
            assert!(had.contains(&address) || !before.contains_key(&address), "{address} is somebody's");
            let mut expected = before.clone();
            expected.insert(address, Some(owner.clone()));
            assert_eq!(held().expect("still readable"), expected, "nothing else has changed");
        }
        Err(_) => assert_eq!(held().expect("still readable"), before, "refused, and nothing has changed"),
    }
    store.release(&owner).expect("freed");
    let mut expected = before;
    expected.retain(|_, holder| holder.as_ref() != Some(&owner));
    assert_eq!(held().expect("still readable"), expected, "what others hold stays");
});

/// A file that cannot be read is named, and stays as it is.
fn refused(error: &Error, file: &std::path::Path, octets: &[u8]) {
    let named = error.to_string().contains(&file.display().to_string());
    assert!(named, "{error}");
    assert_eq!(fs::read(file).expect("the file"), octets);
}
