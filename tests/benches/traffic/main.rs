//! Traffic between two pods, on one node and on two, with more and more policies that select them.
//!
//! Each firewall has a cluster of its own: two nodes and three pods, network namespaces that are all made alike, by
//! the real agent and plugin. The clusters take turns, so that whatever else the machine does is all the same to them;
//! two of them have no firewall, and how far those differ says what the other ratios are worth. Draws docs/traffic.svg.
//! Needs root, the release binaries, and the packages that ./setup installs: `make bench BENCH=traffic`. Words after the name, as in `cargo
//! bench --bench traffic -- throughput`, have only that measured which has one of them in its name, and nothing drawn.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run ends"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its result is its output")]

mod chart;
mod cluster;
#[path = "../harness/feed.rs"]
mod feed;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/host.rs"]
mod host;
mod iptables;
#[path = "../harness/measure.rs"]
mod measure;
#[path = "../harness/number.rs"]
mod number;
#[path = "../harness/pair.rs"]
mod pair;
#[path = "../harness/result.rs"]
mod result;

use std::path::Path;

use chart::Panel;
use cluster::{Cluster, Distance, Firewall};
use measure::Measure;
use number::{quantile, verdict};

/// Numbers of policies that select the pods.
const POLICIES: [usize; 4] = [0, 10, 1_000, 10_000];
/// Which of them are judged against no firewall, by their places there.
const TO_NONE: [usize; 2] = [0, 2];
/// Which of them are judged against fewer, as more shall cost nothing; those against none with eBPF alone. With nftables a pod without
/// policy has no chain, and what is never answered goes through the chains with each packet.
const MORE_TO_LESS: [(usize, usize); 2] = [(3, 1), (2, 0)];
/// The first and the last are the same.
const FIREWALLS: [Firewall; 17] = [
    Firewall::None,
    Firewall::Tracking,
    Firewall::Margay(POLICIES[0]),
    Firewall::Margay(POLICIES[1]),
    Firewall::Margay(POLICIES[2]),
    Firewall::Margay(POLICIES[3]),
    Firewall::Ebpf(POLICIES[0]),
    Firewall::Ebpf(POLICIES[1]),
    Firewall::Ebpf(POLICIES[2]),
    Firewall::Ebpf(POLICIES[3]),
    Firewall::Iptables(POLICIES[0]),
    Firewall::Iptables(POLICIES[1]),
    Firewall::Iptables(POLICIES[2]),
    Firewall::Iptables(POLICIES[3]),
    Firewall::Bridge,
    Firewall::Cable,
    Firewall::None,
];
const TRACKING: usize = 1;
const MARGAY: usize = 2;
const EBPF: usize = 6;
const IPTABLES: usize = 10;
const CONTROL: usize = 16;
/// How often each is measured; `ROUNDS` in the environment says otherwise.
const ROUNDS: usize = 8;
/// Of no firewall; and with more policies, of that with fewer.
const GOAL: f64 = 0.97;
/// Of no firewall, with eBPF; and the rate of requests and responses on one node.
const EBPF_GOAL: f64 = 1.0;
const EBPF_EXCHANGE_GOAL: f64 = 1.1;

/// What was measured of one thing: for each firewall, one number a round.
struct Taken {
    measure: Measure,
    distance: Distance,
    rates: Vec<Vec<f64>>,
}

impl Taken {
    /// The median of a firewall's numbers, each divided by what two others had in the same round.
    fn ratio(&self, firewall: usize, to: [usize; 2]) -> f64 {
        let round = |(round, rate): (usize, &f64)| {
            let [one, other] = to.map(|firewall| self.rates[firewall][round]);
            rate / f64::midpoint(one, other)
        };
        median(self.rates[firewall].iter().enumerate().map(round).collect())
    }

    fn to_none(&self, firewall: usize) -> f64 {
        self.ratio(firewall, [0, CONTROL])
    }

    fn rate(&self, firewall: usize) -> f64 {
        median(self.rates[firewall].clone())
    }

    fn what(&self) -> String {
        format!("{}, {}", self.measure, self.distance)
    }
}

fn main() {
    pair::own_mounts();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let build = |(number, firewall): (usize, &Firewall)| {
        let cluster = Cluster::new(&dir.path().join(number.to_string()), *firewall);
        eprintln!("built: {firewall}");
        cluster
    };
    let clusters: Vec<Cluster> = FIREWALLS.iter().enumerate().map(build).collect();
    // As `cargo bench -- throughput` says; cargo adds words of its own.
    let only: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted =
        |measure: &Measure| only.is_empty() || only.iter().any(|word| measure.to_string().contains(word));
    let things = Measure::ALL
        .into_iter()
        .filter(is_wanted)
        .flat_map(|measure| Distance::ALL.map(|distance| (measure, distance)));
    let mut all: Vec<Taken> = things
        .map(|(measure, distance)| Taken { measure, distance, rates: vec![Vec::new(); clusters.len()] })
        .collect();
    assert!(!all.is_empty(), "nothing that is measured has a name with any of {only:?}");
    let rounds = std::env::var("ROUNDS").map_or(ROUNDS, |text| text.parse().expect("ROUNDS is a number"));
    for round in 0..rounds {
        for taken in &mut all {
            // Who goes first changes from round to round.
            for place in 0..clusters.len() {
                let who = (place + round) % clusters.len();
                let [from, to] = clusters[who].ends(taken.distance);
                taken.rates[who].push(taken.measure.take(from, to));
                if matches!(taken.measure, Measure::Connection | Measure::Flow) {
                    clusters[who].forget_connections();
                }
            }
        }
    }
    goals(&all);
    everything(&all);
    if !only.is_empty() {
        return;
    }
    let panels: Vec<Panel> = all.iter().filter(|taken| !taken.measure.is_cost()).map(panel).collect();
    let drawing =
        chart::draw("Traffic between two pods, as a share of that without a firewall", &POLICIES, &panels);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/traffic.svg");
    std::fs::write(&path, drawing).unwrap();
    println!("\ndrawn: docs/traffic.svg");
}

fn goals(all: &[Taken]) {
    println!("\n| what | ours | other | ratio | goal | |\n| --- | --- | --- | --- | --- | --- |");
    let row = |what: String, [ours, other]: [f64; 2], measure: Measure, ratio: f64, goal: f64| {
        let (is_met, goal) = if measure.is_cost() {
            (ratio <= 1.0 / goal, format!("<= {:.2}", 1.0 / goal))
        } else {
            (ratio >= goal, format!(">= {goal}"))
        };
        let (unit, met) = (measure.unit(), verdict(is_met));
        println!("| {what} | {ours:.1} {unit} | {other:.1} {unit} | {ratio:.2} | {goal} | {met} |");
    };
    for (dataplane, first) in [("nftables", MARGAY), ("eBPF", EBPF)] {
        for with in TO_NONE {
            for taken in all {
                let what =
                    format!("{dataplane}: {}, {} policies against no firewall", taken.what(), POLICIES[with]);
                let none = f64::midpoint(taken.rate(0), taken.rate(CONTROL));
                let goal = match (first, taken.measure, taken.distance) {
                    (EBPF, Measure::Exchange, Distance::Near) => EBPF_EXCHANGE_GOAL,
                    (EBPF, ..) => EBPF_GOAL,
                    _ => GOAL,
                };
                let ours = first + with;
                row(what, [taken.rate(ours), none], taken.measure, taken.to_none(ours), goal);
            }
        }
        for (with, less) in MORE_TO_LESS.into_iter().filter(|(_, less)| first == EBPF || *less > 0) {
            for taken in all {
                let [more, fewer] = [POLICIES[with], POLICIES[less]];
                let what = format!("{dataplane}: {}, {more} policies against {fewer}", taken.what());
                let (ours, other) = (first + with, first + less);
                let ratio = taken.ratio(ours, [other, other]);
                row(what, [taken.rate(ours), taken.rate(other)], taken.measure, ratio, GOAL);
            }
        }
    }
}

/// The ratios of all to no firewall.
fn everything(all: &[Taken]) {
    let columns = |name: &str| POLICIES.map(|number| format!("{name}, {number}")).join(" | ");
    println!(
        "\n| what | no firewall | again | tracking alone | {} | {} | {} | bridge and iptables | a cable |",
        columns("nftables"),
        columns("eBPF"),
        columns("iptables")
    );
    println!("|{}", " --- |".repeat(6 + 3 * POLICIES.len()));
    for taken in all {
        let again = taken.ratio(CONTROL, [0, 0]);
        let ratios = (TRACKING..CONTROL).map(|firewall| format!("{:.2}", taken.to_none(firewall)));
        let ratios: Vec<String> = ratios.collect();
        let (rate, unit) = (taken.rate(0), taken.measure.unit());
        println!("| {} | {rate:.1} {unit} | {again:.2} | {} |", taken.what(), ratios.join(" | "));
    }
}

fn panel(taken: &Taken) -> Panel {
    let from =
        |first: usize| (first..first + POLICIES.len()).map(|firewall| taken.to_none(firewall)).collect();
    Panel {
        title: taken.what(),
        base: format!("{:.1} {}", taken.rate(0), taken.measure.unit()),
        margay: from(MARGAY),
        ebpf: from(EBPF),
        iptables: from(IPTABLES),
        tracking: taken.to_none(TRACKING),
    }
}

fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}
