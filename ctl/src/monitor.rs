//! `margayctl monitor`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::Context;
use clap::Args;
use margay_api::{
    agent::{MAX_LINE, Request, Response},
    monitor::{Begun, Direction, Dropped, Filter, PodPrefix, Verdict},
    paths,
};
use serde::Serialize;

use crate::output::Output;

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Packets that are dropped; the default.
    #[arg(long)]
    drops: bool,
    /// Flows that begin to take the short way of the eBPF dataplane, and the policies that let them, instead of packets
    /// that are dropped.
    #[arg(long, conflicts_with_all = ["drops", "direction", "no_audit"])]
    flows: bool,
    /// Only packets from or to pods of this namespace; can be repeated.
    #[arg(short, long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// Only packets from or to pods whose names begin so; can be repeated.
    #[arg(long = "pod", value_name = "[NAMESPACE/]POD", value_parser = pod)]
    pods: Vec<PodPrefix>,
    /// Only packets that are dropped on their way to a pod, or from one.
    #[arg(long, value_enum)]
    direction: Option<Way>,
    /// Without packets that pass, and would be dropped if policies in audit were enforced.
    #[arg(long)]
    no_audit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    Ingress,
    Egress,
}

fn pod(text: &str) -> Result<PodPrefix, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, text),
    };
    if namespace.as_ref().is_some_and(String::is_empty) || name.contains('/') {
        return Err("write NAMESPACE/POD, or POD".into());
    }
    Ok(PodPrefix { namespace, name: name.to_owned() })
}

impl Options {
    fn filter(&self) -> Filter {
        Filter {
            namespaces: self.namespaces.clone(),
            pods: self.pods.clone(),
            direction: self.direction.map(|way| match way {
                Way::Ingress => Direction::Ingress,
                Way::Egress => Direction::Egress,
            }),
            verdict: self.no_audit.then_some(Verdict::Drop),
        }
    }
}

/// What is printed as JSON in place of an event.
#[derive(Serialize)]
struct Lost {
    lost: u64,
}

/// Shows what the agent tells, until one of them ends.
pub(crate) fn run(run_dir: &Path, options: &Options, output: Output) -> anyhow::Result<()> {
    let path = run_dir.join(paths::AGENT_SOCKET);
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("reach the agent on {}; is margay-node running?", path.display()))?;
    let filter = options.filter();
    let request = if options.flows { Request::Flows { filter } } else { Request::Monitor { filter } };
    writeln!(stream, "{}", serde_json::to_string(&request)?).context("ask the agent")?;
    let stdout = io::stdout();
    match copy(BufReader::new(stream), stdout.lock(), io::stderr().lock(), output) {
        // A reader such as `head` that has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        outcome => outcome,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints answers as they come; what is no event goes to `aside`, unless it is for a program.
fn copy(
    mut agent: impl BufRead,
    mut out: impl Write,
    mut aside: impl Write,
    output: Output,
) -> anyhow::Result<()> {
    loop {
        let mut line = String::new();
        let octets =
            (&mut agent).take(MAX_LINE as u64).read_line(&mut line).context("hear from the agent")?;
        anyhow::ensure!(octets > 0, "the agent has ended");
        match serde_json::from_str(&line).context("understand the agent; is it of another version?")? {
            Response::Done => drop(writeln!(aside, "listening")),
            Response::Dropped(event) => print(&event, &mut out, output)?,
            Response::Begun(event) => print_begun(&event, &mut out, output)?,
            Response::Lost { packets } => match document(&Lost { lost: packets }, output)? {
                Some(document) => out.write_all(document.as_bytes())?,
                None => writeln!(out, "{packets} events lost")?,
            },
            Response::Refused { reason } => anyhow::bail!("{reason}"),
            other => anyhow::bail!("{other:?} is no answer; are margayctl and agent of one version?"),
        }
        out.flush()?;
    }
}

fn print(event: &Dropped, out: &mut impl Write, output: Output) -> anyhow::Result<()> {
    if let Some(document) = document(event, output)? {
        out.write_all(document.as_bytes())?;
        return Ok(());
    }
    let verdict = match event.verdict {
        Verdict::Drop => "drop",
        Verdict::Audit => "audit",
    };
    let direction = event.direction.text();
    writeln!(out, "{} {} {verdict:5} {direction:7} {event}", event.time, event.node)?;
    Ok(())
}

fn print_begun(event: &Begun, out: &mut impl Write, output: Output) -> anyhow::Result<()> {
    if let Some(document) = document(event, output)? {
        out.write_all(document.as_bytes())?;
        return Ok(());
    }
    writeln!(out, "{} {} begin {event}", event.time, event.node)?;
    Ok(())
}

/// One of a stream of documents for a program: JSON a line each, YAML with a line between them.
fn document(value: &impl Serialize, output: Output) -> anyhow::Result<Option<String>> {
    Ok(match output {
        Output::Table | Output::Wide => None,
        Output::Json => Some(format!("{}\n", serde_json::to_string(value)?)),
        Output::Yaml => Some(format!("---\n{}", serde_saphyr::to_string(value)?)),
    })
}

#[cfg(test)]
mod tests {
    use margay_api::monitor::{Filter, PodPrefix};

    use super::{copy, pod};
    use crate::output::Output;

    const AGENT: &str = r#"{"response":"done"}
{"response":"dropped","time":"2026-11-21T09:20:15.123456Z","node":"n1","verdict":"drop","direction":"ingress","reason":"isolation","source":{"address":"192.0.2.7"},"destination":{"address":"192.0.2.9","pod":{"namespace":"shop","name":"db"}},"protocol":"TCP","sourcePort":41234,"destinationPort":5432,"policies":[{"kind":"NetworkPolicy","namespace":"shop","name":"deny-all"}]}
{"response":"begun","time":"2026-11-21T09:20:16.000001Z","node":"n1","source":{"address":"192.0.2.7"},"destination":{"address":"192.0.2.9"},"protocol":"UDP","sourcePort":1,"destinationPort":2,"ingress":{"by":"nobody"}}
{"response":"lost","packets":7}
"#;

    fn printed(agent: &str, output: Output) -> (String, String, String) {
        let (mut out, mut aside) = (Vec::new(), Vec::new());
        let error = copy(agent.as_bytes(), &mut out, &mut aside, output).unwrap_err().to_string();
        (String::from_utf8(out).unwrap(), String::from_utf8(aside).unwrap(), error)
    }

    #[test]
    fn events_are_lines_and_losses_are_told() {
        let (out, aside, error) = printed(AGENT, Output::Table);
        assert_eq!(
            out,
            "2026-11-21T09:20:15.123456Z n1 drop  ingress TCP 192.0.2.7:41234 -> shop/db (192.0.2.9):5432, dropped by NetworkPolicy shop/deny-all\n2026-11-21T09:20:16.000001Z n1 begin UDP 192.0.2.7:1 -> 192.0.2.9:2, in: no policy is about it\n7 events lost\n"
        );
        assert_eq!((aside.as_str(), error.as_str()), ("listening\n", "the agent has ended"));
        let (out, _, _) = printed(AGENT, Output::Json);
        let lines: Vec<serde_json::Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["destination"]["pod"]["name"], "db");
        assert_eq!(lines[1]["ingress"], serde_json::json!({"by": "nobody"}));
        assert_eq!(lines[2], serde_json::json!({"lost": 7}));
        let (out, _, _) = printed(AGENT, Output::Yaml);
        assert_eq!(out.matches("---\n").count(), 3, "{out}");
        assert!(out.ends_with("---\nlost: 7\n"), "{out}");
        let refused = "{\"response\":\"refused\",\"reason\":\"somebody else listens\"}\n";
        assert_eq!(printed(refused, Output::Json).2, "somebody else listens");
    }

    #[test]
    fn pods_are_named_with_or_without_a_namespace() {
        let prefix = |namespace: Option<&str>, name: &str| PodPrefix {
            namespace: namespace.map(str::to_owned),
            name: name.into(),
        };
        assert_eq!(pod("shop/db"), Ok(prefix(Some("shop"), "db")));
        assert_eq!(pod("db"), Ok(prefix(None, "db")));
        assert!(pod("/db").is_err() && pod("a/b/c").is_err());
        let filter = Filter { pods: vec![pod("db").unwrap()], ..Filter::default() };
        assert_eq!(serde_json::to_string(&filter).unwrap(), r#"{"pods":[{"name":"db"}]}"#);
    }
}
