//! The map `TUNNELS`, for the task that makes the tunnels: it alone writes it.

use std::collections::BTreeMap;

use margay_ebpf_common::tunnel::{Tunnel, TunnelKey};

use super::{maps::Hash, mirror::KernelMap, object::Pins};

/// By which the programs put packets into tunnels themselves.
pub(crate) struct TunnelMap {
    map: Hash<TunnelKey, Tunnel>,
}

impl TunnelMap {
    /// The one that is pinned, with what an agent before has left in it.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self { map: Hash::open(&pins.map("TUNNELS"))? })
    }

    /// Takes all entries away but those that are to be as they are.
    ///
    /// # Errors
    /// When the kernel refuses: then some may still be there.
    pub(crate) fn retain(&mut self, wanted: &BTreeMap<TunnelKey, Tunnel>) -> anyhow::Result<()> {
        for (key, tunnel) in self.map.entries()? {
            if wanted.get(&key) != Some(&tunnel) {
                self.map.remove(key)?;
            }
        }
        Ok(())
    }

    /// Adds what is missing of these, as far as there is room, and says how many found none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn add(&mut self, wanted: &BTreeMap<TunnelKey, Tunnel>) -> anyhow::Result<usize> {
        let there = self.map.entries()?;
        let room = self.map.capacity().saturating_sub(there.len());
        let missing: Vec<_> = wanted.iter().filter(|(key, _)| !there.contains_key(key)).collect();
        for (key, tunnel) in missing.iter().take(room) {
            self.map.insert(**key, **tunnel)?;
        }
        Ok(missing.len().saturating_sub(room))
    }

    /// What there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.map.capacity()
    }

    /// What is there.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> BTreeMap<TunnelKey, Tunnel> {
        self.map.entries().unwrap()
    }
}

/// A map of a test's own, below a bpf file system.
#[cfg(test)]
pub(crate) fn for_test(bpf_fs: &std::path::Path) -> TunnelMap {
    use super::{object, sizes::SizesFile};
    let sizes = serde_saphyr::from_str::<SizesFile>("{tunnels: 4}").unwrap().check().unwrap();
    TunnelMap::open(&object::load(bpf_fs, &sizes).unwrap().pins).unwrap()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use margay_ebpf_common::{
        address::Address,
        tunnel::{Tunnel, TunnelKey},
    };

    use super::for_test;
    use crate::program::ebpf::own::with_bpf_fs;

    fn entry(last: u8, remote: u8) -> (TunnelKey, Tunnel) {
        let next_hop = Address::from_ipv4([10, 0, last, 0]);
        let tunnel = Tunnel { remote: [192, 0, 2, remote], ..Tunnel::default() };
        (TunnelKey { ifindex: 7, next_hop, ..TunnelKey::default() }, tunnel)
    }

    #[test]
    fn what_differs_goes_before_what_is_wanted_comes_and_what_finds_no_room_is_told() {
        with_bpf_fs(|bpf_fs| {
            let mut map = for_test(bpf_fs);
            let before = BTreeMap::from([entry(1, 1), entry(2, 2), entry(3, 3)]);
            assert_eq!(map.add(&before).unwrap(), 0);
            let wanted = BTreeMap::from([entry(1, 1), entry(2, 9), entry(4, 4), entry(5, 5), entry(6, 6)]);
            map.retain(&wanted).unwrap();
            assert_eq!(map.entries(), BTreeMap::from([entry(1, 1)]));
            assert_eq!(map.add(&wanted).unwrap(), 1);
            assert_eq!(map.entries().len(), map.capacity());
            assert!(map.entries().iter().all(|(key, tunnel)| wanted.get(key) == Some(tunnel)));
            map.retain(&BTreeMap::new()).unwrap();
            assert_eq!(map.entries(), BTreeMap::new());
        });
    }
}
