//! `margayctl ebpf`: what the maps of the eBPF dataplane hold, in words.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray},
};
use clap::{Args, Subcommand};
use margay_api::{endpoint::Records, paths};
use margay_ebpf_common::{
    LAYOUT_VERSION,
    address::{Address, IPV4_PREFIX_LEN},
    control::Control,
    counter::Counter,
    endpoint::{Endpoint, PEER},
    flow::{Flow, FlowKey, HIGH_FIN, LOW_FIN, RESET, TCP, UDP},
    tunnel::{Tunnel, TunnelKey},
    verdict::{ALLOW, ANY_CLASS, CLUSTER, INGRESS, ISOLATE, TELL, VerdictKey},
};
use margay_policy::Protocol;
use nix::time::{ClockId, clock_gettime};

use crate::{Answer, table::Table};

/// Where the maps are, and what is asked of them.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The node's bpf file system.
    #[arg(long, global = true, value_name = "DIR", default_value = paths::BPF_DIR, env = "MARGAY_BPF_DIR")]
    bpf_dir: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Whether flows may take the short way, and what became of packets between pods so far.
    Status,
    /// The pod links that the programs know, and the policy sets that apply to them.
    Endpoints,
    /// The classes of addresses and ranges.
    Classes,
    /// What policy sets say of classes, protocols and ports: allowed, or left to nftables.
    Verdicts {
        /// Of this policy set only.
        set: Option<u32>,
    },
    /// The flows that take the short way.
    Flows,
}

/// Answers.
///
/// # Errors
/// When there is no eBPF dataplane, or its maps cannot be read.
pub(crate) fn run(run_dir: &Path, options: &Options) -> anyhow::Result<Answer> {
    let maps = Maps::below(&options.bpf_dir)?;
    let table = match &options.what {
        What::Status => status(&maps),
        What::Endpoints => endpoints(&maps, &Names::read(run_dir)?),
        What::Classes => classes(&maps),
        What::Verdicts { set } => verdicts(&maps, *set),
        What::Flows => flows(&maps),
    };
    Ok(table?.into())
}

/// All of it, by name; one error where there is no eBPF dataplane.
pub(crate) fn everything(run_dir: &Path, bpf_dir: &Path) -> Vec<(&'static str, anyhow::Result<Answer>)> {
    let maps = match Maps::below(bpf_dir) {
        Ok(maps) => maps,
        Err(error) => return vec![("status", Err(error))],
    };
    let answer = |table: anyhow::Result<Table>| table.map(Answer::from);
    vec![
        ("status", answer(status(&maps))),
        ("endpoints", answer(Names::read(run_dir).and_then(|names| endpoints(&maps, &names)))),
        ("classes", answer(classes(&maps))),
        ("verdicts", answer(verdicts(&maps, None))),
        ("flows", answer(flows(&maps))),
    ]
}

fn status(maps: &Maps) -> anyhow::Result<Table> {
    let control: Control =
        Array::try_from(maps.open("CONTROL")?)?.get(&0, 0).context("read the map CONTROL")?;
    let mut table = Table::new(&["what", "value"]);
    let state = match control {
        Control { revision, .. } if revision & 1 == 1 => {
            "its maps are being written, or the agent died at that"
        }
        control if !control.admits() => "closed: flows that begin go through the stack",
        _ => "open",
    };
    table.push(["short way".into(), state.into()]);
    table.push(["revision of the policy".into(), control.revision.to_string()]);
    let tells = if control.tells_flows() { "yes" } else { "no: no `margayctl monitor --flows` runs" };
    table.push(["tells of flows".into(), tells.into()]);
    let tells = if control.tells_denials() { "yes" } else { "no: nobody wants to hear of what is dropped" };
    table.push(["tells of dropped packets".into(), tells.into()]);
    let tunnels: BTreeMap<TunnelKey, Tunnel> = maps.hash("TUNNELS")?;
    table.push(["ways into tunnels round the device".into(), tunnels.len().to_string()]);
    let counters: PerCpuArray<MapData, u64> = PerCpuArray::try_from(maps.open("COUNTERS")?)?;
    for counter in Counter::ALL {
        let by_cpu = counters.get(&counter.index(), 0).context("read the map COUNTERS")?;
        table.push([words(counter).into(), by_cpu.iter().sum::<u64>().to_string()]);
    }
    Ok(table)
}

/// What became of a packet.
fn words(counter: Counter) -> &'static str {
    match counter {
        Counter::ToPod => "packets straight into a pod",
        Counter::ToNode => "packets straight to another node",
        Counter::ToTunnel => "packets straight to another node, in a tunnel",
        Counter::Stacked => "to the stack: its flow",
        Counter::NoFlow => "to the stack: of no flow that is known",
        Counter::NotAllowed => "to the stack: not plainly allowed",
        Counter::Denied => "dropped: policy denies what they begin",
        Counter::BeingWritten => "to the stack: maps were being written",
        Counter::Unroutable => "to the stack: no way, too large, or no hops left",
        Counter::Unparsed => "to the stack: headers that are not understood",
        Counter::Lost => "lost on the way into a tunnel",
    }
}

fn endpoints(maps: &Maps, names: &Names) -> anyhow::Result<Table> {
    let endpoints: BTreeMap<u32, Endpoint> = maps.hash("ENDPOINTS")?;
    let mut addresses: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for (address, index) in maps.hash::<Address, u32>("LOCAL")? {
        addresses.entry(index).or_default().push(address.into());
    }
    let mut table = Table::new(&["link", "addresses", "pod", "ingress set", "egress set", "packets to it"]);
    let set = |number: u32| if number == 0 { "none: all may pass".to_owned() } else { number.to_string() };
    for (index, endpoint) in endpoints {
        let its = addresses.remove(&index).unwrap_or_default();
        let pod = its.iter().find_map(|address| names.0.get(address)).cloned().unwrap_or_default();
        let its: Vec<String> = its.iter().map(ToString::to_string).collect();
        let way = if endpoint.flags & PEER == 0 { "to its host end" } else { "straight" };
        table.push([
            index.to_string(),
            its.join(" "),
            pod,
            set(endpoint.ingress),
            set(endpoint.egress),
            way.to_owned(),
        ]);
    }
    Ok(table)
}

fn classes(maps: &Maps) -> anyhow::Result<Table> {
    let mut table = Table::new(&["addresses", "class"]);
    for (address, class) in maps.hash::<Address, u32>("ADDRESSES")? {
        table.push([IpAddr::from(address).to_string(), class.to_string()]);
    }
    for ((address, len), class) in maps.trie::<Address, u32>("RANGES")? {
        let address = IpAddr::from(address);
        let len = if address.is_ipv4() { len.saturating_sub(IPV4_PREFIX_LEN) } else { len };
        table.push([format!("{address}/{len}"), class.to_string()]);
    }
    Ok(table)
}

fn verdicts(maps: &Maps, set: Option<u32>) -> anyhow::Result<Table> {
    let mut table = Table::new(&["set", "direction", "class", "protocol", "ports", "verdict"]);
    for ((key, len), verdict) in maps.trie::<VerdictKey, u32>("VERDICTS")? {
        if set.is_some_and(|set| set != key.set) {
            continue;
        }
        let class = if key.class == ANY_CLASS { "any other".to_owned() } else { key.class.to_string() };
        let (protocol, ports) = if len == VerdictKey::REST {
            ("any other".to_owned(), "any other".to_owned())
        } else {
            (protocol(key.protocol), ports(key.port, len))
        };
        let verdict = match verdict {
            ALLOW => "allowed",
            TELL => "left to nftables, which tells of it; what has begun goes on",
            ISOLATE => "denied, as nothing that isolates the pods allows it",
            _ if verdict & CLUSTER != 0 => "denied by a policy of the cluster",
            _ => "not known: of another version",
        };
        let direction = if key.way == INGRESS { "ingress" } else { "egress" };
        table.push([key.set.to_string(), direction.into(), class, protocol, ports, verdict.into()]);
    }
    Ok(table)
}

fn ports(first: [u8; 2], len: u32) -> String {
    let first = u16::from_be_bytes(first);
    let free = VerdictKey::PORT.saturating_sub(len).min(16);
    match u16::try_from((1_u32 << free) - 1) {
        Ok(more) if more != 0 => format!("{first}-{}", first | more),
        _ => first.to_string(),
    }
}

fn protocol(number: u8) -> String {
    let known = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number);
    known.map_or_else(|| number.to_string(), |protocol| format!("{protocol:?}").to_uppercase())
}

fn flows(maps: &Maps) -> anyhow::Result<Table> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?);
    let control: Control =
        Array::try_from(maps.open("CONTROL")?)?.get(&0, 0).context("read the map CONTROL")?;
    let mut table = Table::new(&["protocol", "from", "to", "state", "silent for", "judged"]);
    for (name, is_embryo) in [("FLOWS", false), ("EMBRYOS", true)] {
        for (key, flow) in maps.hash::<FlowKey, Flow>(name)? {
            let silent = now.saturating_sub(Duration::from_nanos(flow.seen));
            if silent > Duration::from_nanos(Flow::timeout(key.protocol, flow.state, is_embryo)) {
                continue;
            }
            let [from, to] = key
                .opened(flow.state)
                .map(|(address, port)| SocketAddr::new(address.into(), u16::from_be_bytes(port)));
            let judged = if control.holds(flow.revision) { "in force" } else { "anew at its next packet" };
            table.push([
                protocol(key.protocol),
                from.to_string(),
                to.to_string(),
                state(key.protocol, flow.state, is_embryo).into(),
                format!("{} s", silent.as_secs()),
                judged.into(),
            ]);
        }
    }
    Ok(table)
}

fn state(protocol: u8, state: u32, is_embryo: bool) -> &'static str {
    match (protocol, is_embryo) {
        _ if state & RESET != 0 => "reset",
        _ if state & (LOW_FIN | HIGH_FIN) == LOW_FIN | HIGH_FIN => "closed",
        _ if state & (LOW_FIN | HIGH_FIN) != 0 => "closing",
        (TCP, true) => "opening",
        (UDP, true) => "not answered",
        (TCP, false) => "established",
        _ => "answered",
    }
}

/// The pods of this node by address.
struct Names(BTreeMap<IpAddr, String>);

impl Names {
    fn read(run_dir: &Path) -> anyhow::Result<Self> {
        let listing = Records::below(run_dir).list()?;
        let named = listing.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.pod.as_ref()?)));
        let of =
            named.flat_map(|(endpoint, pod)| endpoint.addresses.iter().map(move |it| (*it, pod.to_string())));
        Ok(Self(of.collect()))
    }
}

/// The pinned maps.
struct Maps(PathBuf);

impl Maps {
    fn below(bpf_dir: &Path) -> anyhow::Result<Self> {
        let path = bpf_dir.join(paths::BPF_PINS).join(format!("v{LAYOUT_VERSION}"));
        anyhow::ensure!(
            path.exists(),
            "there is no eBPF dataplane of this version below {}; `margayctl node status` and the agent's log say which \
             dataplane the node has",
            bpf_dir.display()
        );
        Ok(Self(path))
    }

    fn open(&self, name: &str) -> anyhow::Result<Map> {
        let path = self.0.join(name);
        let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        Map::from_map_data(data).with_context(|| format!("open {}", path.display()))
    }

    fn hash<K: Pod + Ord, V: Pod>(&self, name: &str) -> anyhow::Result<BTreeMap<K, V>> {
        let map: HashMap<MapData, K, V> = HashMap::try_from(self.open(name)?)?;
        let entries = map.iter().collect::<Result<_, MapError>>();
        entries.with_context(|| format!("read the map {name}"))
    }

    fn trie<T: Pod + Ord, V: Pod>(&self, name: &str) -> anyhow::Result<BTreeMap<(T, u32), V>> {
        let map: LpmTrie<MapData, T, V> = LpmTrie::try_from(self.open(name)?)?;
        let entries =
            map.iter().map(|entry| entry.map(|(key, value)| ((key.data(), key.prefix_len()), value)));
        entries.collect::<Result<_, MapError>>().with_context(|| format!("read the map {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::ports;

    #[test]
    fn a_prefix_of_a_port_is_a_range() {
        for (first, len, words) in [(80_u16, 96, "80"), (80, 92, "80-95"), (0, 80, "0-65535")] {
            assert_eq!(ports(first.to_be_bytes(), len), words);
        }
    }
}
