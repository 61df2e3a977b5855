//! `margay-lab conformance`.

use anyhow::Context;
use clap::Args;
use margay_lab::{Dataplane, FabricKind, IpFamilies, LabConfig, conformance};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to run, and how.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Cases, or directories of them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What enforces policy.
    #[arg(long, value_enum, default_value_t)]
    dataplane: Dataplane,
    /// How the two nodes are connected.
    #[arg(long, value_enum, default_value_t)]
    fabric: FabricKind,
    /// Address families of nodes and pods; cases that need IPv6 are skipped without it.
    #[arg(long, value_enum, default_value_t)]
    ip_families: IpFamilies,
    /// Write the results here too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Status 0 when no case failed, 1 when one did.
pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let config = LabConfig {
        nodes: 2,
        dataplane: options.dataplane,
        fabric: options.fabric,
        ip_families: options.ip_families,
        ..LabConfig::default()
    };
    let tell = |line: &str| writeln!(std::io::stdout(), "{line}").context("write to standard output");
    let report = conformance::run(&options.paths, config, tell).await?;
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    let (_, failed, _) = report.counts();
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
