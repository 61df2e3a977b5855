//! The flows that the programs tell of.

use anyhow::Context;
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use margay_ebpf_common::{counter::UNTOLD, event::Begun, flow::OPENED_BY_HIGH};

use super::object::Pins;

/// Flows that are read at once: more than the ring holds.
const AT_ONCE: usize = 4096;

/// The ring `EVENTS`, read beside the core.
pub(crate) struct Ring {
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    /// Flows that found no room in it until now.
    untold: u64,
}

/// What was told since it was last read.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) flows: Vec<Begun>,
    /// Flows that began and are not among them.
    pub(crate) lost: u64,
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
            untold: 0,
        };
        // What was there before is no news.
        ring.read(0);
        Ok(ring)
    }

    /// Empties it. Of the flows, the first so many are given back, and the others only counted.
    pub(crate) fn read(&mut self, most: usize) -> Told {
        let mut told = Told::default();
        // Programs on many processors can write faster than one reads.
        for _ in 0..AT_ONCE {
            let Some(item) = self.events.next() else { break };
            match Begun::from_octets(&item) {
                Some(flow) if told.flows.len() < most => told.flows.push(flow),
                _ => told.lost += 1,
            }
        }
        // A kernel that does not tell has lost nothing that is known.
        if let Ok(by_cpu) = self.counters.get(&UNTOLD, 0) {
            let untold = by_cpu.iter().fold(0_u64, |sum, count| sum.wrapping_add(*count));
            told.lost += untold.saturating_sub(std::mem::replace(&mut self.untold, untold));
        }
        told
    }
}

/// The links of the end that opened a flow and of the other; `None` for one that is on another node.
pub(crate) fn links(flow: &Begun) -> [Option<u32>; 2] {
    let [low, high] = [flow.low_ifindex, flow.high_ifindex].map(|index| (index != 0).then_some(index));
    if flow.state & OPENED_BY_HIGH == 0 { [low, high] } else { [high, low] }
}

#[cfg(test)]
mod tests {
    use margay_ebpf_common::{event::Begun, flow::OPENED_BY_HIGH};

    use super::links;

    #[test]
    fn the_end_that_opened_a_flow_comes_first() {
        let flow = Begun { low_ifindex: 6, high_ifindex: 0, ..Begun::default() };
        assert_eq!(links(&flow), [Some(6), None]);
        assert_eq!(links(&Begun { state: OPENED_BY_HIGH, ..flow }), [None, Some(6)]);
    }
}
