//! `margayctl bgp`.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use margay_api::paths;
use margay_bgp::Prefix;
use margay_bgp::control::{Client, NegotiatedView, Status};

use crate::{Answer, table::Table};

/// How the speaker is.
pub(crate) fn status(run_dir: &Path) -> anyhow::Result<Status> {
    status_of(&run_dir.join(paths::BGP_SOCKET))
}

fn status_of(socket: &Path) -> anyhow::Result<Status> {
    block_on(async { Ok(Client::connect(socket).await?.status().await?) })
}

pub(crate) fn neighbors(socket: &Path) -> anyhow::Result<Answer> {
    let mut table = Table::with_wide(
        &["neighbor", "as", "state", "since", "bfd", "received", "accepted", "advertised", "last_error"],
        &[
            "flaps",
            "messages_received",
            "messages_sent",
            "router_id",
            "hold_time",
            "families",
            "capabilities",
        ],
    );
    for neighbor in status_of(socket)?.neighbors {
        let [messages_received, messages_sent] = neighbor.messages;
        let agreed = neighbor.negotiated.as_ref();
        let agreed = |word: fn(&NegotiatedView) -> String| agreed.map(word).unwrap_or_default();
        table.push([
            neighbor.address.to_string(),
            neighbor.remote_as.to_string(),
            neighbor.state,
            format!("{}s", neighbor.since_seconds),
            neighbor.bfd.map(|bfd| bfd.state).unwrap_or_default(),
            neighbor.prefixes_received.to_string(),
            neighbor.prefixes_accepted.to_string(),
            neighbor.prefixes_advertised.to_string(),
            neighbor.last_error.unwrap_or_default(),
            neighbor.flaps.to_string(),
            messages_received.to_string(),
            messages_sent.to_string(),
            agreed(|agreed| agreed.router_id.to_string()),
            agreed(|agreed| format!("{}s", agreed.hold_seconds)),
            agreed(|agreed| agreed.families.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            agreed(|agreed| agreed.capabilities.join(", ")),
        ]);
    }
    Ok(table.into())
}

pub(crate) fn collectors(socket: &Path) -> anyhow::Result<Answer> {
    let mut table = Table::new(&[
        "collector",
        "state",
        "since",
        "messages",
        "waiting",
        "sessions",
        "lagged",
        "last_error",
    ]);
    for collector in status_of(socket)?.collectors {
        table.push([
            collector.address.to_string(),
            collector.state,
            format!("{}s", collector.since_seconds),
            collector.messages.to_string(),
            collector.waiting.to_string(),
            collector.sessions.to_string(),
            collector.lagged.to_string(),
            collector.last_error.unwrap_or_default(),
        ]);
    }
    Ok(table.into())
}

/// Paths to a prefix, or to all; those in the tables, or what one neighbour says or is told.
pub(crate) fn routes(
    socket: &Path,
    prefix: Option<Prefix>,
    received: Option<IpAddr>,
    advertised: Option<IpAddr>,
) -> anyhow::Result<Answer> {
    let mut routes = block_on(async {
        let mut client = Client::connect(socket).await?;
        Ok(match (received, advertised) {
            (Some(neighbor), _) => client.received(neighbor).await?,
            (None, Some(neighbor)) => client.advertised(neighbor).await?,
            (None, None) => client.routes().await?,
        })
    })?;
    routes.retain(|route| prefix.is_none_or(|prefix| prefix == route.prefix));
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
        // Of a neighbour that restarts, which has yet to announce it again.
        let stale = if route.stale { "stale" } else { "" };
        let own = || "(own)".to_owned();
        table.push([
            route.prefix.to_string(),
            [in_use, stale].join(" ").trim().to_owned(),
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

/// What became of the paths to a prefix, then who is told of which.
pub(crate) fn explain(socket: &Path, prefix: Prefix) -> anyhow::Result<Answer> {
    let explained = block_on(async { Ok(Client::connect(socket).await?.explain(prefix).await?) })?;
    anyhow::ensure!(!explained.paths.is_empty(), "there is no path to {prefix}");
    let name = |neighbor: Option<IpAddr>| neighbor.map_or("(own)".to_owned(), |address| address.to_string());
    let mut paths = Table::new(&["neighbor", "path_id", "state", "reason", "lost_to"]);
    for path in explained.paths {
        paths.push([
            name(path.neighbor),
            path.path_id.to_string(),
            path.state,
            path.reason.unwrap_or_default(),
            path.lost_to.unwrap_or_default(),
        ]);
    }
    let mut told = Table::new(&["to", "from", "path_id", "told", "reason", "decided_by"]);
    for advertisement in explained.advertisements {
        told.push([
            advertisement.to.to_string(),
            name(advertisement.from),
            advertisement.path_id.to_string(),
            if advertisement.told { "yes" } else { "no" }.to_owned(),
            advertisement.reason.unwrap_or_default(),
            advertisement.decided.unwrap_or_default(),
        ]);
    }
    Ok(Answer::of_sections(vec![("paths", paths), ("advertisements", told)]))
}

pub(crate) fn reset(socket: &Path, neighbor: IpAddr) -> anyhow::Result<Answer> {
    block_on(async { Ok(Client::connect(socket).await?.reset(neighbor).await?) })?;
    Ok(done(neighbor, "reset"))
}

pub(crate) fn refresh(socket: &Path, neighbor: IpAddr) -> anyhow::Result<Answer> {
    block_on(async { Ok(Client::connect(socket).await?.refresh(neighbor).await?) })?;
    Ok(done(neighbor, "asked for its routes"))
}

pub(crate) fn dump(socket: &Path, file: &Path) -> anyhow::Result<Answer> {
    // The speaker has another working directory.
    let file = std::path::absolute(file).with_context(|| format!("find {}", file.display()))?;
    block_on(async { Ok(Client::connect(socket).await?.dump(&file).await?) })?;
    let mut table = Table::new(&["file", "result"]);
    table.push([file.display().to_string(), "written".to_owned()]);
    Ok(table.into())
}

fn done(neighbor: IpAddr, what: &str) -> Answer {
    let mut table = Table::new(&["neighbor", "result"]);
    table.push([neighbor.to_string(), what.to_owned()]);
    table.into()
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?.block_on(work)
}
