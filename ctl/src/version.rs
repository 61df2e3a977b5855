//! `margayctl version`.

use std::collections::BTreeMap;

use anyhow::Context;
use clap::Args;

use crate::{Answer, cluster, status, table::Table};

/// Whose versions.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only that of this program; no API server is asked.
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    cluster: status::Options,
}

/// The version of this program, and the images that the cluster's nodes run.
///
/// # Errors
/// When the API server cannot be asked.
pub(crate) fn run(options: &Options) -> anyhow::Result<Answer> {
    let mut table = Table::new(&["part", "version", "nodes"]);
    table.push(["margayctl".into(), env!("CARGO_PKG_VERSION").into(), String::new()]);
    if !options.client {
        for (image, nodes) in images(options).context("ask for the cluster's (--client does without)")? {
            table.push(["agents".into(), image, nodes.to_string()]);
        }
    }
    Ok(table.into())
}

/// How many nodes run which image.
fn images(options: &Options) -> anyhow::Result<BTreeMap<String, usize>> {
    let Options { cluster: status::Options { kubeconfig, namespace }, .. } = options;
    cluster::ask(kubeconfig.as_deref(), "", async |client| {
        let mut images = BTreeMap::new();
        for pod in status::agents(&client, namespace).await? {
            let image = status::agent_image(&pod).unwrap_or("(no container margay-node)");
            *images.entry(image.to_owned()).or_insert(0) += 1;
        }
        Ok(images)
    })
}
