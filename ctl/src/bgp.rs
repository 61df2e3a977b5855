//! `margayctl bgp`.

use std::path::Path;

use anyhow::Context;
use margay_api::paths;
use margay_bgp::control::{Client, Status};

use crate::{Answer, table::Table};

/// How the speaker is.
pub(crate) fn status(run_dir: &Path) -> anyhow::Result<Status> {
    block_on(async { Ok(Client::connect(run_dir.join(paths::BGP_SOCKET)).await?.status().await?) })
}

pub(crate) fn neighbors(run_dir: &Path) -> anyhow::Result<Answer> {
    let mut table = Table::new(&["neighbor", "as", "state", "since", "received", "advertised", "last_error"]);
    for neighbor in status(run_dir)?.neighbors {
        table.push([
            neighbor.address.to_string(),
            neighbor.remote_as.to_string(),
            neighbor.state,
            format!("{}s", neighbor.since_seconds),
            neighbor.prefixes_received.to_string(),
            neighbor.prefixes_advertised.to_string(),
            neighbor.last_error.unwrap_or_default(),
        ]);
    }
    Ok(table.into())
}

pub(crate) fn routes(run_dir: &Path) -> anyhow::Result<Answer> {
    let routes =
        block_on(async { Ok(Client::connect(run_dir.join(paths::BGP_SOCKET)).await?.routes().await?) })?;
    let columns =
        ["prefix", "use", "next_hop", "neighbor", "local_pref", "med", "as_path", "origin", "communities"];
    let mut table = Table::new(&columns);
    let text = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
    for route in routes {
        let in_use = match (route.best, route.multipath) {
            (true, _) => "best",
            (false, true) => "multipath",
            (false, false) => "",
        };
        let own = || "(own)".to_owned();
        table.push([
            route.prefix.to_string(),
            in_use.into(),
            route.next_hop.map_or_else(own, |address| address.to_string()),
            route.neighbor.map_or_else(own, |address| address.to_string()),
            text(route.local_pref),
            text(route.med),
            route.as_path,
            route.origin,
            route.communities.join(" "),
        ]);
    }
    Ok(table.into())
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?.block_on(work)
}
