//! A peer that asks for all routes again gets them, without a flap.

use crate::harness::{contains, eventually};
use crate::lab::{Daemon, Lab, Setup};

#[test]
fn bird_gets_all_again_between_marks() {
    let lab = Lab::converged(64497, vec![Setup::new(Daemon::Bird)]);
    let peer = &lab.peers[0];
    peer.ask("reload in peer");
    eventually("bird got the marks", || contains(&peer.log(), &["Got BEGIN-OF-RR", "Got END-OF-RR"]));
    unharmed(&lab);
    // The other way: what BIRD tells again is no news.
    peer.ask("reload out peer");
    unharmed(&lab);
}

#[test]
fn frr_gets_all_again() {
    let lab = Lab::converged(64497, vec![Setup::new(Daemon::Frr)]);
    let peer = &lab.peers[0];
    peer.ask("clear bgp 192.0.2.2 soft in");
    eventually("frr asked", || {
        let session = peer.session()?;
        if session.contains("\"routeRefreshSent\":0") { Err(session) } else { Ok(()) }
    });
    unharmed(&lab);
}

#[test]
fn gobgp_gets_all_again() {
    let lab = Lab::converged(64497, vec![Setup::new(Daemon::Gobgp)]);
    lab.peers[0].ask("neighbor 192.0.2.2 softresetin");
    unharmed(&lab);
}

fn unharmed(lab: &Lab) {
    lab.wait_converged();
    let status = lab.neighbor(&lab.peers[0]).unwrap();
    assert_eq!((status.last_error, status.prefixes_received, status.prefixes_advertised), (None, 3, 2));
}
