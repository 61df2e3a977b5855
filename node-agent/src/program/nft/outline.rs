//! What a table is made of, without its elements: enough to see that somebody was at it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ruleset::Ruleset;

/// Names of sets and maps, and how many rules each chain has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    sets: BTreeSet<String>,
    rules: BTreeMap<String, usize>,
}

impl Outline {
    /// Of a table as we write it.
    pub(super) fn written(ruleset: &Ruleset) -> Self {
        Self {
            sets: ruleset.sets.keys().cloned().collect(),
            rules: ruleset.chains.iter().map(|(name, chain)| (name.clone(), chain.rules.len())).collect(),
        }
    }

    /// Of a table as `nft -j list table` shows it; empty when there is none.
    pub(super) fn listed(listing: &Value) -> Self {
        let mut outline = Self::default();
        let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
        for object in listing["nftables"].as_array().into_iter().flatten() {
            for set in [&object["set"], &object["map"]].into_iter().filter(|set| set.is_object()) {
                outline.sets.insert(text(set, "name"));
            }
            if object["chain"].is_object() {
                outline.rules.entry(text(&object["chain"], "name")).or_default();
            }
            if object["rule"].is_object() {
                *outline.rules.entry(text(&object["rule"], "chain")).or_default() += 1;
            }
        }
        outline
    }
}
