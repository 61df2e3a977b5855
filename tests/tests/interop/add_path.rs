//! Several paths to one prefix, sent to and received from each implementation that does it.

use crate::harness::eventually;
use crate::lab::{Daemon, Lab, Setup};

const SHARED: &str = "198.51.100.0/25";

/// How many paths a peer shows for the shared prefix.
fn paths(lab: &Lab, at: usize) -> Result<usize, String> {
    let peer = &lab.peers[at];
    let shown = peer.route(SHARED)?;
    Ok(match peer.setup.daemon {
        Daemon::Bird => shown.matches("BGP.origin").count(),
        Daemon::Frr => shown.matches("\"nexthops\"").count(),
        Daemon::Gobgp => shown.matches("\"nlri\"").count(),
    })
}

fn check(sink: Daemon, sources: [Daemon; 2]) {
    let source = |daemon, asn| Setup { asn, networks: vec![SHARED], ..Setup::new(daemon) };
    let sink = Setup { asn: 64500, add_path: true, networks: vec![], ..Setup::new(sink) };
    let lab = Lab::converged(64497, vec![sink, source(sources[0], 64498), source(sources[1], 64499)]);
    eventually("both paths are there", || match paths(&lab, 0)? {
        2 => Ok(()),
        other => Err(format!("{other} paths: {:?}", lab.peers[0].route(SHARED))),
    });
    lab.peers[1].withdraw(SHARED);
    eventually("one path is left", || match paths(&lab, 0)? {
        1 => Ok(()),
        other => Err(format!("{other} paths: {:?}", lab.peers[0].route(SHARED))),
    });
    lab.peers[0].is_established().unwrap();
}

#[test]
fn bird_is_told_all_paths() {
    check(Daemon::Bird, [Daemon::Frr, Daemon::Gobgp]);
}

#[test]
fn frr_is_told_all_paths() {
    check(Daemon::Frr, [Daemon::Bird, Daemon::Gobgp]);
}

#[test]
fn gobgp_is_told_all_paths() {
    check(Daemon::Gobgp, [Daemon::Bird, Daemon::Frr]);
}

#[test]
fn both_paths_of_a_peer_that_sends_several_are_kept() {
    let lab = Lab::converged(64497, vec![Setup { add_path: true, ..Setup::new(Daemon::Bird) }]);
    let count = |expected: usize| {
        eventually("the paths of the peer are right", || {
            let routes = lab.routes_of(&lab.peers[0]);
            if routes.len() == expected { Ok(()) } else { Err(format!("{routes:?}")) }
        });
    };
    count(6);
    lab.peers[0].withdraw(SHARED);
    count(4);
}
