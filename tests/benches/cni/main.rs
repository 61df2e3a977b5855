//! Wall time of CNI ADD and DEL, beside Debian's `ptp` and `bridge`, each with `host-local`.
//!
//! The plugins take turns in one run. Each has a node, a network namespace of its own, with as many pods as the row
//! says; ours has the real agent too, with the in-memory API server of the lab, and the wait for policy counts.
//! Needs root, the release binaries, and the package containernetworking-plugins: `make bench BENCH=cni`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run ends"
)]
#![expect(clippy::print_stdout, reason = "its result is its output")]

mod agent;
#[path = "../harness/mod.rs"]
mod harness;
mod node;

use std::time::Duration;

use harness::plugin::Plugin;
use node::{Contender, Times};
use serde_json::{Value, json};

/// Pods that a node has beside those that come and go.
const PODS: [usize; 2] = [10, 250];
/// Calls at once, and how often.
const LOADS: [(usize, usize); 3] = [(1, 100), (10, 20), (50, 6)];
const OTHERS: &str = "/usr/lib/cni";
/// Goals, against `ptp`.
const GOALS: [f64; 2] = [0.4, 0.7];

fn main() {
    // In memory, as /run is; it spares the others' allocations the disk too.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let names = (0..PODS[1]).map(|number| format!("stays{number}"));
    let names: Vec<String> = names.chain((0..LOADS[2].0).map(|number| format!("goes{number}"))).collect();
    let host_local = |name: &str| json!({"type": "host-local", "dataDir": dir.path().join(name), "subnet": "10.201.0.0/16"});
    let plugin =
        |name: &str, config: Value| Contender::new(Plugin::new(OTHERS.as_ref(), name, &config), || ());
    let ptp = json!({"cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipam": host_local("ptp")});
    let bridge = json!({
        "cniVersion": "1.0.0", "name": "bridge", "type": "bridge", "bridge": "cbr0", "isGateway": true,
        "ipam": host_local("bridge"),
    });
    let mut contenders = [agent::contender(dir.path(), &names), plugin("ptp", ptp), plugin("bridge", bridge)];

    println!(
        "medians (p99) in milliseconds; ours with the real agent and its policy in the kernel; the others from"
    );
    println!("{OTHERS} with host-local; goals against ptp: ADD <= {}x, DEL <= {}x", GOALS[0], GOALS[1]);
    println!(
        "{:<34} {:>17} {:>18} {:>18} {:>7} {:>8}",
        "what", "margay", "ptp", "bridge", "/ ptp", "/ bridge"
    );
    let mut few = Vec::new();
    for (step, pods) in PODS.into_iter().enumerate() {
        let present = if step == 0 { 0 } else { PODS[step - 1] };
        for contender in &mut contenders {
            contender.add_for_good(present..pods);
        }
        for (load, (at_once, rounds)) in LOADS.into_iter().enumerate() {
            let mut times = [Times::default(), Times::default(), Times::default()];
            for round in 0..rounds {
                // Who goes first changes from round to round.
                for place in 0..contenders.len() {
                    let who = (place + round) % contenders.len();
                    times[who].extend(contenders[who].come_and_go(at_once));
                }
            }
            for verb in 0..2 {
                let medians = row(pods, at_once, verb, &mut times);
                if step == 0 {
                    few.push(medians);
                } else {
                    let before = few[load * 2 + verb];
                    let growth = [medians[0] / before[0], medians[1] / before[1]];
                    println!("    {pods} pods against {}: {:.2}x; ptp {:.2}x", PODS[0], growth[0], growth[1]);
                }
            }
        }
    }
}

/// Prints a row, and gives back the medians.
fn row(pods: usize, at_once: usize, verb: usize, times: &mut [Times; 3]) -> [f64; 3] {
    let [ours, ptp, bridge] = times.each_mut().map(|times| quantiles(&mut times.0[verb]));
    let cell = |[median, tail]: [f64; 2]| format!("{median:.2} ({tail:.2})");
    let ratio = ours[0] / ptp[0];
    println!(
        "{:<34} {:>17} {:>18} {:>18} {:>6.2}x {:>7.2}x  {}",
        format!("CNI {}, {pods} pods, {at_once} at once", ["ADD", "DEL"][verb]),
        cell(ours),
        cell(ptp),
        cell(bridge),
        ratio,
        ours[0] / bridge[0],
        if ratio <= GOALS[verb] { "goal met" } else { "goal missed" },
    );
    [ours[0], ptp[0], bridge[0]]
}

/// Median and 99th percentile in milliseconds.
fn quantiles(times: &mut [Duration]) -> [f64; 2] {
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100].map(|at| times[at].as_secs_f64() * 1e3)
}
