//! BFD brings a session down long before its hold time, with each implementation that has it.

use std::time::Duration;

use margay_bgp::control::BfdView;
use tokio::time::Instant;

use crate::harness::{contains, eventually, lacks};
use crate::lab::{Daemon, Lab, Peer, Setup};

const ROUTES: [&str; 2] = ["198.51.100.0/25", "2001:db8:100::/40"];

/// Three intervals of 300 ms, and what a busy machine may need to show it. The hold time is 90 s.
const DETECTION: Duration = Duration::from_millis(900);

#[test]
fn bird_over_ipv4() {
    cut_and_mend(64497, Setup { bfd: true, ..Setup::new(Daemon::Bird) });
}

#[test]
fn bird_over_ipv6() {
    cut_and_mend(64497, Setup { bfd: true, ipv6: true, ..Setup::new(Daemon::Bird) });
}

#[test]
fn bird_over_link_local_addresses() {
    cut_and_mend(64497, Setup { bfd: true, link_local: true, ..Setup::new(Daemon::Bird) });
}

#[test]
fn bird_in_our_as_over_several_hops() {
    cut_and_mend(64496, Setup { bfd: true, ..Setup::new(Daemon::Bird) });
}

#[test]
fn frr_over_ipv4() {
    cut_and_mend(64497, Setup { bfd: true, ..Setup::new(Daemon::Frr) });
}

#[test]
fn frr_over_ipv6() {
    cut_and_mend(64497, Setup { bfd: true, ipv6: true, ..Setup::new(Daemon::Frr) });
}

#[test]
fn frr_over_several_hops() {
    cut_and_mend(64497, Setup { bfd: true, multihop: true, ..Setup::new(Daemon::Frr) });
}

fn bfd(lab: &Lab, peer: &Peer) -> Result<BfdView, String> {
    lab.neighbor(peer)?.bfd.ok_or_else(|| "no BFD".to_owned())
}

fn wait_up(lab: &Lab) {
    let peer = &lab.peers[0];
    lab.wait_established(peer);
    eventually("BFD is up on both ends", || {
        peer.is_bfd(true)?;
        let bfd = bfd(lab, peer)?;
        // Both ends know the intervals for a session that is up.
        match (bfd.state.as_str(), bfd.transmit_milliseconds, bfd.detection_milliseconds) {
            ("Up", Some(300), Some(900)) => Ok(()),
            _ => Err(format!("{bfd:?}")),
        }
    });
}

fn cut_and_mend(asn: u32, setup: Setup) {
    let mut lab = Lab::new(asn, vec![setup]);
    lab.start_all(&lab.config());
    wait_up(&lab);
    let installed = |lab: &Lab| contains(&lab.kernel_routes(), &ROUTES[1..]);
    eventually("routes are in the kernel", || installed(&lab));
    // Both ends still have a link, which leads nowhere.
    lab.node.ip("link add cut type bridge");
    lab.node.ip("link set port1 master cut");
    let cut_at = Instant::now();
    eventually("the session is down here", || lacks(&lab.neighbor(&lab.peers[0])?.state, &["Established"]));
    let took = cut_at.elapsed();
    // Asking takes its time too.
    assert!(took < DETECTION + Duration::from_secs(2), "{took:?}");
    let neighbor = lab.neighbor(&lab.peers[0]).unwrap();
    assert_eq!(neighbor.bfd.map(|bfd| (bfd.state, bfd.losses)), Some(("Down".to_owned(), 1)));
    eventually("the session is down there", || {
        lab.peers[0].is_bfd(false)?;
        lab.peers[0].is_established().map_or(Ok(()), |()| Err("still established".to_owned()))
    });
    // Both would keep them through a restart, which this is not.
    eventually("its routes are gone", || lacks(&lab.kernel_routes(), &ROUTES));
    lab.node.ip("link set port1 master eth0");
    wait_up(&lab);
    eventually("routes are in the kernel again", || installed(&lab));
}

#[test]
fn a_neighbour_whose_operator_takes_bfd_down_keeps_its_session() {
    let mut lab = Lab::new(64497, vec![Setup { bfd: true, ..Setup::new(Daemon::Frr) }]);
    lab.start_all(&lab.config());
    wait_up(&lab);
    let seen_up = Instant::now();
    lab.peers[0].ask("configure terminal; bfd; peer 192.0.2.2 interface eth0; shutdown");
    eventually("BFD is down", || {
        let bfd = bfd(&lab, &lab.peers[0])?;
        contains(&format!("{} {}", bfd.state, bfd.diagnostic), &["Down neighbor signaled session down"])
    });
    let neighbor = lab.neighbor(&lab.peers[0]).unwrap();
    assert_eq!((neighbor.state.as_str(), neighbor.bfd.unwrap().losses), ("Established", 0));
    assert!(neighbor.since_seconds >= seen_up.elapsed().as_secs(), "it is the same session");
    lab.peers[0].ask("configure terminal; bfd; peer 192.0.2.2 interface eth0; no shutdown");
    wait_up(&lab);
}

#[test]
fn bfd_that_is_taken_out_of_our_configuration_costs_no_session() {
    let mut lab = Lab::new(64497, vec![Setup { bfd: true, ..Setup::new(Daemon::Bird) }]);
    let mut config = lab.config();
    lab.start_all(&config);
    wait_up(&lab);
    config.neighbors[0].bfd = None;
    lab.configure(&config);
    eventually("the neighbour knows that we meant it", || contains(&lab.peers[0].bfd()?, &[" Down "]));
    assert_eq!(lab.neighbor(&lab.peers[0]).unwrap().bfd, None);
    lab.wait_established(&lab.peers[0]);
    lacks(&lab.peers[0].log(), &["BFD session down"]).unwrap();
}

#[test]
fn stale_routes_of_a_neighbour_that_restarts_stay_though_bfd_is_down() {
    let mut lab = Lab::new(64497, vec![Setup { bfd: true, ..Setup::new(Daemon::Bird) }]);
    lab.start_all(&lab.config());
    wait_up(&lab);
    lab.wait_converged();
    eventually("routes are in the kernel", || contains(&lab.kernel_routes(), &ROUTES));
    lab.peers[0].kill();
    eventually("BFD is down", || match bfd(&lab, &lab.peers[0])?.losses {
        1 => Ok(()),
        losses => Err(format!("{losses} losses")),
    });
    // A request that comes behind the loss is answered behind what follows from it.
    let routes = lab.routes_of(&lab.peers[0]);
    assert_eq!(routes.iter().filter(|route| route.stale).count(), 3, "{routes:?}");
    contains(&lab.kernel_routes(), &ROUTES).unwrap();
}
