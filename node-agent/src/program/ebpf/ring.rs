//! The flows and packets that the programs tell of.

use std::collections::BTreeMap;

use anyhow::Context;
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use margay_ebpf_common::{
    counter::{UNTOLD, UNTOLD_DENIALS},
    denial::Denial,
    event::Told,
    flow::OPENED_BY_HIGH,
};

use super::object::Pins;

/// Events that are read at once: more than the ring holds.
const AT_ONCE: usize = 4096;

/// Packets that are told of each reason that they are dropped for, at once: ten times a second that is as many as of nftables
/// (`LOG_PER_SECOND`).
const OF_A_REASON: usize = 10;

/// The ring `EVENTS`, read beside the core.
pub(crate) struct Ring {
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    /// Flows, and packets that were dropped, that found no room in it until now.
    untold: [u64; 2],
}

/// What was told since it was last read.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Flows that began.
    pub(crate) flows: Part,
    /// Packets that were dropped.
    pub(crate) denials: Part,
}

/// What of it is of a kind.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) told: Vec<Told>,
    /// How many more there were.
    pub(crate) lost: u64,
}

impl Part {
    /// Whether there is nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty() && self.lost == 0
    }

    /// All that it is about.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.told.len()).unwrap_or(u64::MAX).saturating_add(self.lost)
    }

    fn take(&mut self, event: Told, most: usize) {
        if self.told.len() < most {
            self.told.push(event);
        } else {
            self.lost += 1;
        }
    }
}

impl Ring {
    /// The one that is pinned.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        let open = |name: &str| {
            let data = MapData::from_pin(pins.map(name)).with_context(|| format!("open the map {name}"))?;
            Map::from_map_data(data).with_context(|| format!("open the map {name}"))
        };
        let mut ring = Self {
            events: RingBuf::try_from(open("EVENTS")?).context("the map EVENTS")?,
            counters: PerCpuArray::try_from(open("COUNTERS")?).context("the map COUNTERS")?,
            untold: [0; 2],
        };
        // What was there before is no news.
        ring.read(0);
        Ok(ring)
    }

    /// Empties it. Of flows, and of packets that were dropped for a reason, the first so many are given back; the other flows are counted.
    pub(crate) fn read(&mut self, most: usize) -> News {
        let mut news = News::default();
        let mut by_reason: BTreeMap<Denial, usize> = BTreeMap::new();
        // Programs on many processors can write faster than one reads.
        for _ in 0..AT_ONCE {
            let Some(item) = self.events.next() else { break };
            let Some(event) = Told::from_octets(&item) else { continue };
            if event.is_denied() {
                // As of nftables', those of a reason are told up to a number, and the rest is in the metrics.
                let told = by_reason.entry(event.denial).or_insert(0);
                *told += 1;
                if *told <= OF_A_REASON.min(most) {
                    news.denials.told.push(event);
                }
            } else {
                news.flows.take(event, most);
            }
        }
        let parts = [(UNTOLD, &mut news.flows), (UNTOLD_DENIALS, &mut news.denials)];
        for ((index, part), before) in parts.into_iter().zip(&mut self.untold) {
            // A kernel that does not tell has lost nothing that is known.
            if let Ok(by_cpu) = self.counters.get(&index, 0) {
                let untold = by_cpu.iter().fold(0_u64, |sum, count| sum.wrapping_add(*count));
                part.lost += untold.saturating_sub(std::mem::replace(before, untold));
            }
        }
        news
    }
}

/// The links of the end that opened a flow, or would, and of the other; `None` for one that is on another node.
pub(crate) fn links(flow: &Told) -> [Option<u32>; 2] {
    let [low, high] = [flow.low_ifindex, flow.high_ifindex].map(|index| (index != 0).then_some(index));
    if flow.state & OPENED_BY_HIGH == 0 { [low, high] } else { [high, low] }
}

#[cfg(test)]
mod tests {
    use margay_ebpf_common::{
        denial::{Denial, NOBODY},
        event::Told,
        flow::{FlowKey, OPENED_BY_HIGH},
    };

    use super::links;

    #[test]
    fn the_end_that_opened_a_flow_comes_first() {
        let denial = Denial { by: NOBODY, number: 0 };
        let flow = Told {
            time: 0,
            key: FlowKey::default(),
            low_ifindex: 6,
            high_ifindex: 0,
            revision: 2,
            state: 0,
            denial,
        };
        assert_eq!(links(&flow), [Some(6), None]);
        assert_eq!(links(&Told { state: OPENED_BY_HIGH, ..flow }), [None, Some(6)]);
    }
}
