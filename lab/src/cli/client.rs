//! Commands that only ask and print.

use super::protocol::{self, Request, Response, ask};
use anyhow::Context;
use margay_lab::Port;
use std::io::Write as _;

pub(super) fn status() -> anyhow::Result<()> {
    print(&Request::Status)
}

pub(super) fn reach(namespace: Option<String>, ports: &[Port]) -> anyhow::Result<()> {
    print(&Request::reach(namespace, ports))
}

pub(super) fn kubeconfig(content: bool) -> anyhow::Result<()> {
    let path = protocol::kubeconfig();
    let text =
        std::fs::read_to_string(&path).context("no cluster is running; start one with `margay-lab up`")?;
    say(&if content { text } else { path.display().to_string() })
}

fn print(request: &Request) -> anyhow::Result<()> {
    match ask(request)? {
        Response::Text(text) => say(&text),
        other => anyhow::bail!("an answer that was not asked for: {other:?}"),
    }
}

pub(super) fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("write to standard output")
}
