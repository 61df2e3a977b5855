//! Gives flows from one keeper to the other: the kernel's connection tracking, or the short way's maps.

use std::{net::IpAddr, path::Path};

use anyhow::Context;
use margay_ebpf_common::{
    address::Address,
    flow::{self, FlowKey, HIGH_FIN, LOW_FIN, RESET, Stacked, UDP},
};
use margay_netlink::conntrack::{self, Flow};
use nix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use super::{
    maps::{Hash, Maps},
    mirror::KernelMap,
};

const SECOND: u64 = 1_000_000_000;
/// How long ago at most a flow was begun that is not answered yet: connection tracking takes it for one that was.
const PATIENCE: u64 = 10 * SECOND;

/// Gives the flows of what one version has pinned to the stack, as far as that is possible, and has no more begin there. Of
/// another version its maps are read if their keys and values have the sizes of ours, however many there are: see [`margay_ebpf_common::LAYOUT_VERSION`].
pub(super) fn give_away(pins: &Path) {
    let give = || {
        // None begins while those that there are are given away.
        Maps::stop(&pins.join("CONTROL"))?;
        let [flows, embryos] = [Hash::open(&pins.join("FLOWS"))?, Hash::open(&pins.join("EMBRYOS"))?];
        to_stack([&flows, &embryos])
    };
    let given = give();
    // Nor does any go on there, by a policy that nobody writes any more, where a program cannot be taken off.
    if let Err(error) = Maps::end(&pins.join("CONTROL")) {
        warn!("programs that are left may take flows the short way: {error:#}");
    }
    match given {
        Ok(flows) => {
            info!(flows = flows.len(), pins = %pins.display(), "the short way's flows are the stack's now");
        }
        Err(error) => warn!("flows on the short way may end: {error:#}"),
    }
}

/// Has connection tracking keep the flows that are on the short way, those of the maps `FLOWS` and `EMBRYOS`, and gives them back.
/// Those that are over, and those that were never answered, are left to end.
///
/// # Errors
/// When the maps cannot be read, or connection tracking refuses: some flows then end.
pub(super) fn to_stack(maps: [&Hash<FlowKey, flow::Flow>; 2]) -> anyhow::Result<Vec<Flow>> {
    let now = now()?;
    let mut flows = Vec::new();
    for (map, is_embryo) in maps.into_iter().zip([false, true]) {
        for entry in map.iter() {
            let (key, flow) = entry.context("read the flows")?;
            let silent = now.saturating_sub(flow.seen);
            let is_over = flow.state & (LOW_FIN | HIGH_FIN | RESET) != 0;
            if is_over || (is_embryo && silent > PATIENCE) {
                continue;
            }
            let left =
                flow::Flow::timeout(key.protocol, flow.state, is_embryo).saturating_sub(silent) / SECOND;
            match u32::try_from(left) {
                Ok(0) => {}
                left => flows.push((opened(&key, flow.state), left.unwrap_or(u32::MAX))),
            }
        }
    }
    conntrack::adopt(&flows).context("give the flows to connection tracking")?;
    Ok(flows.into_iter().map(|(flow, _)| flow).collect())
}

/// Has the flows of UDP between pods that connection tracking keeps stay with the stack: it may translate them.
///
/// # Errors
/// When the kernel does not tell of them, or the map takes none.
pub(super) fn from_stack(maps: &mut Maps, is_pod: impl Fn(IpAddr) -> bool) -> anyhow::Result<()> {
    let stacked = Stacked { seen: now()? };
    let flows = conntrack::answers(UDP).context("list the flows that connection tracking keeps")?;
    for flow in flows.iter().filter(|flow| is_pod(flow.source) && is_pod(flow.destination)) {
        maps.stacked.insert(key(flow), stacked).context("write the map STACKED")?;
    }
    Ok(())
}

/// A flow in the direction in which it was opened.
fn opened(key: &FlowKey, state: u32) -> Flow {
    let [(source, source_port), (destination, destination_port)] = key.opened(state);
    Flow {
        source: source.into(),
        destination: destination.into(),
        protocol: key.protocol,
        source_port: u16::from_be_bytes(source_port),
        destination_port: u16::from_be_bytes(destination_port),
    }
}

/// The same key for both directions of a flow.
fn key(flow: &Flow) -> FlowKey {
    let source = (Address::from(flow.source), flow.source_port.to_be_bytes());
    let destination = (Address::from(flow.destination), flow.destination_port.to_be_bytes());
    let (low, high) = if source <= destination { (source, destination) } else { (destination, source) };
    FlowKey {
        low: low.0,
        high: high.0,
        low_port: low.1,
        high_port: high.1,
        protocol: flow.protocol,
        padding: [0; 3],
    }
}

/// Nanoseconds of the clock that the programs read.
pub(super) fn now() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    let nanoseconds = std::time::Duration::from(now).as_nanos();
    Ok(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use margay_ebpf_common::flow::OPENED_BY_HIGH;
    use margay_netlink::conntrack::Flow;

    use super::{key, opened};

    #[test]
    fn a_flow_is_the_same_from_either_end_and_has_an_opener() {
        for (client, server) in
            [("192.0.2.1", "192.0.2.2"), ("2001:db8::2", "2001:db8::1"), ("192.0.2.9", "192.0.2.9")]
        {
            let flow = Flow {
                source: client.parse().unwrap(),
                destination: server.parse().unwrap(),
                protocol: 6,
                source_port: 40_000,
                destination_port: 80,
            };
            let Flow { source, destination, source_port, destination_port, .. } = flow;
            let answer = Flow {
                source: destination,
                destination: source,
                source_port: destination_port,
                destination_port: source_port,
                ..flow
            };
            let key = key(&flow);
            assert_eq!(key, super::key(&answer));
            let openers = [opened(&key, 0), opened(&key, OPENED_BY_HIGH)];
            assert!(openers.contains(&flow) && openers.contains(&answer), "{openers:?}");
        }
    }
}
