//! The commands that make one table of another.

use serde_json::{Value, json};

use super::ruleset::{Chain, FAMILY, Ruleset, Set, TABLE, element_json, key_json};

/// Elements in one command: nft takes any number, a reader of a trace does not.
const CHUNK: usize = 1000;

/// Commands that put `wanted` in the place of whatever is there.
pub(super) fn replacement(wanted: &Ruleset) -> Vec<Value> {
    let table = json!({"table": {"family": FAMILY, "name": TABLE}});
    // Adding first makes the deletion succeed when there is no table yet.
    let mut commands = vec![json!({"add": table}), json!({"delete": table}), json!({"add": table})];
    commands.extend(difference(&Ruleset::default(), wanted));
    commands
}

/// Commands from `present` to `wanted`, in an order in which whatever is referred to exists. Empty when they are
/// the same.
pub(super) fn difference(present: &Ruleset, wanted: &Ruleset) -> Vec<Value> {
    let mut commands = Vec::new();
    // A set of another kind under an old name does not happen: names stand for kinds. A chain's hook neither.
    for (name, set) in new_in(&wanted.sets, &present.sets) {
        commands.push(json!({"add": set.declaration(name)}));
    }
    for (name, chain) in new_in(&wanted.chains, &present.chains) {
        commands.push(json!({"add": declaration(name, chain)}));
    }
    for (name, set) in &present.sets {
        elements(&mut commands, "delete", name, set, wanted.sets.get(name));
    }
    for (name, set) in &wanted.sets {
        elements(&mut commands, "add", name, set, present.sets.get(name));
    }
    for (name, chain) in &wanted.chains {
        let before = present.chains.get(name);
        if before.is_some_and(|before| before.rules == chain.rules) {
            continue;
        }
        if before.is_some() {
            commands.push(json!({"flush": reference(name)}));
        }
        for rule in &chain.rules {
            let rule = json!({"family": FAMILY, "table": TABLE, "chain": name, "expr": rule});
            commands.push(json!({"add": {"rule": rule}}));
        }
    }
    let gone: Vec<&String> = new_in(&present.chains, &wanted.chains).map(|(name, _)| name).collect();
    // Rules refer to chains and sets, so they go first.
    commands.extend(gone.iter().map(|name| json!({"flush": reference(name)})));
    commands.extend(gone.iter().map(|name| json!({"delete": reference(name)})));
    for (name, set) in new_in(&present.sets, &wanted.sets) {
        commands.push(json!({"delete": set.reference(name)}));
    }
    commands
}

fn new_in<'a, V>(
    these: &'a std::collections::BTreeMap<String, V>,
    those: &'a std::collections::BTreeMap<String, V>,
) -> impl Iterator<Item = (&'a String, &'a V)> {
    these.iter().filter(|(name, _)| !those.contains_key(*name))
}

/// The elements of `these` that `those` lacks or has with another value.
fn elements(commands: &mut Vec<Value>, command: &str, name: &str, these: &Set, those: Option<&Set>) {
    if command == "delete" && those.is_none() {
        // They go with the set; but what they jump to may go first.
        if these.value != Some("verdict") {
            return;
        }
    }
    let those = those.filter(|those| those.is_same_kind(these));
    let changed: Vec<Value> = these
        .elements
        .iter()
        .filter(|(key, data)| those.and_then(|those| those.elements.get(*key)) != Some(*data))
        .map(|(key, data)| if command == "delete" { key_json(key) } else { element_json(key, data.as_ref()) })
        .collect();
    for chunk in changed.chunks(CHUNK) {
        let element = json!({"family": FAMILY, "table": TABLE, "name": name, "elem": chunk});
        commands.push(json!({ command: {"element": element} }));
    }
}

fn declaration(name: &str, chain: &Chain) -> Value {
    let mut object = json!({"family": FAMILY, "table": TABLE, "name": name});
    if let Some((hook, priority)) = chain.hook {
        object["type"] = json!("filter");
        object["hook"] = json!(hook);
        object["prio"] = json!(priority);
        object["policy"] = json!("accept");
    }
    json!({"chain": object})
}

fn reference(name: &str) -> Value {
    json!({"chain": {"family": FAMILY, "table": TABLE, "name": name}})
}
