//! What a change of policy costs the agent in a large and in a small cluster, and a start in the large one.
//!
//! The small cluster is one of the namespaces that the large one has a hundred of, and the changes are made in that
//! one; so they mean the same in both, unless other namespaces' policies name what changes. Both have a node, a network namespace with the real agent, real pods and an
//! API server, and take turns. Needs root and the release binaries: `make bench BENCH=policy`. Words after the name, as in `cargo bench --bench
//! policy -- namespace`, have only those changes made that have one of them in their names, and no start.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run ends"
)]
#![expect(clippy::print_stdout, reason = "its result is its output")]

mod change;
mod cluster;
#[path = "../harness/mod.rs"]
mod harness;
mod node;
#[path = "../harness/number.rs"]
mod number;
#[path = "../harness/process.rs"]
mod process;
#[path = "../harness/result.rs"]
mod result;

use std::time::Duration;

use change::Change;
use node::{Cost, Kernel, Node, Start};
use number::{quantile, verdict};

/// Namespaces of the small and of the large cluster.
const NAMESPACES: [usize; 2] = [1, 100];
/// How often each change is made and taken back in each cluster; `ROUNDS` in the environment says otherwise.
const ROUNDS: usize = 40;
/// How often the agent is started with each state of the kernel.
const STARTS: usize = 7;
/// Goals: milliseconds of a change in the large cluster, and times that of the small one; a start's seconds and MiB.
const CHANGE_MS: f64 = 20.0;
const GROWTH: f64 = 2.0;
const START_S: f64 = 2.0;
const START_MIB: f64 = 150.0;

fn main() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut nodes = NAMESPACES.map(|number| Node::new(&dir.path().join(number.to_string()), number));
    println!("Clusters, medians (p99) in milliseconds:");
    for node::Size { policies, pods, local } in nodes.each_ref().map(|node| node.size) {
        println!("- {policies} policies, {pods} pods, {local} of them on the node");
    }
    let before = nodes.each_ref().map(Node::inside);
    // As `cargo bench -- namespace` says; cargo adds words of its own.
    let only: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let has = |pair: &[Change; 2], word: &str| pair.iter().any(|change| change.what.contains(word));
    let is_wanted = |pair: &[Change; 2]| only.is_empty() || only.iter().any(|word| has(pair, word));
    let changes: Vec<[Change; 2]> = change::all().into_iter().filter(is_wanted).collect();
    assert!(!changes.is_empty(), "no change has a name with any of {only:?}");
    let rounds = std::env::var("ROUNDS").map_or(ROUNDS, |text| text.parse().expect("ROUNDS is a number"));
    println!();
    println!(
        "| what | changes, small | changes, large | wall, small | wall, large | ratio | CPU, small | CPU, large | ratio | goal | |"
    );
    println!("|{}", " --- |".repeat(11));
    for pair in &changes {
        // What is taken back costs another than what is made, unless it is called the same.
        let mut costs: [[Vec<Cost>; 2]; 2] = Default::default();
        let mut sizes: [[Vec<f64>; 2]; 2] = Default::default();
        for round in 0..=rounds {
            for place in 0..nodes.len() {
                let who = (place + round) % nodes.len();
                for ((costs, sizes), change) in costs.iter_mut().zip(&mut sizes).zip(pair) {
                    let before = nodes[who].changed();
                    let cost = nodes[who].measure(change);
                    // The first of all finds nothing of its kind in caches.
                    if round > 0 {
                        costs[who].push(cost);
                        sizes[who].push(nodes[who].changed() - before);
                    }
                }
            }
        }
        let [size, size_back] = sizes;
        let [mut made, taken_back] = costs;
        if pair[0].what == pair[1].what {
            for (some, others) in made.iter_mut().zip(taken_back) {
                some.extend(others);
            }
            row(pair[0].what, size, &made);
        } else {
            row(pair[0].what, size, &made);
            row(pair[1].what, size_back, &taken_back);
        }
    }
    for (node, [seconds, count]) in nodes.iter().zip(before) {
        let [all_seconds, all_count] = node.inside();
        println!(
            "{} policies: mean inside the agent, from its decision to the kernel's acknowledgement: {:.2} ms",
            node.size.policies,
            (all_seconds - seconds) / (all_count - count) * 1e3,
        );
    }
    if !only.is_empty() {
        return;
    }

    println!();
    println!("| start in the large cluster | seconds | CPU seconds | MiB at most | goal | |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (kernel, what) in [(Kernel::Empty, "no table in the kernel"), (Kernel::Kept, "table kept")] {
        let starts: Vec<Start> = (0..STARTS).map(|_| nodes[1].restart(kernel)).collect();
        let median = |of: fn(&Start) -> f64| quantile(starts.iter().map(of).collect(), 0.5);
        let [wall, mib] = [median(|start| start.wall.as_secs_f64()), median(|start| start.peak_mib)];
        let processor = median(|start| start.processor.as_secs_f64());
        let goal = format!("< {START_S} s, < {START_MIB} MiB");
        let met = verdict(wall < START_S && mib < START_MIB);
        println!("| {what} | {wall:.2} | {processor:.2} | {mib:.0} | {goal} | {met} |");
    }
}

/// One for a change, in the small and in the large cluster, of which the table changes by so much.
fn row(what: &str, sizes: [Vec<f64>; 2], costs: &[Vec<Cost>; 2]) {
    let quantiles = |of: fn(&Cost) -> Duration| -> Vec<[f64; 2]> {
        let times =
            |costs: &Vec<Cost>| costs.iter().map(|cost| of(cost).as_secs_f64() * 1e3).collect::<Vec<_>>();
        costs.iter().map(|costs| [0.5, 0.99].map(|at| quantile(times(costs), at))).collect()
    };
    let [wall, processor] = [quantiles(|cost| cost.wall), quantiles(|cost| cost.processor)];
    let cell = |[median, tail]: [f64; 2]| format!("{median:.2} ({tail:.2})");
    let ratio = |of: &[[f64; 2]]| of[1][0] / of[0][0];
    let met = wall[1][0] < CHANGE_MS
        && processor[1][0] < CHANGE_MS
        && ratio(&wall) <= GROWTH
        && ratio(&processor) <= GROWTH;
    let [small, large] = sizes.map(|sizes| quantile(sizes, 0.5));
    println!(
        "| {what} | {} | {} | {} | {} | {:.2} | {} | {} | {:.2} | < {CHANGE_MS} ms, <= {GROWTH} | {} |",
        small,
        large,
        cell(wall[0]),
        cell(wall[1]),
        ratio(&wall),
        cell(processor[0]),
        cell(processor[1]),
        ratio(&processor),
        verdict(met),
    );
}
