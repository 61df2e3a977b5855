//! Who has the wrong key, or is too far away, gets no session.

use margay_bgp::config::{DynamicNeighbors, Password};

use crate::harness::{eventually, prefix};
use crate::lab::{Daemon, Lab, Setup};

const ALL: [Daemon; 3] = [Daemon::Bird, Daemon::Frr, Daemon::Gobgp];

/// Waits until the kernel drops segments for this reason, and sees that there is no session.
fn refused(lab: &Lab, counter: &str) {
    eventually("the kernel drops segments", || {
        if lab.tcp_counter(counter) > 0 { Ok(()) } else { Err(format!("{counter} is 0")) }
    });
    assert_ne!(lab.neighbor(&lab.peers[0]).unwrap().state, "Established");
    lab.peers[0].is_established().unwrap_err();
}

#[test]
fn sessions_need_the_same_key_at_both_ends() {
    for daemon in ALL {
        let mut lab = Lab::new(64497, vec![Setup { password: Some("bobcat"), ..Setup::new(daemon) }]);
        let right = lab.config();
        let mut wrong = right.clone();
        wrong.neighbors[0].password = Some(Password("lynx".to_owned()));
        // Whoever dials, a segment with another key is dropped at the other end.
        wrong.neighbors[0].passive = true;
        lab.start_all(&wrong);
        if daemon != Daemon::Gobgp {
            // GoBGP takes its time to dial.
            refused(&lab, "TCPMD5Failure");
        }
        lab.configure(&right);
        lab.wait_converged();
    }
}

#[test]
fn peers_that_check_the_distance_are_understood() {
    for daemon in ALL {
        Lab::converged(64497, vec![Setup { ttl_security: true, ..Setup::new(daemon) }]);
    }
}

#[test]
fn a_peer_that_may_be_far_away_is_refused() {
    let mut lab = Lab::new(64497, vec![Setup::new(Daemon::Bird)]);
    let mut config = lab.config();
    config.neighbors[0].ttl_security = Some(1);
    lab.start_all(&config);
    refused(&lab, "TCPMinTTLDrop");
}

#[test]
fn neighbours_of_a_prefix_need_no_configuration_of_their_own() {
    let setup = |daemon| Setup { password: Some("bobcat"), ..Setup::new(daemon) };
    let mut lab = Lab::new(64497, vec![setup(Daemon::Bird), setup(Daemon::Frr)]);
    let mut config = lab.config();
    config.neighbors.clear();
    let mut dynamic = DynamicNeighbors::new(prefix("192.0.2.0/24"), "64496".parse().unwrap());
    dynamic.password = Some(Password("bobcat".to_owned()));
    config.dynamic_neighbors = vec![dynamic];
    lab.start_all(&config);
    lab.wait_converged();
}
