//! `margayctl endpoints`.

use std::path::Path;

use margay_api::endpoint::Records;

use crate::{Answer, table::Table};

pub(crate) fn run(run_dir: &Path) -> anyhow::Result<Answer> {
    let listing = Records::below(run_dir).list()?;
    let mut table = Table::new(&["endpoint", "pod", "interface", "host_interface", "addresses", "container"]);
    for endpoint in &listing.endpoints {
        let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
        table.push([
            endpoint.id().to_string(),
            endpoint.pod.as_ref().map(ToString::to_string).unwrap_or_default(),
            endpoint.ifname.clone(),
            endpoint.host_ifname.clone(),
            addresses.join(" "),
            endpoint.container_id.chars().take(12).collect(),
        ]);
    }
    for (id, error) in &listing.damaged {
        table.push([
            id.to_string(),
            error.to_string(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ]);
    }
    Ok(table.into())
}
