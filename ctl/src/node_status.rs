//! `margayctl node status`.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use margay_api::{
    agent::{Request, Response},
    paths,
    pools::Snapshot,
    ways::Ways,
};
use margay_ipam::Store;

use crate::{Answer, bgp, table::Table};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(run_dir: &Path, state_dir: &Path) -> Answer {
    let mut table = Table::new(&["part", "state", "details"]);
    let mut status = ExitCode::SUCCESS;
    let mut row = |part: &str, outcome: anyhow::Result<String>| match outcome {
        Ok(details) => table.push([part.into(), "ok".into(), details]),
        Err(error) => {
            status = ExitCode::FAILURE;
            table.push([part.into(), "not ready".into(), format!("{error:#}")]);
        }
    };
    let agent = agent(run_dir);
    // An agent that has a use for a speaker is not ready without one.
    let is_without_bgp = agent.is_ok() && !run_dir.join(paths::BGP_SOCKET).exists();
    row("agent", agent);
    row("addresses", addresses(run_dir, state_dir));
    row("ways", ways(run_dir));
    row("bgp", if is_without_bgp { Ok("off".into()) } else { sessions(run_dir) });
    Answer { status, ..table.into() }
}

fn agent(run_dir: &Path) -> anyhow::Result<String> {
    let path = run_dir.join(paths::AGENT_SOCKET);
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("reach the agent on {}; is margay-node running?", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", serde_json::to_string(&Request::Status)?)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).context("hear from the agent")?;
    match serde_json::from_str(&line).context("understand the agent")? {
        Response::Done => Ok("pods can be added".into()),
        Response::Refused { reason } | Response::Degraded { reason } => anyhow::bail!("{reason}"),
        other => anyhow::bail!("{other:?} is no answer; are margayctl and agent of one version?"),
    }
}

fn addresses(run_dir: &Path, state_dir: &Path) -> anyhow::Result<String> {
    // Where blocks can be claimed, the agent says whether addresses are left.
    let is_pool = Snapshot::is_there(run_dir);
    let free = Store::new(&state_dir.join(paths::IPAM)).free()?;
    let families = ["IPv4", "IPv6"].iter().zip(free).filter_map(|(family, free)| Some((family, free?)));
    let mut texts = Vec::new();
    for (family, free) in families {
        anyhow::ensure!(free > 0 || is_pool, "no {family} address is free");
        texts.push(format!("{free} {family} free"));
    }
    anyhow::ensure!(!texts.is_empty(), "this node has no address block");
    Ok(texts.join(", "))
}

/// What the agent's tests of the ways to other nodes have found.
fn ways(run_dir: &Path) -> anyhow::Result<String> {
    let Some(ways) = Ways::read(run_dir).context("read what was found on the ways to other nodes")? else {
        return Ok("not tested".into());
    };
    let Ways { all, well, silent, problems, corrections } = ways;
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
    let silent = if silent > 0 { format!("; nodes that do not answer: {silent}") } else { String::new() };
    let well = format!("{well} of {all} to other nodes tested and well{silent}");
    Ok([vec![well], corrections].concat().join("; "))
}

fn sessions(run_dir: &Path) -> anyhow::Result<String> {
    let status = bgp::status(run_dir)?;
    anyhow::ensure!(status.configured, "the speaker waits for its configuration");
    let all = status.neighbors.len();
    let established = status.neighbors.iter().filter(|neighbor| neighbor.state == "Established").count();
    anyhow::ensure!(
        established == all,
        "{established} of {all} sessions are Established; see `margayctl bgp neighbors`"
    );
    Ok(format!("{established} of {all} sessions Established"))
}
