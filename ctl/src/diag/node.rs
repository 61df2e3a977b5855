//! What this node knows.

use std::{
    fmt::{Debug, Write as _},
    fs,
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use anyhow::Context;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use margay_api::paths;
use margay_netlink::{Socket, addr, fdb, link, neigh, route};
use tokio::net::TcpStream;

use super::bundle::Bundle;
use crate::{Answer, bgp, check, ebpf, endpoints, ipam, node_status, output::Output};

/// Where things are on a node.
pub(crate) struct Places<'a> {
    pub(crate) run_dir: &'a Path,
    pub(crate) state_dir: &'a Path,
}

/// Where the agent answers HTTP unless it was told otherwise.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9099);
/// How long the agent may take to answer, and how much.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST: usize = 64 << 20;

/// Kernel settings that decide about pods' packets.
const SETTINGS: [&str; 10] = [
    "/proc/version",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv6/conf/all/disable_ipv6",
    "/proc/sys/net/ipv4/conf/all/rp_filter",
    "/proc/sys/net/ipv4/conf/default/rp_filter",
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/proc/sys/net/ipv4/neigh/default/gc_thresh3",
    "/proc/sys/net/core/bpf_jit_enable",
];

pub(super) fn gather(places: &Places<'_>, bundle: &mut Bundle<'_>) -> anyhow::Result<()> {
    let Places { run_dir, state_dir } = places;
    let socket = run_dir.join(paths::BGP_SOCKET);
    let text = |answer: anyhow::Result<Answer>| answer.map(|answer| answer.text(Output::Table));
    bundle.add("node/status.txt", text(Ok(node_status::run(run_dir, state_dir))))?;
    bundle.add("node/endpoints.txt", text(endpoints::run(run_dir)))?;
    bundle.add("node/ipam.txt", text(ipam::show(run_dir, state_dir)))?;
    bundle.add("node/ipam-check.txt", text(check::run(run_dir, state_dir)))?;
    bundle.add("node/bgp-neighbors.txt", text(bgp::neighbors(&socket)))?;
    bundle.add("node/bgp-routes.txt", text(bgp::routes(&socket, None, None, None)))?;
    for (name, answer) in ebpf::everything(run_dir, Path::new(paths::BPF_DIR)) {
        bundle.add(&format!("node/ebpf-{name}.txt"), text(answer))?;
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        bundle.add(&format!("node/http{path}.txt"), ask(path))?;
    }
    let list = |what: anyhow::Result<String>| what.context("ask the kernel");
    bundle.add("node/links.txt", list(listed(link::list)))?;
    bundle.add("node/addresses.txt", list(listed(addr::list)))?;
    bundle.add("node/routes.txt", list(listed(|socket| route::list(socket, route::Filter::default()))))?;
    bundle.add("node/neighbours.txt", list(on_each_link(neigh::list_on)))?;
    bundle.add("node/forwarding.txt", list(on_each_link(fdb::list_on)))?;
    bundle.add("node/settings.txt", Ok(settings()))?;
    let configuration = Path::new(paths::CNI_CONF_DIR).join(paths::CNI_CONF_FILE);
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let conflist = read(&configuration).and_then(|text| Ok(serde_json::from_str(&text)?));
    bundle.add_objects("node/conflist.json", conflist)
}

/// A line each of what a list in the kernel has.
fn listed<T: Debug, E: std::error::Error + Send + Sync + 'static>(
    list: impl FnOnce(&mut Socket) -> Result<Vec<T>, E>,
) -> anyhow::Result<String> {
    let mut text = String::new();
    for entry in list(&mut Socket::open()?)? {
        writeln!(text, "{entry:?}")?;
    }
    Ok(text)
}

fn on_each_link<T: Debug, E: std::error::Error + Send + Sync + 'static>(
    list: impl Fn(&mut Socket, link::IfIndex) -> Result<Vec<T>, E>,
) -> anyhow::Result<String> {
    let mut socket = Socket::open()?;
    let mut text = String::new();
    for link in link::list(&mut socket)? {
        match list(&mut socket, link.index) {
            Ok(entries) => {
                for entry in entries {
                    writeln!(text, "{}: {entry:?}", link.name)?;
                }
            }
            // A link may go meanwhile, and has none then.
            Err(error) => writeln!(text, "{}: {error}", link.name)?,
        }
    }
    Ok(text)
}

fn settings() -> String {
    let value = |path: &&str| match fs::read_to_string(path) {
        Ok(value) => format!("{path}: {}\n", value.trim()),
        Err(error) => format!("{path}: {error}\n"),
    };
    SETTINGS.iter().map(value).collect()
}

/// What the agent answers by HTTP, whatever its status code.
fn ask(path: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asking = async {
            let stream = TcpStream::connect(HTTP).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let request = Request::get(path).header("host", HTTP.to_string()).body(Empty::<Bytes>::new())?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MOST).collect().await;
            connection.abort();
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            Ok::<_, anyhow::Error>(format!("HTTP {status}\n{}", String::from_utf8_lossy(&body)))
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        answer.context("no answer in time").flatten().with_context(|| format!("ask http://{HTTP}{path}"))
    })
}
