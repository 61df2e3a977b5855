//! Traffic between two pods of two nodes: by direct routes, VXLAN and IP-in-IP, each beside the same made by hand with `ip`.
//!
//! Each site is two nodes and two pods, network namespaces that are all made alike; the sites take turns. What is made by hand has no
//! firewall, and is there twice: how far the two differ says what the other ratios are worth. Needs root, the release
//! binaries, and the packages that ./setup installs: `make bench BENCH=overlay`. IP-in-IP is measured where the kernel has it:
//! `make test-kernels SUITES=bench-overlay`. Words after it (`direct`, `VXLAN`, `IP-in-IP`) choose what is measured.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run ends"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its result is its output")]

#[path = "../harness/feed.rs"]
mod feed;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/host.rs"]
mod host;
#[path = "../harness/measure.rs"]
mod measure;
#[path = "../harness/number.rs"]
mod number;
#[path = "../harness/pair.rs"]
mod pair;
#[path = "../harness/result.rs"]
mod result;
mod site;

use std::process::Command;

use measure::Measure;
use number::{quantile, verdict};
use site::{Maker, Site, Way};

/// How often each is measured.
const ROUNDS: usize = 10;
/// Of what is made by hand.
const GOAL: f64 = 0.98;
/// The first and the last are the same.
const MAKERS: [Maker; 4] = [Maker::Hand, Maker::Nftables, Maker::Ebpf, Maker::Hand];

fn main() {
    pair::own_mounts();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    println!("| way | what | by hand | again | nftables | eBPF | goal | nftables | eBPF |");
    println!("|{}", " --- |".repeat(9));
    // As `cargo bench -- IP-in-IP` says; cargo adds words of its own.
    let only: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for way in [Way::Direct, Way::Vxlan, Way::Ipip] {
        if !only.is_empty() && !only.contains(&way.to_string()) {
            continue;
        }
        if way == Way::Ipip && !has_ipip() {
            eprintln!("{way}: not measured, this kernel has no module ipip");
            continue;
        }
        let build = |(number, maker): (usize, &Maker)| {
            let site = Site::new(&dir.path().join(format!("{way}{number}")), way, *maker);
            eprintln!("built: {way}, {maker}");
            site
        };
        let sites: Vec<Site> = MAKERS.iter().enumerate().map(build).collect();
        for measure in Measure::ALL {
            row(way, measure, &sites);
        }
    }
}

fn row(way: Way, measure: Measure, sites: &[Site]) {
    let mut taken = vec![Vec::new(); sites.len()];
    for round in 0..ROUNDS {
        // Who goes first changes from round to round.
        for place in 0..sites.len() {
            let who = (place + round) % sites.len();
            let [from, to] = sites[who].ends();
            taken[who].push(measure.take(from, to));
            if matches!(measure, Measure::Connection | Measure::Flow) && MAKERS[who] != Maker::Hand {
                sites[who].forget_connections();
            }
        }
    }
    let ratio = |who: usize| {
        let round = |round: usize| taken[who][round] / f64::midpoint(taken[0][round], taken[3][round]);
        median((0..ROUNDS).map(round).collect())
    };
    let again = median((0..ROUNDS).map(|round| taken[3][round] / taken[0][round]).collect());
    let goal = if measure.is_cost() { 1.0 / GOAL } else { GOAL };
    let met = |ratio: f64| verdict(if measure.is_cost() { ratio <= goal } else { ratio >= goal });
    let [nftables, ebpf] = [ratio(1), ratio(2)];
    println!(
        "| {way} | {measure} | {:.1} {} | {again:.2} | {nftables:.2} | {ebpf:.2} | {} {goal:.2} | {} | {} |",
        median(taken[0].clone()),
        measure.unit(),
        if measure.is_cost() { "<=" } else { ">=" },
        met(nftables),
        met(ebpf)
    );
}

/// Whether the kernel makes a tunnel of this kind, in a namespace that is gone again.
fn has_ipip() -> bool {
    let node = harness::plugin::new_namespace();
    let _inside = node.enter().unwrap();
    let add = ["tunnel", "add", "t", "mode", "ipip", "local", "192.0.2.1", "remote", "192.0.2.2"];
    Command::new("ip").args(add).output().unwrap().status.success()
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}
