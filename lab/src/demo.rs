//! The demonstration: a cluster that routes and isolates, shown step by step.

use anyhow::Context;
use margay_lab::{FabricKind, Lab, LabConfig, Matrix, Node, Party, PodKey, Port};
use std::fmt::Display;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;
use tokio::time::Instant;

const DENY_ALL: &str = include_str!("../../manifests/examples/deny-all.yaml");
const ALLOW_MY_APP: &str = include_str!("../../manifests/examples/allow-my-app.yaml");
const NAMESPACE: &str = "app";
const PORT: Port = Port::tcp(8080);
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long policy may take to come everywhere.
const POLICY_PATIENCE: Duration = Duration::from_secs(10);

/// Shows it all on a cluster of its own. An error says what was not as it must be.
pub(crate) async fn run(config: LabConfig) -> anyhow::Result<()> {
    let begin = Instant::now();
    let fabric = match config.fabric {
        FabricKind::Flat => "one switched subnet, BGP mesh between the nodes",
        FabricKind::Routed => "a subnet a node behind a BIRD router, eBGP to each",
        FabricKind::Subnets => "two subnets with a router between them, BGP mesh between the nodes",
    };
    heading(&format!("A cluster of {} nodes in network namespaces: {fabric}", config.nodes))?;
    let lab = Lab::start(config).await?;
    lab.wait_nodes_ready(PATIENCE).await?;
    say(lab
        .kubectl(&["get", "nodes", "-o", "wide", "--no-headers=false"], "")
        .await
        .map(|t| columns(&t, 7))?)?;

    heading("BGP sessions")?;
    lab.wait_sessions(PATIENCE).await?;
    for node in lab.nodes() {
        for neighbor in node.bgp_status().await?.neighbors {
            let asn = neighbor.remote_as;
            say(format!("{}  {} (AS {asn})  {}", node.name(), neighbor.address, neighbor.state))?;
        }
    }

    heading("Routes learned (ip route show proto bgp)")?;
    lab.wait_routes(PATIENCE).await?;
    for node in lab.nodes() {
        for route in node.bgp_routes().await? {
            say(format!("{}  {route}", node.name()))?;
        }
    }

    heading("Pods, made by the CNI plugin")?;
    let pods = create_pods(&lab).await?;

    heading("Everyone reaches everyone, with their own addresses ('.' open, 'X' closed, 'T' translated)")?;
    show_until(&lab, &pods, |_, _| true).await?;
    let example = lab.reach(&pods[0], &pods[pods.len() - 1], PORT).await?;
    say(format!(
        "{} has {:?}; {} answered: {:?}",
        pods[0],
        example.own,
        pods[pods.len() - 1],
        example.reach
    ))?;

    heading("kubectl apply -f deny-all.yaml")?;
    let refused = time_to_refusal(&lab, &pods).await?;
    show_until(&lab, &pods, |_, _| false).await?;
    say(format!("first refused packet {} ms after kubectl apply began", refused.as_millis()))?;

    heading("kubectl apply -f allow-my-app.yaml: app=a-pod reaches app=my-app")?;
    say(lab.kubectl(&["apply", "-f", "-"], ALLOW_MY_APP).await?.trim())?;
    show_until(&lab, &pods, |from, to| is(from, "a-pod") && is(to, "my-app")).await?;

    let problems = lab.kubectl(&["get", "events", "-A", "--field-selector=type=Warning"], "").await?;
    if !problems.trim().is_empty() {
        say(problems.trim())?;
    }
    lab.stop().await;
    heading(&format!("All as it must be, in {:.1} s", begin.elapsed().as_secs_f64()))
}

/// The role of a pod is the start of its name, and its label `app`.
fn is(party: &Party, role: &str) -> bool {
    matches!(party, Party::Pod(key) if key.name.starts_with(role))
}

async fn create_pods(lab: &Lab) -> anyhow::Result<Vec<Party>> {
    let mut manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    let mut keys = Vec::new();
    for node in lab.nodes() {
        for role in ["my-app", "a-pod", "other"] {
            let name = format!("{role}-{}", node.name());
            // Writing to a String cannot fail.
            let _ok = write!(manifest, "---\n{}", pod(&name, role, node));
            keys.push(PodKey::new(NAMESPACE, name));
        }
    }
    lab.kubectl(&["apply", "-f", "-"], &manifest).await?;
    lab.wait_pods(&keys, PATIENCE).await?;
    let wide = lab.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "wide", "-L", "app"], "").await?;
    say(columns(&wide, 7))?;
    Ok(keys.into_iter().map(Party::from).collect())
}

fn pod(name: &str, role: &str, node: &Node) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app: {role}}}}}\n\
         spec:\n  nodeSelector: {{kubernetes.io/hostname: {}}}\n  \
           containers: [{{name: server, image: margay-lab, ports: [{{containerPort: {}}}]}}]\n",
        node.name(),
        PORT.number
    )
}

/// Probes until the matrix is as it must be, and shows it.
async fn show_until(
    lab: &Lab,
    pods: &[Party],
    must_be_open: impl Fn(&Party, &Party) -> bool,
) -> anyhow::Result<Matrix> {
    let end = Instant::now() + POLICY_PATIENCE;
    loop {
        let matrix = lab.matrix(pods, PORT).await?;
        let differences = matrix.differences(&must_be_open);
        if differences.is_empty() {
            say(&matrix)?;
            say(format!("{} of {} open", matrix.open(), matrix.probes().count()))?;
            return Ok(matrix);
        }
        if Instant::now() >= end {
            say(&matrix)?;
            anyhow::bail!("not as it must be:\n  {}", differences.join("\n  "));
        }
    }
}

/// Applies deny-all while probing, and gives the time to the first probe that got no answer.
async fn time_to_refusal(lab: &Lab, pods: &[Party]) -> anyhow::Result<Duration> {
    let (from, to) = pods.first().zip(pods.get(1)).context("there are no two pods")?;
    let begin = Instant::now();
    let apply = lab.kubectl(&["apply", "-f", "-"], DENY_ALL);
    let refused = async {
        while begin.elapsed() < POLICY_PATIENCE {
            let sent = begin.elapsed();
            if !lab.reach(from, to, PORT).await?.reach.is_open() {
                return Ok(sent);
            }
        }
        anyhow::bail!(
            "nothing was refused within {POLICY_PATIENCE:?}; the newest log lines:{}",
            lab.log_tail(15)
        )
    };
    let (applied, refused) = tokio::join!(apply, refused);
    say(applied?.trim())?;
    refused
}

/// The first columns of a table of kubectl's.
fn columns(table: &str, count: usize) -> String {
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().take(count).collect()).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.len()).max();
    let line = |row: &Vec<&str>| {
        let cells = row.iter().enumerate().map(|(at, cell)| format!("{cell:w$}", w = width(at).unwrap_or(0)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn heading(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "\n== {text}").context("write to standard output")
}

fn say(text: impl Display) -> anyhow::Result<()> {
    let text = text.to_string();
    let mut out = std::io::stdout().lock();
    for line in text.lines() {
        writeln!(out, "   {line}").context("write to standard output")?;
    }
    Ok(())
}
