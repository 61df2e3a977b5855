//! `margayctl ipam show`.

use std::{collections::BTreeMap, path::Path};

use margay_api::{
    endpoint::{EndpointId, Records},
    paths,
};
use margay_ipam::Store;

use crate::{Answer, table::Table};

pub(crate) fn show(run_dir: &Path, state_dir: &Path) -> anyhow::Result<Answer> {
    let store = Store::new(&state_dir.join(paths::IPAM));
    let endpoints = Records::below(run_dir).list()?.endpoints;
    let pods: BTreeMap<EndpointId, String> = endpoints
        .iter()
        .map(|endpoint| (endpoint.id(), endpoint.pod.as_ref().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let blocks = store.blocks()?;
    let mut table = Table::new(&["block", "address", "pod", "interface", "container"]);
    for allocation in store.allocations()? {
        let block = blocks.iter().find(|block| block.contains(allocation.address));
        let block = block.map_or_else(|| "(no longer in use)".into(), ToString::to_string);
        let address = allocation.address.to_string();
        let Some(owner) = allocation.owner else {
            table.push([block, address, "(damaged entry)".into(), String::new(), String::new()]);
            continue;
        };
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        let pod = pods.get(&id).cloned().unwrap_or_else(|| "(no endpoint)".into());
        let container = owner.container_id().chars().take(12).collect();
        table.push([block, address, pod, owner.ifname().into(), container]);
    }
    for block in blocks.iter().map(ToString::to_string) {
        if !table.has("block", &block) {
            table.push([block, "(none held)".into(), String::new(), String::new(), String::new()]);
        }
    }
    Ok(table.into())
}

#[cfg(test)]
mod tests {
    use margay_ipam::{Owner, Store};

    use super::show;
    use crate::Output;

    #[test]
    fn held_addresses_and_empty_blocks_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("ipam"));
        store.set_blocks(&["192.0.2.0/24".parse().unwrap()]).unwrap();
        let text = || show(dir.path(), dir.path()).unwrap().table.text(Output::Table);
        assert!(text().contains("192.0.2.0/24  (none held)"), "{}", text());
        store.allocate(&Owner::new("c1", "eth0").unwrap(), &[]).unwrap();
        assert!(text().contains("192.0.2.1  (no endpoint)  eth0       c1"), "{}", text());
        assert!(!text().contains("none held"));
    }
}
