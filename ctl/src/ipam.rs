//! `margayctl ipam show`.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use ipnetwork::IpNetwork;
use margay_api::{
    endpoint::{EndpointId, Records},
    paths,
    pools::Snapshot,
};
use margay_ipam::Store;

use crate::{Answer, table::Table};

/// Pools, where there are any; blocks with their use; who has which address.
pub(crate) fn show(run_dir: &Path, state_dir: &Path) -> anyhow::Result<Answer> {
    let store = Store::new(&state_dir.join(paths::IPAM));
    let snapshot = Snapshot::read(run_dir).context("read what the agent says of the pools")?;
    let mut sections = Vec::new();
    sections.extend(snapshot.as_ref().map(|snapshot| ("pools", pools(snapshot))));
    sections.push(("blocks", blocks(&store, snapshot.as_ref())?));
    sections.push(("addresses", addresses(&store, run_dir)?));
    Ok(Answer::of_sections(sections))
}

fn pools(snapshot: &Snapshot) -> Table {
    let mut table = Table::new(&["pool", "cidr", "block_size", "claimed", "blocks", "state", "message"]);
    for pool in &snapshot.pools {
        table.push([
            pool.name.clone(),
            pool.cidr.clone(),
            pool.block_size.to_string(),
            pool.claimed_blocks.to_string(),
            pool.total_blocks.to_string(),
            pool.state.clone(),
            pool.message.clone(),
        ]);
    }
    table
}

fn blocks(store: &Store, snapshot: Option<&Snapshot>) -> anyhow::Result<Table> {
    let pools: BTreeMap<IpNetwork, &str> = snapshot
        .into_iter()
        .flat_map(|snapshot| &snapshot.blocks)
        .map(|block| (block.cidr, block.pool.as_deref().unwrap_or_default()))
        .collect();
    let mut table = Table::new(&["block", "pool", "held", "free", "size", "state"]);
    for usage in store.usage(|_| false)? {
        table.push([
            usage.network.to_string(),
            pools.get(&usage.network).copied().unwrap_or_default().to_owned(),
            usage.held.to_string(),
            usage.free.to_string(),
            (usage.held + usage.free).to_string(),
            if usage.active { "in use" } else { "no longer given out" }.to_owned(),
        ]);
    }
    Ok(table)
}

fn addresses(store: &Store, run_dir: &Path) -> anyhow::Result<Table> {
    let endpoints = Records::below(run_dir).list()?.endpoints;
    let pods: BTreeMap<EndpointId, String> = endpoints
        .iter()
        .map(|endpoint| (endpoint.id(), endpoint.pod.as_ref().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let mut table = Table::new(&["address", "pod", "interface", "container"]);
    for allocation in store.allocations()? {
        let address = allocation.address.to_string();
        let Some(owner) = allocation.owner else {
            table.push([address, "(damaged entry)".into(), String::new(), String::new()]);
            continue;
        };
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        let pod = pods.get(&id).cloned().unwrap_or_else(|| "(no endpoint)".into());
        let container = owner.container_id().chars().take(12).collect();
        table.push([address, pod, owner.ifname().into(), container]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use margay_api::pools::{BlockRow, PoolRow, Snapshot};
    use margay_ipam::{Owner, Store};

    use super::show;
    use crate::output::Output;

    #[test]
    fn blocks_have_their_use_and_addresses_their_holders() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("ipam"));
        store.set_blocks(&["192.0.2.0/24".parse().unwrap()]).unwrap();
        let text = || show(dir.path(), dir.path()).unwrap().text(Output::Table);
        assert!(text().contains("192.0.2.0/24        0     254   254   in use"), "{}", text());
        store.allocate(&Owner::new("c1", "eth0").unwrap(), &[]).unwrap();
        assert!(text().contains("192.0.2.0/24        1     253   254   in use"), "{}", text());
        assert!(text().contains("192.0.2.1  (no endpoint)  eth0       c1"), "{}", text());
        assert!(!text().contains("POOLS"));
    }

    #[test]
    fn pools_come_first_and_json_has_all_sections() {
        let dir = tempfile::tempdir().unwrap();
        let block = "192.0.2.0/26".parse().unwrap();
        Store::new(&dir.path().join("ipam")).activate(block).unwrap();
        let pool = PoolRow {
            name: "blue".into(),
            cidr: "192.0.2.0/24".into(),
            block_size: 26,
            claimed_blocks: 1,
            total_blocks: 4,
            state: "Ready".into(),
            message: String::new(),
        };
        let blocks = vec![BlockRow { cidr: block, pool: Some("blue".into()) }];
        Snapshot { pools: vec![pool], blocks }.write(dir.path()).unwrap();
        let answer = show(dir.path(), dir.path()).unwrap();
        let text = answer.text(Output::Table);
        assert!(
            text.starts_with("POOLS\nPOOL  CIDR          BLOCK_SIZE  CLAIMED  BLOCKS  STATE  MESSAGE\n"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&answer.text(Output::Json)).unwrap();
        assert_eq!(json["pools"][0]["pool"], "blue");
        assert_eq!(json["blocks"][0]["pool"], "blue");
        assert_eq!(json["addresses"], serde_json::json!([]));
    }
}
