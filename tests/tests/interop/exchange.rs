//! Routes of both families go both ways with each implementation, inside an AS and between two.

use nix::sys::signal::Signal;

use crate::harness::{contains, eventually, lacks};
use crate::lab::{Daemon, Lab, OURS, Setup, Start};

const ALL: [Daemon; 3] = [Daemon::Bird, Daemon::Frr, Daemon::Gobgp];

#[test]
fn routes_of_external_sessions_go_both_ways() {
    for daemon in ALL {
        both_ways(64497, Setup::new(daemon));
    }
}

#[test]
fn routes_of_internal_sessions_go_both_ways() {
    for daemon in ALL {
        both_ways(64496, Setup::new(daemon));
    }
}

#[test]
fn four_octet_as_numbers_are_told_whole() {
    for daemon in ALL {
        both_ways(4_200_000_002, Setup { asn: 4_200_000_001, ..Setup::new(daemon) });
    }
}

fn both_ways(asn: u32, setup: Setup) {
    let (daemon, peer_as) = (setup.daemon, setup.asn);
    let lab = Lab::converged(asn, vec![setup]);
    let peer = &lab.peers[0];
    let routes = lab.routes_of(peer);
    let path = if asn == peer_as { String::new() } else { peer_as.to_string() };
    assert!(routes.iter().all(|route| route.as_path == path), "{daemon:?}: {routes:?}");
    eventually("all of it is in the kernel", || {
        contains(
            &lab.kernel_routes(),
            &[
                "198.51.100.0/25 via 192.0.2.1 dev eth0",
                "198.51.100.128/25 via 192.0.2.1 dev eth0",
                "2001:db8:100::/40 via 2001:db8::1 dev eth0",
            ],
        )
    });
    for (network, next_hop) in OURS.into_iter().zip(["192.0.2.2", "2001:db8::2"]) {
        let seen = peer.route(network).unwrap();
        contains(&seen, &[next_hop]).unwrap();
        if asn != peer_as {
            contains(&seen, &[&asn.to_string()]).unwrap();
        }
    }
    peer.withdraw("2001:db8:100::/40");
    eventually("what is withdrawn goes", || lacks(&lab.kernel_routes(), &["2001:db8:100::/40"]));
    contains(&lab.kernel_routes(), &["198.51.100.0/25"]).unwrap();
    let mut config = lab.config();
    config.networks.remove(0);
    lab.configure(&config);
    eventually("what we withdraw goes", || {
        peer.route(OURS[0]).map_or(Ok(()), |seen| Err(format!("{daemon:?}: {seen}")))
    });
    peer.route(OURS[1]).unwrap();
}

#[test]
fn a_speaker_of_two_octets_reads_as_trans() {
    let setup = Setup { four_octet_as: false, ..Setup::new(Daemon::Bird) };
    let mut lab = Lab::new(64497, vec![setup]);
    lab.start_all(&lab.config());
    lab.wait_converged();
    let session = lab.peers[0].session().unwrap();
    contains(&session, &["4-octet AS numbers"]).unwrap();
    contains(&lab.peers[0].route(OURS[0]).unwrap(), &["BGP.as_path: 64497"]).unwrap();
}

#[test]
fn the_reason_of_a_shutdown_reaches_us() {
    let commands = [
        (Daemon::Bird, "disable peer \"tea\"", ["administrative shutdown", "tea"]),
        (
            Daemon::Frr,
            "configure terminal; router bgp 64496; neighbor 192.0.2.2 shutdown message tea",
            ["hard reset", "tea"],
        ),
        // GoBGP 3.10 sends no text.
        (Daemon::Gobgp, "neighbor 192.0.2.2 disable", ["administrative shutdown", "6/2"]),
    ];
    for (daemon, command, marks) in commands {
        let lab = Lab::converged(64497, vec![Setup::new(daemon)]);
        let peer = &lab.peers[0];
        peer.ask(command);
        eventually("we know why", || {
            let reason = lab.neighbor(peer)?.last_error.unwrap_or_default();
            contains(&reason, &marks)
        });
    }
}

#[test]
fn our_reason_of_a_shutdown_reaches_the_peer() {
    for daemon in ALL {
        let mut lab = Lab::new(64497, vec![Setup::new(daemon)]);
        let mut config = lab.config();
        config.shutdown_message = Some("gone mousing".to_owned());
        lab.peers[0].start(Start::Fresh);
        lab.start_speaker_with(&["--keep-routes-on-exit", "false"]);
        lab.configure(&config);
        lab.wait_converged();
        lab.speaker.take().unwrap().end(Signal::SIGTERM);
        let peer = &lab.peers[0];
        eventually("the peer knows why", || contains(&(peer.session()? + &peer.log()), &["gone mousing"]));
        eventually("the peer drops our routes", || {
            OURS.iter().try_for_each(|network| peer.route(network).map_or(Ok(()), Err))
        });
    }
}
