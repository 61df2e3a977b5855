//! One node of a cluster of 5,000 nodes and 150,000 pods: what its agent and its speaker take to start, and to follow what
//! happens in the cluster.
//!
//! The lab's API server has all objects and sends them as long as real ones are; two reflectors tell the speaker of all nodes'
//! networks. Needs root and the release binaries: `make bench BENCH=scale`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run ends"
)]
#![expect(clippy::print_stdout, reason = "its result is its output")]

#[path = "../harness/feed.rs"]
mod feed;
#[path = "../harness/mod.rs"]
mod harness;
mod kernel;
mod life;
mod node;
#[path = "../harness/number.rs"]
mod number;
mod object;
#[path = "../harness/process.rs"]
mod process;
mod reflector;
#[path = "../harness/result.rs"]
mod result;

use std::time::{Duration, Instant};

use life::{Life, Rate};
use node::{Node, Start, since};
use number::{quantile, verdict};
use object::{NAMESPACES, NODES, PODS, POLICIES};
use process::{PEAK, mib, processor_time};
use tokio::time::interval;

/// How often each is started.
const STARTS: usize = 3;
/// Pods that come, and as many that go, each second: of rollouts here and there, and of many at once.
const RATES: [u32; 2] = [15, 150];
/// How long each rate lasts. The pods that are made live for 14 s, so that as many go as come for most of it.
const LASTS: Duration = Duration::from_mins(1);
/// Before it, and nothing happens.
const QUIET: Duration = Duration::from_secs(10);
/// design.md: memory at this size.
const AGENT_MIB: f64 = 300.0;
/// A change that concerns the node is to be in its kernel within this time, in milliseconds.
const CHANGE_MS: f64 = 100.0;

fn main() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut node = Node::new(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!(
        "{NODES} nodes, {} pods, {} policies in {NAMESPACES} namespaces; {PODS} pods on the node",
        NODES * PODS,
        NAMESPACES * POLICIES
    );

    let starts: Vec<Start> = (0..STARTS).map(|_| node.restart_agent()).collect();
    let speaker: Vec<Start> = (0..STARTS).map(|_| runtime.block_on(node.restart_speaker())).collect();
    println!("{} elements in the kernel's table", node.elements());
    println!();
    println!("| start | seconds | CPU seconds | MiB at most | goal | |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (what, starts, goal) in [
        ("agent, until ready", &starts, Some(AGENT_MIB)),
        ("speaker, until all routes are in the kernel", &speaker, None),
    ] {
        let median = |of: fn(&Start) -> f64| quantile(starts.iter().map(of).collect(), 0.5);
        let peak = median(|start| start.peak_mib);
        let (goal, met) =
            goal.map_or((String::new(), ""), |most| (format!("<= {most} MiB"), verdict(peak <= most)));
        println!(
            "| {what} | {:.2} | {:.2} | {peak:.0} | {goal} | {met} |",
            median(|start| start.wall.as_secs_f64()),
            median(|start| start.processor.as_secs_f64()),
        );
    }
    println!();
    println!("| from the API at a start | MB |");
    println!("| --- | --- |");
    for (resource, octets) in &starts[0].octets {
        println!("| {resource} | {:.2} |", megabytes(*octets));
    }

    let judged = life::local().filter(|pod| pod.app() < POLICIES).map(|pod| (pod.namespace(), pod.app()));
    let mut judged: Vec<_> = judged.collect();
    judged.dedup();
    let mut serial = 0;
    println!();
    println!(
        "| pods a second | events of pods, nodes | agent, % of a CPU | MiB then | MB/s from the API | in the kernel, ms | not within {QUIET:?} | speaker, % of a CPU | MiB then | goal | |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for pods_per_second in RATES {
        pause(&runtime, QUIET);
        let ids = [node.agent_id(), node.speaker_id()];
        let (before, sent, begin) = (ids.map(processor_time), node.api.sent(), now());
        let Node { api, kernel, reflectors, .. } = &node;
        let mut life = Life { api, kernel, reflectors, judged: judged.clone(), serial };
        let happened = runtime.block_on(life.live(Rate { pods_per_second, lasts: LASTS }));
        serial = life.serial;
        let seconds = begin.elapsed().as_secs_f64();
        let octets: u64 = since(&sent, &node.api.sent()).values().sum();
        let share = [0, 1]
            .map(|who| processor_time(ids[who]).saturating_sub(before[who]).as_secs_f64() / seconds * 100.0);
        let held = ids.map(|id| mib(id, "VmRSS:"));
        pause(&runtime, QUIET);
        let (delays, missing) = node.kernel.delays();
        let delays: Vec<f64> = delays.iter().map(|delay| delay.as_secs_f64() * 1e3).collect();
        let [median, tail] = [0.5, 0.99].map(|at| quantile(delays.clone(), at));
        println!(
            "| {:.0} | {:.0}/s, {:.1}/s | {:.1} | {:.0} | {:.2} | {median:.1} ({tail:.1}) | {missing} of {} | {:.2} | {:.0} | <= {AGENT_MIB} MiB, p99 < {CHANGE_MS} ms | {} |",
            f64::from(happened.pods) / seconds,
            f64::from(happened.pod_events) / seconds,
            f64::from(happened.node_reports) / seconds,
            share[0],
            held[0],
            megabytes(octets) / seconds,
            delays.len() + missing,
            share[1],
            held[1],
            verdict(held[0] <= AGENT_MIB && tail < CHANGE_MS && missing == 0),
        );
    }
    println!();
    println!(
        "At most, all in all: agent {:.0} MiB, speaker {:.0} MiB",
        mib(node.agent_id(), PEAK),
        mib(node.speaker_id(), PEAK)
    );
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn megabytes(octets: u64) -> f64 {
    octets as f64 / 1e6
}

fn pause(runtime: &tokio::runtime::Runtime, time: Duration) {
    runtime.block_on(async {
        let mut tick = interval(time);
        tick.tick().await;
        tick.tick().await;
    });
}

#[expect(clippy::disallowed_methods, reason = "the wall clock is what is measured")]
fn now() -> Instant {
    Instant::now()
}
