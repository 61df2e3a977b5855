//! `margayctl status`: the cluster at a glance, as the API server shows it.

mod report;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{Api, Client, api::ListParams};
use margay_api::resource::{BGPNodeStatus, IPBlock, IPPool};

use crate::{Answer, cluster};
use report::Objects;
pub(crate) use report::{agent_image, is_agent_ready};

/// Whose cluster, and where in it.
#[derive(Debug, Clone, Args)]
#[group(skip)] // Its name would be that of what it is a part of.
pub(crate) struct Options {
    /// How to reach the API server [default: $KUBECONFIG, ~/.kube/config, or the service account of this pod].
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where Margay's `DaemonSet` is.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub(crate) namespace: String,
}

/// Which pods are Margay's, in its namespace.
pub(crate) const SELECTOR: &str = "app.kubernetes.io/name=margay";

/// Asks the API server.
pub(crate) fn run(options: &Options) -> anyhow::Result<Answer> {
    cluster::ask(options.kubeconfig.as_deref(), "", async |client| {
        of(&client, &options.namespace, Timestamp::now()).await
    })
}

/// The same, of an API server that is reached.
pub(crate) async fn of(client: &Client, namespace: &str, now: Timestamp) -> anyhow::Result<Answer> {
    let (sections, is_well) = report::report(&gather(client, namespace).await?, now);
    let status = if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(Answer { status, ..Answer::of_sections(sections) })
}

async fn gather(client: &Client, namespace: &str) -> anyhow::Result<Objects> {
    Ok(Objects {
        namespace: namespace.to_owned(),
        nodes: cluster::all::<Node>(client).await.context("list nodes")?,
        agents: agents(client, namespace).await?,
        sessions: installed(cluster::all::<BGPNodeStatus>(client).await).context("list bgpnodestatuses")?,
        pools: installed(cluster::all::<IPPool>(client).await).context("list ippools")?,
        blocks: installed(cluster::all::<IPBlock>(client).await).context("list ipblocks")?,
    })
}

/// The pods of the agents.
pub(crate) async fn agents(client: &Client, namespace: &str) -> anyhow::Result<Vec<Pod>> {
    let pods = Api::namespaced(client.clone(), namespace);
    cluster::pages(&pods, ListParams::default().labels(SELECTOR)).await.context("list pods")
}

/// Objects of a kind that the cluster may not have yet: then there are none.
fn installed<K>(objects: kube::Result<Vec<K>>) -> kube::Result<Vec<K>> {
    match objects {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        other => other,
    }
}
