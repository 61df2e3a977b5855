//! A table as data, and its JSON (`libnftables-json(5)`).

use std::{collections::BTreeMap, net::IpAddr};

use margay_policy::ClassId;
use serde_json::{Value, json};

/// The address family and name of our table.
pub(super) const FAMILY: &str = "inet";
pub(crate) const TABLE: &str = "margay";

/// Sets and chains by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) chains: BTreeMap<String, Chain>,
}

/// A set, or a map when it has values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    /// Types of the key's fields.
    pub(super) key: &'static [&'static str],
    /// Type of the values; `None` for a set.
    pub(super) value: Option<&'static str>,
    /// Whether a field of a key may be a range.
    pub(super) interval: bool,
    pub(super) elements: BTreeMap<Vec<Field>, Option<Data>>,
}

/// A field of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Interface(String),
    Class(ClassId),
    Number(u32),
    Address(IpAddr),
    Numbers(u32, u32),
    Addresses(IpAddr, IpAddr),
}

/// A value of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Class(ClassId),
    Jump(String),
    Return,
    Drop,
}

/// A chain with its rules, each a list of expressions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where packets come from: hook and priority; `None` for a chain that others jump to.
    pub(super) hook: Option<(&'static str, i32)>,
    pub(super) rules: Vec<Vec<Value>>,
}

impl Set {
    pub(super) fn new(key: &'static [&'static str], value: Option<&'static str>, interval: bool) -> Self {
        Self { key, value, interval, elements: BTreeMap::new() }
    }

    pub(super) fn is_same_kind(&self, other: &Self) -> bool {
        (self.key, self.value, self.interval) == (other.key, other.value, other.interval)
    }

    /// `add set` or `add map`, without elements.
    pub(super) fn declaration(&self, name: &str) -> Value {
        let key = match self.key {
            [single] => json!(single),
            several => json!(several),
        };
        let mut object = json!({"family": FAMILY, "table": TABLE, "name": name, "type": key});
        if self.interval {
            object["flags"] = json!(["interval"]);
        }
        if let Some(value) = self.value {
            object["map"] = json!(value);
        }
        json!({ self.word(): object })
    }

    /// What names it in a command that deletes it.
    pub(super) fn reference(&self, name: &str) -> Value {
        json!({ self.word(): {"family": FAMILY, "table": TABLE, "name": name} })
    }

    fn word(&self) -> &'static str {
        if self.value.is_some() { "map" } else { "set" }
    }
}

impl Field {
    fn json(&self) -> Value {
        match self {
            Self::Interface(name) => json!(name),
            Self::Class(class) => class_json(*class),
            Self::Number(number) => json!(number),
            Self::Address(address) => json!(address),
            Self::Numbers(first, last) if first == last => json!(first),
            Self::Numbers(first, last) => json!({"range": [first, last]}),
            Self::Addresses(first, last) if first == last => json!(first),
            Self::Addresses(first, last) => json!({"range": [first, last]}),
        }
    }
}

impl Data {
    fn json(&self) -> Value {
        match self {
            Self::Class(class) => class_json(*class),
            Self::Jump(chain) => json!({"jump": {"target": chain}}),
            Self::Return => json!({"return": null}),
            Self::Drop => json!({"drop": null}),
        }
    }
}

/// Written as a traffic control handle, the only type that nft has for the packet priority.
fn class_json(id: ClassId) -> Value {
    json!(format!("{:x}:{:x}", id.0 >> 16, id.0 & 0xffff))
}

pub(super) fn key_json(key: &[Field]) -> Value {
    match key {
        [single] => single.json(),
        several => json!({"concat": several.iter().map(Field::json).collect::<Vec<_>>()}),
    }
}

pub(super) fn element_json(key: &[Field], data: Option<&Data>) -> Value {
    match data {
        Some(data) => json!([key_json(key), data.json()]),
        None => key_json(key),
    }
}
