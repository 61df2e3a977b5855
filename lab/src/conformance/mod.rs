//! Runs conformance cases, in the format of `conformance/netpol/FORMAT.md`, on a lab.
//!
//! [`case`] reads a file, [`cluster`] builds its pods, [`table`] says what must be open, [`substitute`] puts addresses
//! into objects: pure, all of them. [`world`] makes the lab match; [`run`] goes through the steps; [`report`] says
//! what came of it.

mod case;
mod check;
mod cluster;
#[cfg(test)]
mod judged;
mod pattern;
mod report;
mod run;
mod startup;
mod substitute;
mod table;
mod twin;
mod world;

pub use report::{CaseReport, Failure, Outcome, Report};

use crate::config::{Dataplane, LabConfig};
use crate::lab::Lab;
use anyhow::Context;
use case::Case;
use report::Line;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use twin::Twins;
use world::World;

/// How long a lab may take to come up, in a machine of software too.
const START: Duration = Duration::from_mins(5);

/// Runs the cases at `paths` (files, or directories of them) one after another in one lab with the nodes n1 and n2,
/// and gives `tell` each line of the account as it is written.
///
/// # Errors
/// When a file cannot be read as a case, or the lab does not come up. A case that fails is no error.
pub async fn run(
    paths: &[PathBuf],
    config: LabConfig,
    mut tell: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let mut cases = read(paths)?;
    if config.ip_families.has_ipv6() {
        let twins = Twins::new()?;
        cases = cases.into_iter().flat_map(|case| [twins.of(&case), Some(case)]).flatten().collect();
    }
    let begin = Instant::now();
    let mut lab = Lab::start(config).await?;
    lab.wait_ready(START).await?;
    tell(&format!(
        "{} nodes ready in {:.1} s; {} cases",
        lab.nodes().len(),
        begin.elapsed().as_secs_f64(),
        cases.len()
    ))?;
    let mut report = Report::default();
    let mut world = World::new(&mut lab);
    for case in &cases {
        let begin = Instant::now();
        let outcome = match world.cannot(case) {
            Some(reason) => Outcome::Skipped { reason },
            None => run::run(&mut world, case).await,
        };
        let case = CaseReport { name: case.name.clone(), seconds: begin.elapsed().as_secs_f64(), outcome };
        tell(&Line(&case).to_string())?;
        if matches!(case.outcome, Outcome::Failed { .. }) {
            for line in world.complaints() {
                tell(&format!("      {line}"))?;
            }
        }
        report.cases.push(case);
    }
    report.seconds = begin.elapsed().as_secs_f64();
    if lab.config().dataplane == Dataplane::Ebpf {
        tell(&format!("{} packets between pods went round the stack", short_way(&lab).await?))?;
    }
    lab.stop().await;
    tell(&report.to_string())?;
    Ok(report)
}

/// How many packets the programs have handed to a pod or sent to another node.
///
/// # Errors
/// When there are none on a node: whatever was judged, it was not by them.
async fn short_way(lab: &Lab) -> anyhow::Result<u64> {
    let mut sum = 0;
    for node in lab.nodes() {
        let ways = node.metrics("margay_short_way_packets_total").await?;
        let took: u64 =
            ["to_pod", "to_node"].iter().filter_map(|way| ways.get(&format!("{{way=\"{way}\"}}"))).sum();
        anyhow::ensure!(took > 0, "no packet went round the stack on {}: {ways:?}", node.name());
        sum += took;
    }
    Ok(sum)
}

fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Case>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
            let mut inside: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
            inside.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"));
            inside.sort();
            anyhow::ensure!(!inside.is_empty(), "no case (*.yaml) in {}", path.display());
            files.extend(inside);
        } else {
            files.push(path.clone());
        }
    }
    files.iter().map(|path| read_case(path)).collect()
}

fn read_case(path: &Path) -> anyhow::Result<Case> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let case = Case::parse(&text).with_context(|| format!("read {}", path.display()))?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    anyhow::ensure!(stem == case.name, "{}: its name is `{}`", path.display(), case.name);
    Ok(case)
}
