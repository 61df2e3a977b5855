//! Datagrams of the kernel about links, addresses, routes, neighbours, forwarding entries, queueing disciplines and their filters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_netlink::{Event, fuzzing};

fuzz_target!(|datagram: &[u8]| {
    for event in fuzzing::rtnetlink(datagram).into_iter().flatten() {
        match event {
            Event::RouteChanged(route) | Event::RouteGone(route) => {
                assert!(route.to_string().contains(&route.destination.to_string()));
            }
            Event::LinkChanged(link) | Event::LinkGone(link) => assert!(link.name.len() <= datagram.len()),
            _ => {}
        }
    }
});
