//! Pools, and the blocks that nodes have claimed of them.

use super::Lab;
use crate::clock;
use crate::config::LabConfig;
use crate::plan::{PODS_IPV4, PODS_IPV6};
use anyhow::Context;
use ipnetwork::IpNetwork;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use margay_api::resource::{Encapsulation, IPBlock, IPPool, IPPoolSpec, definitions};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an API server may take to serve what was just defined.
const PATIENCE: Duration = Duration::from_secs(30);

/// Defines our kinds.
pub(super) async fn define(client: &Client) -> anyhow::Result<()> {
    let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions() {
        let name = definition.name_any();
        match kinds.create(&PostParams::default(), &definition).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            created => drop(created.with_context(|| format!("define {name}"))?),
        }
    }
    Ok(())
}

/// Makes the pools that a cluster starts with.
pub(super) async fn create(client: &Client, config: &LabConfig) -> anyhow::Result<()> {
    let api: Api<IPPool> = Api::all(client.clone());
    clock::until(PATIENCE, "pools served", || async { api.list(&ListParams::default()).await.ok() }).await?;
    let mut pools = config.pools.clone();
    if pools.is_empty() {
        let LabConfig { encapsulation, nat_outgoing, .. } = *config;
        let pool = |cidr| IPPoolSpec { encapsulation, nat_outgoing, ..Lab::pool_of(cidr) };
        if config.ip_families.has_ipv4() {
            pools.push(("pods-ipv4".into(), pool(PODS_IPV4)));
        }
        if config.ip_families.has_ipv6() {
            pools.push(("pods-ipv6".into(), pool(PODS_IPV6)));
        }
    }
    for (name, spec) in pools {
        let pool = IPPool::new(&name, spec);
        api.create(&PostParams::default(), &pool).await.with_context(|| format!("create IPPool {name}"))?;
    }
    Ok(())
}

impl Lab {
    /// A pool of a range with all defaults.
    pub fn pool_of(cidr: &str) -> IPPoolSpec {
        IPPoolSpec {
            cidr: cidr.to_owned(),
            block_size: None,
            node_selector: None,
            reserved: Vec::new(),
            assignment_mode: margay_api::resource::AssignmentMode::default(),
            disabled: false,
            encapsulation: Encapsulation::default(),
            nat_outgoing: false,
        }
    }

    /// The blocks that nodes have claimed, with the names of the nodes.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn blocks(&self) -> anyhow::Result<BTreeMap<IpNetwork, String>> {
        let api: Api<IPBlock> = Api::all(self.client());
        let blocks = api.list(&ListParams::default()).await?;
        blocks.into_iter().map(|block| Ok((block.spec.cidr.parse()?, block.spec.node))).collect()
    }
}
