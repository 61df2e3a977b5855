//! The cluster in the background.

use super::interruptible;
use super::protocol::{Place, Request, Response, kubeconfig, socket};
use anyhow::Context;
use margay_lab::{Daemon, Lab, LabConfig, Node, Party, PodKey, Port};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How long each step of the start may take.
const START: Duration = Duration::from_mins(1);

/// Runs a cluster until a signal comes.
pub(super) async fn run(config: LabConfig) -> anyhow::Result<()> {
    let lab = interruptible(async {
        let lab = Lab::start(config).await?;
        lab.wait_ready(START).await?;
        Ok(lab)
    })
    .await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    std::fs::write(kubeconfig(), lab.kubeconfig_text()?).context("write the kubeconfig")?;
    // Last: that it is there says that the cluster works.
    let listener = UnixListener::bind(socket()).context("make the control socket")?;
    let lab = Arc::new(lab);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept a command")?;
                clients.spawn(serve(stream, Arc::clone(&lab)));
            }
            Some(_ended) = clients.join_next() => {}
        }
    }
    clients.shutdown().await;
    if let Ok(lab) = Arc::try_unwrap(lab) {
        lab.stop().await;
    }
    Ok(())
}

async fn serve(stream: UnixStream, lab: Arc<Lab>) {
    if let Err(error) = converse(stream, &lab).await {
        tracing::warn!("a command: {error:#}");
    }
}

async fn converse(stream: UnixStream, lab: &Lab) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    if BufReader::new(reader).read_line(&mut line).await? == 0 {
        // `up` looks whether we are there.
        return Ok(());
    }
    let response = match answer(lab, serde_json::from_str(&line)?).await {
        Ok(response) => response,
        Err(error) => Response::Error(format!("{error:#}")),
    };
    let mut line = serde_json::to_string(&response)?;
    line.push('\n');
    writer.write_all(line.as_bytes()).await?;
    Ok(())
}

async fn answer(lab: &Lab, request: Request) -> anyhow::Result<Response> {
    match request {
        Request::Status => status(lab).await.map(Response::Text),
        Request::Reach { namespace, ports } => {
            let ports: Vec<Port> = ports.iter().map(|port| port.parse()).collect::<Result<_, _>>()?;
            reach(lab, namespace.as_deref(), &ports).await.map(Response::Text)
        }
        Request::Pod { namespace, name } => {
            let (node, netns) = lab.pod_netns(&PodKey::new(namespace, name))?;
            Ok(Response::Place(Place { node: node.proc_entry(), netns }))
        }
        Request::Node { name } => {
            Ok(Response::Place(Place { node: lab.node_named(&name)?.proc_entry(), netns: None }))
        }
    }
}

async fn status(lab: &Lab) -> anyhow::Result<String> {
    let mut text = String::new();
    for node in lab.nodes() {
        describe(&mut text, node).await;
    }
    writeln!(text, "pods:")?;
    for (key, node) in lab.ready_pods() {
        let addresses: Vec<String> = lab.pod_addresses(&key).iter().map(ToString::to_string).collect();
        writeln!(text, "  {key}  {node}  {}", addresses.join(" "))?;
    }
    Ok(text)
}

async fn describe(text: &mut String, node: &Node) {
    let addresses: Vec<String> = node.addresses().iter().map(ToString::to_string).collect();
    let pods: Vec<String> = node.pod_cidrs().iter().map(ToString::to_string).collect();
    let pid =
        |daemon| node.pid(daemon).map_or_else(|| "not running".to_owned(), |pid| format!("process {pid}"));
    // Writing to a String cannot fail.
    let _ok = writeln!(
        text,
        "{}  {}  pods {}\n  margay-node: {}  margay-bgp: {}",
        node.name(),
        addresses.join(" "),
        pods.join(" "),
        pid(Daemon::Agent),
        pid(Daemon::Bgp)
    );
    match node.bgp_status().await {
        Ok(status) => {
            for neighbor in status.neighbors {
                let (address, asn, state) = (neighbor.address, neighbor.remote_as, neighbor.state);
                let _ok = writeln!(text, "  session {address} (AS {asn}): {state}");
            }
        }
        Err(error) => {
            let _ok = writeln!(text, "  sessions: {error}");
        }
    }
    for route in node.bgp_routes().await.unwrap_or_default() {
        let _ok = writeln!(text, "  route {route}");
    }
}

async fn reach(lab: &Lab, namespace: Option<&str>, ports: &[Port]) -> anyhow::Result<String> {
    let pods: Vec<PodKey> = lab.ready_pods().into_iter().map(|(key, _)| key).collect();
    let pods: Vec<PodKey> =
        pods.into_iter().filter(|key| namespace.is_none_or(|wanted| wanted == key.namespace)).collect();
    anyhow::ensure!(!pods.is_empty(), "no pod is ready");
    let declared = lab.declared_ports().await?;
    let mut wanted: Vec<Port> = ports.to_vec();
    if wanted.is_empty() {
        wanted = pods.iter().filter_map(|key| declared.get(key)).flatten().copied().collect();
        wanted.sort();
        wanted.dedup();
    }
    anyhow::ensure!(!wanted.is_empty(), "no pod declares a port; name one with --port");
    let parties: Vec<Party> = pods.iter().cloned().map(Party::from).collect();
    let mut text = Vec::new();
    for port in wanted {
        // A pod that does not serve a port says nothing about reach.
        let serves = |party: &Party| match party {
            Party::Pod(key) => !ports.is_empty() || declared.get(key).is_some_and(|own| own.contains(&port)),
            _ => false,
        };
        text.push(lab.matrix_of(&parties, port, serves).await?.to_string());
    }
    text.push("rows probe columns: '.' open, 'X' closed, 'T' open with a translated address".into());
    Ok(text.join("\n\n"))
}
