//! How many entries the maps of the eBPF dataplane have room for.

use std::collections::BTreeMap;

use anyhow::Context;
use margay_ebpf_common::capacity;
use serde::Deserialize;

/// The section `ebpf` of the agent's file: for each map that is named, in lower case, its entries.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct SizesFile(BTreeMap<String, i64>);

/// The entries of each map, in the order of [`ALL`], checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes([u32; ALL.len()]);

/// A map whose size is for the operator to choose.
struct Sized {
    name: &'static str,
    field: &'static str,
    default: u32,
    least: u32,
}

impl Sized {
    /// One that the agent writes: what does not fit closes the short way, but for `TUNNELS`, of which the rest is for the device.
    const fn table(name: &'static str, field: &'static str, default: u32) -> Self {
        Self { name, field, default, least: 1 }
    }

    /// One that gives up what was used least recently. Each processor keeps up to 128 free entries of it to itself, so that a small
    /// one would lose entries while others are free (`kernel/bpf/bpf_lru_list.c`, `LOCAL_FREE_TARGET`).
    const fn least_recently_used(name: &'static str, field: &'static str, default: u32) -> Self {
        Self { name, field, default, least: 1024 }
    }
}

/// At most: `FLOWS` of that size takes 2.8 GB of the kernel's memory.
const MOST: u32 = 16_777_216;

const ALL: [Sized; 12] = [
    Sized::table("ENDPOINTS", "endpoints", capacity::ENDPOINTS),
    Sized::table("LOCAL", "local", capacity::LOCAL),
    Sized::table("UPLINKS", "uplinks", capacity::UPLINKS),
    Sized::table("TUNNELS", "tunnels", capacity::TUNNELS),
    Sized::table("ADDRESSES", "addresses", capacity::ADDRESSES),
    Sized::table("RANGES", "ranges", capacity::RANGES),
    Sized::table("PODS", "pods", capacity::PODS),
    Sized::table("VERDICTS", "verdicts", capacity::VERDICTS),
    Sized::least_recently_used("FLOWS", "flows", capacity::FLOWS),
    Sized::least_recently_used("EMBRYOS", "embryos", capacity::EMBRYOS),
    Sized::least_recently_used("STACKED", "stacked", capacity::STACKED),
    Sized::least_recently_used("FRAGMENTS", "fragments", capacity::FRAGMENTS),
];

impl Default for Sizes {
    fn default() -> Self {
        Self(ALL.map(|sized| sized.default))
    }
}

impl SizesFile {
    /// What it says, and of the maps that it does not name what all nodes have in common.
    pub(crate) fn over(self, mut common: Self) -> Self {
        common.0.extend(self.0);
        common
    }

    /// Checks the section.
    ///
    /// # Errors
    /// The field that no map has, or that is out of its range.
    pub(crate) fn check(self) -> anyhow::Result<Sizes> {
        let mut sizes = Sizes::default();
        for (field, entries) in self.0 {
            let mut places = ALL.iter().zip(&mut sizes.0);
            let Some((sized, size)) = places.find(|(sized, _)| sized.field == field) else {
                let known = ALL.map(|sized| sized.field);
                anyhow::bail!("ebpf.{field} is the size of no map; there is: {}", known.join(", "));
            };
            let checked =
                u32::try_from(entries).ok().filter(|entries| (sized.least..=MOST).contains(entries));
            *size = checked.with_context(|| {
                format!("ebpf.{field} is {entries}; it takes {} to {MOST} entries", sized.least)
            })?;
        }
        Ok(sizes)
    }
}

impl Sizes {
    /// The maps by name, each with its entries.
    pub(super) fn of_maps(&self) -> impl Iterator<Item = (&'static str, u32)> {
        ALL.iter().zip(self.0).map(|(sized, entries)| (sized.name, entries))
    }

    /// Likewise, by the field that says it.
    pub(super) fn of_fields(&self) -> impl Iterator<Item = (&'static str, u32)> {
        ALL.iter().zip(self.0).map(|(sized, entries)| (sized.field, entries))
    }

    /// A map that has room for another number of entries than this, in words; `there` knows those that there are.
    pub(super) fn differing(&self, there: impl Fn(&str) -> Option<u32>) -> Option<String> {
        ALL.iter().zip(self.0).find_map(|(Sized { name, field, .. }, wanted)| {
            let there = there(name)?;
            (there != wanted)
                .then(|| format!("the map {name} has room for {there} entries, and ebpf.{field} is {wanted}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use margay_ebpf_common::capacity;

    use super::{MOST, SizesFile};

    #[test]
    fn a_map_that_is_not_named_has_its_default() {
        let sizes = serde_saphyr::from_str::<SizesFile>("{flows: 1024}").unwrap().check().unwrap();
        let of = |name: &str| sizes.of_maps().find(|(map, _)| *map == name).unwrap().1;
        assert_eq!((of("FLOWS"), of("EMBRYOS")), (1024, capacity::EMBRYOS));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_field_and_its_bounds() {
        for (text, words) in [
            ("{flows: 1023}", "ebpf.flows is 1023; it takes 1024 to 16777216 entries"),
            ("{verdicts: 0}", "ebpf.verdicts is 0; it takes 1 to 16777216 entries"),
            ("{local: -1}", "ebpf.local is -1"),
            ("{flow: 4096}", "ebpf.flow is the size of no map; there is: endpoints, local, "),
        ] {
            let error = serde_saphyr::from_str::<SizesFile>(text).unwrap().check().unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        let most = serde_saphyr::from_str::<SizesFile>(&format!("{{flows: {}}}", MOST + 1)).unwrap();
        assert!(most.check().is_err());
    }
}
