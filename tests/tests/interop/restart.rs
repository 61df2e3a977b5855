//! A speaker that dies and comes back costs no kernel route.

use margay_bgp::config::DynamicNeighbors;
use nix::sys::signal::Signal;

use crate::harness::{EXTERNAL, INTERNAL, Pair, contains, eventually, lacks, prefix};

const KEPT: &str = "2001:db8:100::/40 via 2001:db8::1";

#[test]
fn a_killed_speaker_comes_back_without_losing_a_kernel_route() {
    for session in [EXTERNAL, INTERNAL] {
        let mut pair = Pair::established(session);
        let installed = ["198.51.100.0/24 via 192.0.2.1", KEPT, "blackhole 203.0.113.0/25"];
        eventually("all routes are in the kernel", || contains(&pair.kernel_routes(), &installed));
        let log = pair.watch_routes();
        pair.speaker.take().unwrap().end(Signal::SIGKILL);
        contains(&pair.kernel_routes(), &installed).unwrap();
        // While nobody listens, one route is withdrawn: it must go once the speaker is back.
        pair.birdc("disable s4");
        pair.start_speaker(&[]);
        contains(&pair.kernel_routes(), &installed).unwrap();
        pair.configure(&pair.config());
        pair.wait_established();
        eventually("what was withdrawn meanwhile goes", || {
            lacks(&pair.kernel_routes(), &["198.51.100.0/24"])
        });
        contains(&pair.kernel_routes(), &[KEPT, "blackhole 203.0.113.0/25"]).unwrap();
        let changes = log.text();
        for kept in ["2001:db8:100::/40", "203.0.113.0/25", "2001:db8:200::/40"] {
            let lost = changes.lines().any(|line| line.contains("Deleted") && line.contains(kept));
            assert!(!lost, "{kept} was gone for a while:\n{changes}");
        }
    }
}

#[test]
fn routes_of_neighbours_that_come_unannounced_stay_until_they_could_have_come() {
    let mut pair = Pair::established(EXTERNAL);
    let mut config = pair.config();
    config.neighbors.clear();
    config.dynamic_neighbors = vec![DynamicNeighbors::new(prefix("192.0.2.0/24"), "64496".parse().unwrap())];
    config.deferral_time = 5;
    config.kernel.settle_time = 1;
    pair.configure(&config);
    let installed = ["198.51.100.0/24 via 192.0.2.1", KEPT];
    eventually("all routes are in the kernel", || contains(&pair.kernel_routes(), &installed));
    let log = pair.watch_routes();
    pair.speaker.take().unwrap().end(Signal::SIGKILL);
    pair.birdc("disable s4");
    pair.start_speaker(&[]);
    pair.configure(&config);
    eventually("what was withdrawn meanwhile goes", || lacks(&pair.kernel_routes(), &["198.51.100.0/24"]));
    contains(&pair.kernel_routes(), &[KEPT]).unwrap();
    let changes = log.text();
    let lost = changes.lines().any(|line| line.contains("Deleted") && line.contains("2001:db8:100::/40"));
    assert!(!lost, "it was gone for a while:\n{changes}");
}
