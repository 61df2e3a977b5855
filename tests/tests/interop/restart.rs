//! A speaker that dies and comes back costs no kernel route.

use nix::sys::signal::Signal;

use crate::harness::{EXTERNAL, INTERNAL, Pair, contains, eventually, lacks};

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
