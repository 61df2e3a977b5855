//! Routes are reflected between clients of different make, with the marks that find loops.

use crate::harness::{contains, eventually};
use crate::lab::{Daemon, Lab, Setup};

#[test]
fn clients_learn_from_each_other_through_us() {
    let setup =
        |daemon, networks: &[&'static str]| Setup { networks: networks.to_vec(), ..Setup::new(daemon) };
    let mut lab = Lab::new(
        64496,
        vec![
            setup(Daemon::Bird, &["198.51.100.0/26", "2001:db8:1000::/40"]),
            setup(Daemon::Frr, &["198.51.100.64/26", "2001:db8:1100::/40"]),
            setup(Daemon::Gobgp, &["198.51.100.128/26", "2001:db8:1200::/40"]),
        ],
    );
    let mut config = lab.config();
    config.cluster_id = Some("192.0.2.222".parse().unwrap());
    for neighbor in &mut config.neighbors {
        neighbor.route_reflector_client = true;
    }
    lab.start_all(&config);
    lab.wait_converged();
    for peer in &lab.peers {
        for other in lab.peers.iter().filter(|other| other.last != peer.last) {
            for network in &other.setup.networks {
                let next_hop = if network.contains(':') {
                    format!("2001:db8::{}", other.last)
                } else {
                    format!("192.0.2.{}", other.last)
                };
                let originator = format!("192.0.2.{}", other.last);
                eventually("the other client's route is there", || {
                    contains(&peer.route(network)?, &[&next_hop, &originator, "192.0.2.222"])
                });
            }
        }
        // Nobody is told its own, be it that FRR tells us ours.
        let own: Vec<_> = lab.routes_of(peer).into_iter().map(|route| route.prefix.to_string()).collect();
        let mut expected = peer.setup.networks.clone();
        expected.sort_unstable_by_key(|network| network.contains(':'));
        assert_eq!(own, expected);
    }
}
