//! Who restarts loses no route, at either end, with each implementation.

use crate::harness::{contains, eventually, lacks};
use crate::lab::{Daemon, Lab, OURS, Setup, Start};

#[test]
fn routes_of_a_killed_bird_are_kept_until_it_has_told_what_it_still_has() {
    helper(Daemon::Bird);
}

#[test]
fn routes_of_a_killed_frr_are_kept_until_it_has_told_what_it_still_has() {
    helper(Daemon::Frr);
}

#[test]
fn routes_of_a_killed_gobgp_are_kept_until_it_has_told_what_it_still_has() {
    helper(Daemon::Gobgp);
}

fn helper(daemon: Daemon) {
    let mut lab = Lab::converged(64497, vec![Setup::new(daemon)]);
    let all = ["198.51.100.0/25", "198.51.100.128/25", "2001:db8:100::/40"];
    eventually("all routes are in the kernel", || contains(&lab.kernel_routes(), &all));
    lab.peers[0].kill();
    eventually("its routes are stale", || {
        let routes = lab.routes_of(&lab.peers[0]);
        let stale = routes.iter().filter(|route| route.stale).count();
        if stale == 3 { Ok(()) } else { Err(format!("{:?}: {routes:?}", lab.neighbor(&lab.peers[0]))) }
    });
    contains(&lab.kernel_routes(), &all).unwrap();
    // It comes back with a route less.
    lab.peers[0].setup.networks.remove(1);
    lab.peers[0].start(Start::Recovering);
    eventually("what it has no more is swept", || lacks(&lab.kernel_routes(), &["198.51.100.128/25"]));
    lab.wait_established(&lab.peers[0]);
    eventually("nothing is stale", || {
        let routes = lab.routes_of(&lab.peers[0]);
        if routes.len() == 2 && !routes.iter().any(|route| route.stale) {
            Ok(())
        } else {
            Err(format!("{routes:?}"))
        }
    });
    contains(&lab.kernel_routes(), &["198.51.100.0/25", "2001:db8:100::/40"]).unwrap();
}

#[test]
fn bird_keeps_our_routes_while_we_restart() {
    restarter(Daemon::Bird);
}

#[test]
fn frr_keeps_our_routes_while_we_restart() {
    restarter(Daemon::Frr);
}

#[test]
fn gobgp_keeps_our_routes_while_we_restart() {
    restarter(Daemon::Gobgp);
}

fn restarter(daemon: Daemon) {
    let mut lab = Lab::converged(64497, vec![Setup::new(daemon)]);
    let mut config = lab.config();
    // BIRD shows our F bits; the others sweep what comes back without them.
    let preserved = ["AF preserved: ipv4 ipv6"];
    if daemon == Daemon::Bird {
        lacks(&lab.peers[0].session().unwrap(), &preserved).unwrap();
    }
    eventually("all is in the kernel", || {
        contains(&lab.kernel_routes(), &["198.51.100.0/25", "2001:db8:100::/40"])
    });
    lab.kill_speaker();
    eventually("the peer knows that we are away", || {
        lab.peers[0].is_established().map_or(Ok(()), |()| Err("still established".to_owned()))
    });
    lab.peers[0].has_ours().unwrap();
    // We come back with a network less, and let go of it only when all else is told.
    config.networks.remove(0);
    lab.start_speaker();
    lab.configure(&config);
    lab.wait_established(&lab.peers[0]);
    if daemon == Daemon::Bird {
        contains(&lab.peers[0].session().unwrap(), &preserved).unwrap();
    }
    eventually("the peer sweeps what we have no more", || lab.peers[0].route(OURS[0]).map_or(Ok(()), Err));
    lab.peers[0].route(OURS[1]).unwrap();
    contains(&lab.kernel_routes(), &["198.51.100.0/25", "2001:db8:100::/40"]).unwrap();
}

#[test]
fn routes_of_a_peer_that_stays_away_go_after_its_restart_time() {
    let mut lab = Lab::converged(64497, vec![Setup { restart_time: 1, ..Setup::new(Daemon::Bird) }]);
    lab.peers[0].kill();
    eventually("its routes go", || lacks(&lab.kernel_routes(), &["198.51.100.0/25", "2001:db8:100::/40"]));
}

#[test]
fn routes_become_those_of_last_resort_after_the_restart_time() {
    for daemon in [Daemon::Bird, Daemon::Frr] {
        let setup = Setup { restart_time: 1, long_lived_time: 60, ..Setup::new(daemon) };
        let mut lab = Lab::converged(64497, vec![setup]);
        lab.peers[0].kill();
        eventually("its routes are stale for long", || {
            let routes = lab.routes_of(&lab.peers[0]);
            let marked =
                routes.iter().filter(|route| route.communities.iter().any(|text| text == "llgr-stale"));
            if marked.count() == 3 { Ok(()) } else { Err(format!("{daemon:?}: {routes:?}")) }
        });
        contains(&lab.kernel_routes(), &["198.51.100.0/25", "2001:db8:100::/40"]).unwrap();
    }
}
