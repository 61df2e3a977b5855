//! State files of a node, half-written or edited: endpoint records, what the agent leaves for `margayctl`, and its copy of
//! `NetworkConfig`. The first octet chooses the file.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use margay_api::{
    endpoint::{Endpoint, EndpointId, Records},
    left,
    pools::Snapshot,
    resource::NetworkConfigSpec,
    ways::Ways,
};
use margay_fuzz::Folder;

fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_first() else { return };
    let folder = Folder::new();
    let dir = folder.path();
    match choice % 4 {
        0 => record(dir, text),
        1 => {
            fs::write(dir.join("pools.json"), text).expect("a file");
            if let Ok(read) = Snapshot::read(dir) {
                let read = read.expect("it is there");
                read.write(dir).expect("written");
                assert_eq!(Snapshot::read(dir).expect("read"), Some(read));
            }
        }
        2 => {
            fs::write(dir.join("ways.json"), text).expect("a file");
            if let Ok(read) = Ways::read(dir) {
                let read = read.expect("it is there");
                read.write(dir).expect("written");
                assert_eq!(Ways::read(dir).expect("read"), Some(read));
            }
        }
        _ => {
            fs::write(dir.join("copy.json"), text).expect("a file");
            type Copy = Option<NetworkConfigSpec>;
            if let Ok(read) = left::read::<Copy>(dir, "copy.json") {
                let read = read.expect("it is there");
                left::write(dir, "copy.json", &read).expect("written");
                assert_eq!(left::read::<Copy>(dir, "copy.json").expect("read"), Some(read));
            }
        }
    }
});

fn record(dir: &std::path::Path, text: &[u8]) {
    let records = Records::below(dir);
    let good = Endpoint {
        container_id: "good".into(),
        ifname: "eth0".into(),
        network: "margay".into(),
        netns: "/run/netns/good".into(),
        host_ifname: EndpointId::of("good", "eth0").host_ifname(),
        mac: "02:00:00:00:00:01".into(),
        host_mac: "02:00:00:00:00:02".into(),
        addresses: vec![],
        mtu: 1500,
        pod: None,
    };
    records.write(&good).expect("written");
    let id: EndpointId = "0123456789ab".parse().expect("an ID");
    let file = records.dir().join(format!("{id}.json"));
    fs::write(&file, text).expect("a file");
    // Whatever is in it, it hides no other, and whoever is told of it is told which it is.
    let listing = records.list().expect("listed");
    assert!(listing.endpoints.contains(&good), "the good one is hidden");
    assert_eq!(listing.endpoints.len() + listing.damaged.len(), 2);
    match records.read(&id) {
        Ok(read) => {
            let read = read.expect("it is there");
            fs::remove_file(&file).expect("removed");
            records.write(&read).expect("written");
            assert_eq!(records.read(&read.id()).expect("read"), Some(read));
            let inside = fs::read_dir(records.dir()).expect("listed").count();
            assert!(inside <= 2, "{inside} files, and nothing outside");
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains(&file.display().to_string()), "{said}");
            // A damaged record is removed like another.
            records.remove(&id).expect("removed");
            assert_eq!(records.read(&id).expect("read"), None);
        }
    }
}
