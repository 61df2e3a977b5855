//! Datagrams of the kernel about connections, logged packets, nftables and xfrm. The first octet chooses whose decoder reads them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_netlink::{fuzzing, nflog::Packet};

fuzz_target!(|input: &[u8]| {
    let Some((choice, datagram)) = input.split_first() else { return };
    match choice % 4 {
        0 => drop(fuzzing::conntrack(datagram)),
        1 => {
            for logged in fuzzing::nflog(datagram) {
                let _read = Packet::parse(&logged.payload);
            }
        }
        2 => fuzzing::nftables(datagram),
        _ => drop(fuzzing::xfrm(datagram)),
    }
});
