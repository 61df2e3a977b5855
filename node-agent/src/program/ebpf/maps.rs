//! The kernel's maps.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
};
use margay_ebpf_common::{
    address::Address,
    control::{ADMITS, Control},
    counter::Counter,
    denial::Denial,
    endpoint::Endpoint,
    flow::{Flow, FlowKey, Stacked},
    verdict::VerdictKey,
};

use super::{mirror::KernelMap, prefix::Prefix};

/// All maps that the agent reads or writes.
pub(super) struct Maps {
    pub(super) control: Array<MapData, Control>,
    pub(super) endpoints: Hash<u32, Endpoint>,
    pub(super) local: Hash<Address, u32>,
    pub(super) uplinks: Hash<u32, u32>,
    pub(super) addresses: Hash<Address, u32>,
    pub(super) ranges: Trie<Address, u32>,
    pub(super) pods: Trie<Address, u32>,
    pub(super) verdicts: Trie<VerdictKey, u32>,
    pub(super) flows: Hash<FlowKey, Flow>,
    pub(super) embryos: Hash<FlowKey, Flow>,
    pub(super) stacked: Hash<FlowKey, Stacked>,
    counters: PerCpuArray<MapData, u64>,
    denials: PerCpuHashMap<MapData, Denial, u64>,
}

/// The names of all maps, those that only the programs use too.
pub(super) const NAMES: [&str; 16] = [
    "CONTROL",
    "ENDPOINTS",
    "LOCAL",
    "UPLINKS",
    "TUNNELS",
    "ADDRESSES",
    "RANGES",
    "PODS",
    "VERDICTS",
    "DENIALS",
    "FLOWS",
    "EMBRYOS",
    "STACKED",
    "FRAGMENTS",
    "COUNTERS",
    "EVENTS",
];

impl Maps {
    /// Takes them out of what was loaded.
    ///
    /// # Errors
    /// When one is not there or is something else: it was pinned by somebody else.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("there is no map {name}"));
        let control = map("CONTROL")?;
        let [endpoints, local, uplinks] = [map("ENDPOINTS")?, map("LOCAL")?, map("UPLINKS")?];
        let addresses = map("ADDRESSES")?;
        let [ranges, pods, verdicts] = [map("RANGES")?, map("PODS")?, map("VERDICTS")?];
        let [flows, embryos, stacked] = [map("FLOWS")?, map("EMBRYOS")?, map("STACKED")?];
        Ok(Self {
            control: Array::try_from(control).context("the map CONTROL")?,
            endpoints: Hash::new(endpoints).context("the map ENDPOINTS")?,
            local: Hash::new(local).context("the map LOCAL")?,
            uplinks: Hash::new(uplinks).context("the map UPLINKS")?,
            addresses: Hash::new(addresses).context("the map ADDRESSES")?,
            ranges: Trie::new(ranges).context("the map RANGES")?,
            pods: Trie::new(pods).context("the map PODS")?,
            verdicts: Trie::new(verdicts).context("the map VERDICTS")?,
            flows: Hash::new(flows).context("the map FLOWS")?,
            embryos: Hash::new(embryos).context("the map EMBRYOS")?,
            stacked: Hash::new(stacked).context("the map STACKED")?,
            counters: PerCpuArray::try_from(map("COUNTERS")?).context("the map COUNTERS")?,
            denials: PerCpuHashMap::try_from(map("DENIALS")?).context("the map DENIALS")?,
        })
    }

    /// Has no more flows begin to take the short way, by the map `CONTROL` where it is pinned.
    ///
    /// # Errors
    /// When it is not there, or cannot be written.
    pub(super) fn stop(pin: &Path) -> anyhow::Result<()> {
        edit_control(pin, |control| Control { flags: control.flags & !ADMITS, ..control })
    }

    /// Has no flow go on that was judged, nor any be judged: a program that is left somewhere leaves all to the stack.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub(super) fn end(pin: &Path) -> anyhow::Result<()> {
        edit_control(pin, |control| Control { revision: (control.revision & !1).wrapping_add(3), flags: 0 })
    }

    /// What the programs have counted since the maps were made.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn counters(&self) -> anyhow::Result<[u64; Counter::ALL.len()]> {
        let mut sums = [0_u64; Counter::ALL.len()];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let by_cpu = self.counters.get(&counter.index(), 0).context("read the map COUNTERS")?;
            *sum = by_cpu.iter().fold(0, |sum, count| sum.wrapping_add(*count));
        }
        Ok(sums)
    }

    /// The packets that the programs have dropped, by why.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn denials(&self) -> anyhow::Result<BTreeMap<Denial, u64>> {
        let denials = self.denials.iter().map(|denial| {
            let (denial, by_cpu) = denial.context("read the map DENIALS")?;
            Ok((denial, by_cpu.iter().fold(0_u64, |sum, count| sum.wrapping_add(*count))))
        });
        denials.collect()
    }

    /// Forgets those of a reason.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn forget_denials(&mut self, denial: Denial) -> anyhow::Result<()> {
        gone_is_fine(self.denials.remove(&denial)).context("write the map DENIALS")
    }
}

/// Edits what the map `CONTROL` has that is pinned there.
fn edit_control(pin: &Path, edit: impl FnOnce(Control) -> Control) -> anyhow::Result<()> {
    let data = MapData::from_pin(pin).with_context(|| format!("open {}", pin.display()))?;
    let mut map: Array<MapData, Control> = Array::try_from(Map::from_map_data(data)?)?;
    let control = map.get(&0, 0).context("read the map CONTROL")?;
    map.set(0, edit(control), 0).context("write the map CONTROL")
}

/// A hash, of whichever kind.
pub(super) struct Hash<K: Pod, V: Pod> {
    map: HashMap<MapData, K, V>,
    capacity: usize,
}

impl<K: Pod, V: Pod> Hash<K, V> {
    fn new(map: Map) -> Result<Self, MapError> {
        let capacity = capacity(&map)?;
        Ok(Self { map: HashMap::try_from(map)?, capacity })
    }

    /// One that is pinned.
    ///
    /// # Errors
    /// When it is not there, or is something else.
    pub(super) fn open(pin: &Path) -> anyhow::Result<Self> {
        let data = MapData::from_pin(pin).with_context(|| format!("open {}", pin.display()))?;
        let map = Map::from_map_data(data).with_context(|| format!("open {}", pin.display()))?;
        Self::new(map).with_context(|| format!("the map at {}", pin.display()))
    }

    /// All entries, without any that others take away meanwhile; one may come twice.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<(K, V), MapError>> {
        self.map.iter()
    }
}

impl<K: Pod + Ord, V: Pod + PartialEq> KernelMap for Hash<K, V> {
    type Key = K;
    type Value = V;

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn insert(&mut self, key: K, value: V) -> anyhow::Result<()> {
        Ok(self.map.insert(key, value, 0)?)
    }

    fn remove(&mut self, key: K) -> anyhow::Result<()> {
        gone_is_fine(self.map.remove(&key))
    }

    fn entries(&self) -> anyhow::Result<BTreeMap<K, V>> {
        Ok(self.map.iter().collect::<Result<_, _>>()?)
    }
}

/// A trie of longest prefixes.
pub(super) struct Trie<T: Pod, V: Pod> {
    map: LpmTrie<MapData, T, V>,
    capacity: usize,
}

impl<T: Pod, V: Pod> Trie<T, V> {
    fn new(map: Map) -> Result<Self, MapError> {
        let capacity = capacity(&map)?;
        Ok(Self { map: LpmTrie::try_from(map)?, capacity })
    }
}

impl<T: Pod + Ord, V: Pod + PartialEq> KernelMap for Trie<T, V> {
    type Key = Prefix<T>;
    type Value = V;

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn insert(&mut self, key: Prefix<T>, value: V) -> anyhow::Result<()> {
        Ok(self.map.insert(&Key::new(key.len, key.data), value, 0)?)
    }

    fn remove(&mut self, key: Prefix<T>) -> anyhow::Result<()> {
        gone_is_fine(self.map.remove(&Key::new(key.len, key.data)))
    }

    fn entries(&self) -> anyhow::Result<BTreeMap<Prefix<T>, V>> {
        let entries = self.map.iter().map(|entry| {
            let (key, value) = entry?;
            Ok((Prefix { data: key.data(), len: key.prefix_len() }, value))
        });
        entries.collect()
    }
}

fn capacity(map: &Map) -> Result<usize, MapError> {
    let (Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data)) = map else {
        return Err(MapError::InvalidMapType { map_type: 0 });
    };
    Ok(data.info()?.max_entries() as usize)
}

fn gone_is_fine(outcome: Result<(), MapError>) -> anyhow::Result<()> {
    match outcome {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => Ok(outcome?),
    }
}
