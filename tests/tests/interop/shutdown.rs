//! An orderly end says goodbye and leaves the kernel as the flag says.

use nix::sys::signal::Signal;

use crate::harness::{EXTERNAL, Pair, contains, eventually};

const INSTALLED: [&str; 2] = ["198.51.100.0/24 via 192.0.2.1", "blackhole 203.0.113.0/25"];

#[test]
fn sigterm_keeps_routes_here_and_at_a_neighbour_that_restarts_gracefully() {
    let mut pair = Pair::established(EXTERNAL);
    eventually("routes are in the kernel", || contains(&pair.kernel_routes(), &INSTALLED));
    let status = pair.speaker.take().unwrap().end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    contains(&pair.birdc("show protocols all peer"), &["Neighbor graceful restart active"]).unwrap();
    contains(&pair.birdc("show route protocol peer"), &["203.0.113.0/25", "2001:db8:200::/40"]).unwrap();
    contains(&pair.kernel_routes(), &INSTALLED).unwrap();
}

#[test]
fn routes_go_at_the_end_if_the_flag_says_so() {
    let mut pair = Pair::new(EXTERNAL);
    pair.start_bird();
    pair.start_speaker(&["--keep-routes-on-exit", "false"]);
    pair.configure(&pair.config());
    eventually("routes are in the kernel", || contains(&pair.kernel_routes(), &INSTALLED));
    let status = pair.speaker.take().unwrap().end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    assert_eq!(pair.kernel_routes(), "");
    contains(&pair.birdc("show protocols all peer"), &["Administrative shutdown"]).unwrap();
    assert_eq!(pair.birdc("show route protocol peer").lines().count(), 1, "no route of ours is left");
}
