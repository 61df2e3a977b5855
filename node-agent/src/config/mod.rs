//! Flags, environment and file to checked settings.
//!
//! A flag wins over its environment variable, that over the file, that over the cluster's `NetworkConfig`, that over the
//! default; sections of the file do so field by field.

mod environment;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use margay_api::{endpoint::LEAST_MTU, paths, resource::NetworkConfigSpec};
use margay_bgp::Asn;
use margay_netlink::link::Mtu;
use serde::Deserialize;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::{
    node_address::{self, NodeAddress},
    program::ebpf::{Sizes, SizesFile},
    traffic::{Nat, OverlayFile, Routing, Traffic},
    ways,
};

/// The Margay node agent: programs pod routes, `NetworkPolicy` and BGP on one Kubernetes node.
#[derive(Debug, Clone, Parser)]
#[command(name = "margay-node", version, arg_required_else_help = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// YAML file with the settings below, in camelCase (nodeName, cniConfDir, ...), and the sections
    /// `ipam`, `bgp`, `overlay`, `ebpf`, `nodeAddress` and `selfTest`.
    #[arg(long, value_name = "FILE", env = "MARGAY_CONFIG")]
    config: Option<PathBuf>,
    /// Name of this node's Node object [default: the host name].
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// How to reach the API server [default: the service account of the pod].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Sockets and endpoint records [default: /run/margay].
    #[arg(long, value_name = "DIR", env = "MARGAY_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Address allocations [default: /var/lib/margay].
    #[arg(long, value_name = "DIR", env = "MARGAY_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Where the runtime looks for network configurations [default: /etc/cni/net.d].
    #[arg(long, value_name = "DIR", env = "MARGAY_CNI_CONF_DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// The node's /proc/sys/net, where forwarding is enabled [default: /proc/sys/net].
    #[arg(long, value_name = "DIR", env = "MARGAY_SYSCTL_DIR")]
    sysctl_dir: Option<PathBuf>,
    /// Serves /livez, /readyz, /startupz and /metrics [default: 127.0.0.1:9099].
    #[arg(long, value_name = "ADDRESS:PORT", env = "MARGAY_HTTP_ADDRESS")]
    http_address: Option<SocketAddr>,
    /// Octets that a pod's packet may have [default: the MTU of the interface with the node's address,
    /// less what a tunnel takes].
    #[arg(long, value_name = "OCTETS", env = "MARGAY_MTU", value_parser = mtu)]
    mtu: Option<u32>,
    /// What carries and judges packets [default: auto].
    #[arg(long, value_enum, env = "MARGAY_DATAPLANE")]
    dataplane: Option<Dataplane>,
    /// The node's bpf file system, where the eBPF dataplane is kept [default: /sys/fs/bpf].
    #[arg(long, value_name = "DIR", env = "MARGAY_BPF_DIR")]
    bpf_dir: Option<PathBuf>,
    /// Filter of the log: error, warn, info, debug, trace, or per module [default: info].
    #[arg(long, value_name = "FILTER", env = "MARGAY_LOG_LEVEL", value_parser = filter)]
    log_level: Option<String>,
    /// Form of the log [default: text].
    #[arg(long, value_enum, env = "MARGAY_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Copies the CNI plugins into a directory, each of them atomically, and exits.
    InstallCni {
        /// Directory with `margay`.
        #[arg(long, value_name = "DIR", default_value = "/usr/local/bin")]
        from: PathBuf,
        /// The runtime's plugin directory.
        #[arg(long, value_name = "DIR", default_value = paths::CNI_BIN_DIR)]
        to: PathBuf,
    },
    /// Prints the definitions of the custom resources, as manifests/base/crds.yaml has them.
    #[command(hide = true)]
    Crds,
}

/// What carries and judges packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dataplane {
    /// eBPF where the kernel can, else nftables alone.
    Auto,
    /// nftables alone.
    Nftables,
    /// eBPF, which carries what policy allows between pods round the stack, with nftables for all else. Nftables alone, and a
    /// warning, where the kernel cannot.
    Ebpf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line for a person.
    Text,
    /// A JSON object a line.
    Json,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    node_name: Option<String>,
    kubeconfig: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    cni_conf_dir: Option<PathBuf>,
    sysctl_dir: Option<PathBuf>,
    http_address: Option<SocketAddr>,
    mtu: Option<u32>,
    dataplane: Option<Dataplane>,
    bpf_dir: Option<PathBuf>,
    log_level: Option<String>,
    log_format: Option<LogFormat>,
    reconcile_seconds: Option<u64>,
    unready_seconds: Option<u64>,
    chained_plugins: Vec<Value>,
    node_address: node_address::File,
    self_test: ways::File,
    ipam: IpamFile,
    bgp: Bgp,
    routing: Option<Routing>,
    overlay: OverlayFile,
    ebpf: SizesFile,
    nat_outgoing: Option<bool>,
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<Vec<String>>,
}

impl File {
    /// What it says, and where it says nothing what all nodes have in common.
    fn over(self, common: Self) -> Self {
        Self {
            mtu: self.mtu.or(common.mtu),
            dataplane: self.dataplane.or(common.dataplane),
            log_level: self.log_level.or(common.log_level),
            ipam: IpamFile {
                mode: self.ipam.mode.or(common.ipam.mode),
                give_back_seconds: self.ipam.give_back_seconds.or(common.ipam.give_back_seconds),
            },
            node_address: self.node_address.over(common.node_address),
            self_test: self.self_test.over(common.self_test),
            ebpf: self.ebpf.over(common.ebpf),
            routing: self.routing.or(common.routing),
            overlay: self.overlay.over(common.overlay),
            nat_outgoing: self.nat_outgoing.or(common.nat_outgoing),
            non_masquerade_cidrs: self.non_masquerade_cidrs.or(common.non_masquerade_cidrs),
            ..self
        }
    }
}

/// The section `ipam`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct IpamFile {
    mode: Option<IpamMode>,
    give_back_seconds: Option<u64>,
}

/// Where the node's address blocks come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ipam {
    /// Who gives the node its blocks.
    pub(crate) mode: IpamMode,
    /// Seconds for which a block is empty before it is given back to its pool.
    pub(crate) give_back_seconds: u64,
}

/// Who gives the node its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum IpamMode {
    /// `Node.spec.podCIDRs`.
    #[serde(rename = "podCIDR")]
    PodCidr,
    /// `IPPool` objects, of which the agent claims blocks.
    #[serde(rename = "pool")]
    Pool,
}

/// How routes to other nodes' pods are learned.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Bgp {
    /// Whether to configure the speaker at all.
    pub(crate) enabled: bool,
    /// The node's autonomous system.
    pub(crate) asn: Asn,
    /// Sessions to all other nodes, which are in the same autonomous system.
    pub(crate) mesh: bool,
    /// Sessions to others: routers of the fabric, route reflectors.
    pub(crate) peers: Vec<BgpPeer>,
    /// Seconds of silence after which a session is dead.
    pub(crate) hold_time: u16,
}

/// A BGP neighbour that is no node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BgpPeer {
    pub(crate) address: IpAddr,
    pub(crate) asn: Asn,
}

impl Default for Bgp {
    fn default() -> Self {
        Self { enabled: true, asn: DEFAULT_ASN, mesh: true, peers: Vec::new(), hold_time: 90 }
    }
}

/// The first of the numbers for private use (RFC 6996).
const DEFAULT_ASN: Asn = match Asn::new(64512) {
    Some(asn) => asn,
    None => Asn::TRANS,
};

/// Everything that the agent was told, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) node_name: String,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) cni_conf_dir: PathBuf,
    pub(crate) sysctl_dir: PathBuf,
    pub(crate) http_address: SocketAddr,
    pub(crate) mtu: Option<Mtu>,
    pub(crate) dataplane: Dataplane,
    pub(crate) bpf_dir: PathBuf,
    /// Of the maps of the eBPF dataplane.
    pub(crate) map_sizes: Sizes,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    pub(crate) reconcile: Duration,
    /// How long the node is not ready before its object says so.
    pub(crate) unready: Duration,
    /// Configurations of CNI plugins that the runtime is to call after ours.
    pub(crate) chained_plugins: Vec<Value>,
    /// How it is found at which of its addresses others reach the node.
    pub(crate) node_address: NodeAddress,
    /// The port on which nodes answer each other, where the ways between them are tested.
    pub(crate) self_test: Option<u16>,
    pub(crate) ipam: Ipam,
    pub(crate) bgp: Bgp,
    pub(crate) traffic: Traffic,
}

/// Where settings come from.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    cli: Cli,
    file: File,
}

impl Sources {
    /// Flags, environment and file.
    ///
    /// # Errors
    /// When there is no such file, or a field of it is unknown or has no value of its kind.
    pub(crate) fn read(cli: Cli) -> anyhow::Result<Self> {
        let Some(path) = cli.config.clone() else { return Ok(Self { cli, file: File::default() }) };
        let what = || format!("read configuration {}", path.display());
        let text = std::fs::read_to_string(&path).with_context(what)?;
        Self::of(cli, &text).with_context(what)
    }

    /// Flags, environment and the text of a file.
    pub(crate) fn of(cli: Cli, text: &str) -> anyhow::Result<Self> {
        Ok(Self { cli, file: serde_saphyr::from_str(text)? })
    }

    /// What comes of them, with what all nodes have in common.
    ///
    /// # Errors
    /// The field that cannot be so, and what it takes.
    pub(crate) fn settings(&self, common: Option<&NetworkConfigSpec>) -> anyhow::Result<Settings> {
        let common = match common {
            // It has fields of the file, and no others.
            Some(spec) => serde_json::from_value(serde_json::to_value(spec)?)?,
            None => File::default(),
        };
        merge(&self.cli, self.file.clone().over(common))
    }
}

/// As a flag or a variable has it.
fn mtu(text: &str) -> Result<u32, String> {
    // What is no number is as little one as 0.
    checked_mtu(text.parse().unwrap_or_default()).map(Mtu::octets)
}

/// Or what it takes.
fn checked_mtu(octets: u32) -> Result<Mtu, String> {
    let mtu = Mtu::new(octets).filter(|mtu| mtu.octets() >= LEAST_MTU);
    mtu.ok_or_else(|| format!("it takes {LEAST_MTU} to {} octets", Mtu::MAX))
}

/// As a flag or a variable has it.
fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn merge(cli: &Cli, file: File) -> anyhow::Result<Settings> {
    let node_name = match cli.node_name.clone().or(file.node_name) {
        Some(name) => name,
        None => nix::unistd::gethostname()
            .context("find the host name; or give --node-name")?
            .to_string_lossy()
            .into_owned(),
    };
    let mtu = cli
        .mtu
        .or(file.mtu)
        .map(|octets| checked_mtu(octets).map_err(|takes| anyhow::anyhow!("mtu is {octets}; {takes}")));
    let reconcile = file.reconcile_seconds.unwrap_or(10);
    // The core comes by at least this often; /healthz takes it for dead after a minute.
    anyhow::ensure!((1..=30).contains(&reconcile), "reconcileSeconds is {reconcile}; it takes 1 to 30");
    let log_level = cli.log_level.clone().or(file.log_level).unwrap_or_else(|| "info".into());
    EnvFilter::try_new(&log_level).with_context(|| format!("logLevel is `{log_level}`"))?;
    let unready = file.unready_seconds.unwrap_or(60);
    anyhow::ensure!((1..=86_400).contains(&unready), "unreadySeconds is {unready}; it takes 1 to 86400");
    for plugin in &file.chained_plugins {
        let kind = plugin["type"].as_str().unwrap_or_default();
        anyhow::ensure!(
            !kind.is_empty() && !kind.contains('/'),
            "chainedPlugins: {plugin} has no `type`, the plugin's file name in /opt/cni/bin"
        );
    }
    let or = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
        flag.clone().or(file).unwrap_or_else(|| default.into())
    };
    Ok(Settings {
        node_name,
        kubeconfig: cli.kubeconfig.clone().or(file.kubeconfig),
        run_dir: or(&cli.run_dir, file.run_dir, paths::RUN_DIR),
        state_dir: or(&cli.state_dir, file.state_dir, paths::STATE_DIR),
        cni_conf_dir: or(&cli.cni_conf_dir, file.cni_conf_dir, paths::CNI_CONF_DIR),
        sysctl_dir: or(&cli.sysctl_dir, file.sysctl_dir, "/proc/sys/net"),
        http_address: cli
            .http_address
            .or(file.http_address)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9099))),
        mtu: mtu.transpose()?,
        dataplane: cli.dataplane.or(file.dataplane).unwrap_or(Dataplane::Auto),
        bpf_dir: or(&cli.bpf_dir, file.bpf_dir, paths::BPF_DIR),
        map_sizes: file.ebpf.check()?,
        log_level,
        log_format: cli.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
        reconcile: Duration::from_secs(reconcile),
        unready: Duration::from_secs(unready),
        chained_plugins: file.chained_plugins,
        node_address: file.node_address.check()?,
        self_test: file.self_test.check()?,
        ipam: Ipam {
            mode: file.ipam.mode.unwrap_or(IpamMode::PodCidr),
            give_back_seconds: file.ipam.give_back_seconds.unwrap_or(60),
        },
        bgp: file.bgp,
        traffic: Traffic {
            routing: file.routing.unwrap_or_default(),
            overlay: file.overlay.check()?,
            nat: Nat::check(
                file.nat_outgoing.unwrap_or_default(),
                &file.non_masquerade_cidrs.unwrap_or_default(),
            )?,
        },
    })
}

impl Settings {
    /// Takes what counts from now on, and names the fields that count from the next start.
    pub(crate) fn follow(&mut self, new: Self) -> Vec<&'static str> {
        let mut later = Vec::new();
        if self.dataplane != new.dataplane {
            later.push("dataplane");
        }
        if self.ipam != new.ipam {
            later.push("ipam");
        }
        if self.map_sizes != new.map_sizes {
            later.push("ebpf");
        }
        self.mtu = new.mtu;
        self.traffic = new.traffic;
        self.log_level = new.log_level;
        self.node_address = new.node_address;
        self.self_test = new.self_test;
        later
    }
}
