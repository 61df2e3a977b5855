//! How full the maps are that the programs write.
//!
//! They give up what was used least recently, and only when they are full: so not all that is in them counts, but what has
//! not timed out. That takes a look at every entry, some thousand in a system call, which the core never waits for.

use std::{io, os::fd::AsFd, time::Duration};

use anyhow::Context;
use aya::{Pod, maps::MapData};
use margay_ebpf_common::flow::{Flow, FlowKey, STACKED_TIMEOUT, Stacked};
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::Instant,
};
use tracing::warn;

use super::{handover::now, object::Pins, sys};
use crate::metrics::MapLabels;

/// Shortest time from one look to the next, however often somebody asks.
const PACE: Duration = Duration::from_secs(30);
/// Entries that one system call gives.
const BATCH: usize = 4096;

/// The maps of flows, opened beside the core's.
pub(super) struct Tables {
    flows: MapData,
    embryos: MapData,
    stacked: MapData,
}

impl Tables {
    /// Those that are pinned.
    ///
    /// # Errors
    /// When one is not there.
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        let open = |name| MapData::from_pin(pins.map(name)).with_context(|| format!("open the map {name}"));
        Ok(Self { flows: open("FLOWS")?, embryos: open("EMBRYOS")?, stacked: open("STACKED")? })
    }

    /// The entries of each that have not timed out, so many nanoseconds after the start of the machine.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn count(&self, now: u64) -> anyhow::Result<[(&'static str, u64); 3]> {
        let live = |silent_since: u64, timeout: u64| now.saturating_sub(silent_since) <= timeout;
        let of_flows = |map: &MapData, is_embryo| {
            count(map, |key: &FlowKey, flow: &Flow| {
                live(flow.seen, Flow::timeout(key.protocol, flow.state, is_embryo))
            })
        };
        Ok([
            ("flows", of_flows(&self.flows, false).context("read the map FLOWS")?),
            ("embryos", of_flows(&self.embryos, true).context("read the map EMBRYOS")?),
            (
                "stacked",
                count(&self.stacked, |_: &FlowKey, stacked: &Stacked| live(stacked.seen, STACKED_TIMEOUT))
                    .context("read the map STACKED")?,
            ),
        ])
    }
}

fn count<K: Pod + Default, V: Pod + Default>(
    map: &MapData,
    counts: impl Fn(&K, &V) -> bool,
) -> io::Result<u64> {
    let mut number = 0;
    sys::for_each(map.fd().as_fd(), BATCH, |key, value| number += u64::from(counts(key, value)))?;
    Ok(number)
}

/// Whoever asks is answered once the metric is no older than [`PACE`].
pub(super) async fn run(
    mut tables: Tables,
    mut asked: mpsc::Receiver<oneshot::Sender<()>>,
    entries: Family<MapLabels, Gauge>,
) -> anyhow::Result<()> {
    let mut looked: Option<Instant> = None;
    while let Some(answer) = asked.recv().await {
        if looked.is_none_or(|looked| looked.elapsed() >= PACE) {
            let work = spawn_blocking(move || {
                let counted = now().and_then(|now| tables.count(now));
                (tables, counted)
            });
            let (back, counted) = work.await.context("count flows")?;
            tables = back;
            looked = Some(Instant::now());
            match counted {
                Ok(counted) => {
                    for (map, number) in counted {
                        let number = i64::try_from(number).unwrap_or(i64::MAX);
                        entries.get_or_create(&MapLabels { map }).set(number);
                    }
                }
                Err(error) => warn!("the flows of the short way cannot be counted: {error:#}"),
            }
        }
        // A scrape that was given up hears nothing.
        let _given_up = answer.send(());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use margay_ebpf_common::{
        address::Address,
        flow::{Flow, FlowKey, RESET, STACKED_TIMEOUT, Stacked, TCP},
    };

    use super::{BATCH, Tables};
    use crate::program::ebpf::{mirror::KernelMap, object, own::with_bpf_fs, sizes::Sizes};

    #[test]
    fn what_has_timed_out_takes_no_part_of_a_table() {
        with_bpf_fs(|bpf_fs| {
            let mut object = object::load(bpf_fs, &Sizes::default()).unwrap();
            let tables = Tables::open(&object.pins).unwrap();
            // However long this machine has been up.
            let now = 2 * STACKED_TIMEOUT;
            assert_eq!(tables.count(now).unwrap(), [("flows", 0), ("embryos", 0), ("stacked", 0)]);
            let key = |number: usize| FlowKey {
                low: Address::from_ipv4(u32::try_from(number).unwrap().to_be_bytes()),
                protocol: TCP,
                ..FlowKey::default()
            };
            // More than one call gives.
            let live = 2 * BATCH + 7;
            for number in 0..live + 5 {
                let state = if number < live { 0 } else { RESET };
                // Established connections live for days, those that were reset for two minutes.
                let flow = Flow { seen: now - 130_000_000_000, state, ..Flow::default() };
                object.maps.flows.insert(key(number), flow).unwrap();
            }
            object.maps.embryos.insert(key(0), Flow { seen: now, ..Flow::default() }).unwrap();
            for (number, silent) in [0, STACKED_TIMEOUT + 10_000_000_000].into_iter().enumerate() {
                let stacked = Stacked { seen: now - silent };
                object.maps.stacked.insert(key(number), stacked).unwrap();
            }
            let live = u64::try_from(live).unwrap();
            assert_eq!(tables.count(now).unwrap(), [("flows", live), ("embryos", 1), ("stacked", 1)]);
        });
    }
}
