//! Many speakers on a virtual network that delays, loses, reorders connections and splits: once it is calm, every
//! table must be right. Time is virtual and chance is a seed, so that each run can be repeated:
//! `MARGAY_FUZZ_FACTOR=10 cargo test -p margay-bgp --test simulation` runs ten times as many seeds.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and its helpers are not test functions"
)]

mod network;
mod speaker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use network::Network;

/// Seeds of a run without factor.
const SEEDS: u64 = 2000;

#[test]
fn every_speaker_has_the_shortest_path_to_every_prefix_once_the_network_is_calm() {
    let factor = std::env::var("MARGAY_FUZZ_FACTOR").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    for seed in 0..SEEDS * factor {
        let mut network = Network::new(seed);
        network.run(Duration::from_mins(2));
        network.calm();
        // The longest back-off of a neighbour that failed, what a hold timer takes, and the way of the routes.
        network.run(Duration::from_secs(400));
        check(&mut network, seed);
    }
}

fn check(network: &mut Network, seed: u64) {
    for number in 0..network.size() {
        let up: BTreeSet<u32> = network.node(number).established().collect();
        assert_eq!(up, network.neighbors(number), "seed {seed}: sessions of {number}");
        let hops = distances(network, number);
        let mut wanted = BTreeMap::new();
        for other in 0..network.size() {
            wanted.extend(network.prefixes(other).into_iter().map(|prefix| (prefix, hops[&other])));
        }
        let paths = network.node(number).rib.paths();
        let best = paths.iter().filter(|path| path.best);
        let found: BTreeMap<_, _> = best
            .map(|path| (path.prefix, path.attributes.as_path.to_string().split_whitespace().count()))
            .collect();
        assert_eq!(found, wanted, "seed {seed}: table of {number}");
    }
}

/// Hops from one speaker to each.
fn distances(network: &Network, from: u32) -> BTreeMap<u32, usize> {
    let mut distances = BTreeMap::from([(from, 0)]);
    let mut queue = VecDeque::from([from]);
    while let Some(number) = queue.pop_front() {
        for neighbor in network.neighbors(number) {
            if !distances.contains_key(&neighbor) {
                distances.insert(neighbor, distances[&number] + 1);
                queue.push_back(neighbor);
            }
        }
    }
    distances
}
