//! Versioned objects with the recent history of their changes.
//!
//! Pure: no clock, no randomness, no locks. One counter numbers every change of every table; a table keeps the last
//! changes with the object before and after each, so that a watch can start in the past and a list can be taken of
//! any version that the history still reaches.

use super::select::Selector;
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

/// Name of an object in its table; the namespace of cluster-wide objects is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// One version of one object, serialised at most once.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) value: Value,
    json: OnceLock<Bytes>,
}

impl Stored {
    pub(crate) fn new(value: Value) -> Self {
        Self { value, json: OnceLock::new() }
    }

    pub(crate) fn json(&self) -> Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string())).clone()
    }
}

/// One change of one object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    key: Key,
    before: Option<Arc<Stored>>,
    after: Option<Arc<Stored>>,
}

/// What a watcher is told about one object.
#[derive(Debug, Clone)]
pub(crate) enum WatchEvent {
    Added(Arc<Stored>),
    Modified(Arc<Stored>),
    Deleted(Arc<Stored>),
}

impl Change {
    /// What this change is to someone who sees only what `selector` selects.
    pub(crate) fn seen_through(&self, selector: &Selector) -> Option<WatchEvent> {
        let selected =
            |o: &Option<Arc<Stored>>| o.as_ref().filter(|o| selector.matches(&o.value)).map(Arc::clone);
        match (selected(&self.before), selected(&self.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(WatchEvent::Added(after)),
            (Some(_), Some(after)) => Some(WatchEvent::Modified(after)),
            (Some(before), None) => {
                // The last state that the watcher knew, at the version of the change that took it away.
                let mut value = before.value.clone();
                value["metadata"]["resourceVersion"] = self.version.to_string().into();
                Some(WatchEvent::Deleted(Arc::new(Stored::new(value))))
            }
        }
    }
}

/// The history no longer reaches the version that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compacted;

#[derive(Debug, Default)]
struct Table {
    objects: BTreeMap<Key, Arc<Stored>>,
    history: VecDeque<Change>,
    /// Changes up to this version are forgotten.
    compacted: u64,
}

/// All tables and the counter.
#[derive(Debug)]
pub(crate) struct Store {
    version: u64,
    history_limit: usize,
    /// No list or watch may start at a version before this one, whatever the tables still know.
    floor: u64,
    tables: BTreeMap<String, Table>,
    touched: BTreeSet<String>,
}

impl Store {
    /// An empty store that keeps the last `history_limit` changes of each table.
    pub(crate) fn new(history_limit: usize) -> Self {
        Self { version: 1, history_limit, floor: 0, tables: BTreeMap::new(), touched: BTreeSet::new() }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn find(&self, table: &str, key: &Key) -> Option<&Arc<Stored>> {
        self.tables.get(table)?.objects.get(key)
    }

    /// Stores `value` under the next version.
    pub(crate) fn put(&mut self, table: &str, key: Key, mut value: Value) -> Arc<Stored> {
        self.version += 1;
        self.touched.insert(table.to_owned());
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        let stored = Arc::new(Stored::new(value));
        let (limit, version) = (self.history_limit, self.version);
        let table = self.tables.entry(table.to_owned()).or_default();
        let before = table.objects.insert(key.clone(), Arc::clone(&stored));
        table.record(Change { version, key, before, after: Some(Arc::clone(&stored)) }, limit);
        stored
    }

    /// Removes an object, if there is one.
    pub(crate) fn remove(&mut self, name: &str, key: &Key) -> Option<Arc<Stored>> {
        let limit = self.history_limit;
        let version = self.version + 1;
        let table = self.tables.get_mut(name)?;
        let before = table.objects.remove(key)?;
        self.version = version;
        self.touched.insert(name.to_owned());
        let change = Change { version, key: key.clone(), before: Some(Arc::clone(&before)), after: None };
        table.record(change, limit);
        Some(before)
    }

    /// Selected objects in order of their keys, those after `after` only.
    pub(crate) fn list(
        &self,
        table: &str,
        selector: &Selector,
        after: Option<&Key>,
    ) -> Vec<(Key, Arc<Stored>)> {
        self.tables.get(table).map(|t| select(&t.objects, selector, after, None).objects).unwrap_or_default()
    }

    /// As [`Store::list`], but of the state that was at `version`, and at most `limit` of them.
    pub(crate) fn list_at(
        &self,
        table: &str,
        version: u64,
        selector: &Selector,
        after: Option<&Key>,
        limit: Option<usize>,
    ) -> Result<Page, Compacted> {
        if !self.reaches(table, version) {
            return Err(Compacted);
        }
        let Some(table) = self.tables.get(table) else { return Ok(Page::default()) };
        let newer = table.since(version)?;
        if newer.clone().next().is_none() {
            return Ok(select(&table.objects, selector, after, limit));
        }
        let mut objects = table.objects.clone();
        for change in newer.rev() {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Ok(select(&objects, selector, after, limit))
    }

    /// The changes of a table after `version`, oldest first.
    pub(crate) fn changes(&self, table: &str, version: u64) -> Result<Vec<Change>, Compacted> {
        match self.tables.get(table) {
            Some(table) => Ok(table.since(version)?.cloned().collect()),
            None => Ok(Vec::new()),
        }
    }

    /// Forgets the history of every table. Watches that have seen all of it go on.
    pub(crate) fn compact(&mut self) {
        self.floor = self.version;
        for table in self.tables.values_mut() {
            if let Some(last) = table.history.back() {
                table.compacted = last.version;
            }
            table.history.clear();
        }
    }

    /// Names of tables that hold anything in `namespace`.
    pub(crate) fn tables_with(&self, namespace: &str) -> Vec<String> {
        let start = Key { namespace: namespace.to_owned(), name: String::new() };
        self.tables
            .iter()
            .filter(|(_, t)| t.objects.range(&start..).next().is_some_and(|(k, _)| k.namespace == namespace))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether versions of this table as old as `version` can still be watched.
    pub(crate) fn reaches(&self, table: &str, version: u64) -> bool {
        version >= self.floor && self.tables.get(table).is_none_or(|t| version >= t.compacted)
    }

    /// Names of the tables that changed since this was last asked.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.touched)
    }
}

impl Table {
    fn record(&mut self, change: Change, limit: usize) {
        self.history.push_back(change);
        while self.history.len() > limit {
            if let Some(old) = self.history.pop_front() {
                self.compacted = old.version;
            }
        }
    }

    fn since(&self, version: u64) -> Result<impl DoubleEndedIterator<Item = &Change> + Clone, Compacted> {
        if version < self.compacted {
            return Err(Compacted);
        }
        let first = self.history.partition_point(|c| c.version <= version);
        Ok(self.history.range(first..))
    }
}

/// Some selected objects in order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<(Key, Arc<Stored>)>,
    /// How many come after them.
    pub(crate) left: usize,
}

fn select(
    objects: &BTreeMap<Key, Arc<Stored>>,
    selector: &Selector,
    after: Option<&Key>,
    limit: Option<usize>,
) -> Page {
    let first = selector.namespace.as_ref().map(|ns| Key { namespace: ns.clone(), name: String::new() });
    let start = match (after, &first) {
        (Some(after), _) => Bound::Excluded(after),
        (None, Some(first)) => Bound::Included(first),
        (None, None) => Bound::Unbounded,
    };
    let mut selected = objects
        .range((start, Bound::Unbounded))
        .take_while(|(key, _)| selector.namespace.as_ref().is_none_or(|ns| key.namespace == *ns))
        .filter(|(_, o)| selector.takes_all() || selector.matches(&o.value));
    let page = selected.by_ref().take(limit.unwrap_or(usize::MAX));
    let objects = page.map(|(key, o)| (key.clone(), Arc::clone(o))).collect();
    Page { objects, left: selected.count() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::resource::Resources;
    use proptest::prelude::*;
    use serde_json::json;

    #[derive(Debug, Clone)]
    enum Step {
        Put { name: u8, label: u8 },
        Remove { name: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..6_u8, 0..3_u8).prop_map(|(name, label)| Step::Put { name, label }),
            1 => (0..6_u8).prop_map(|name| Step::Remove { name }),
        ]
    }

    fn key(name: u8) -> Key {
        Key { namespace: "x".to_owned(), name: name.to_string() }
    }

    fn apply(store: &mut Store, step: &Step) {
        match step {
            Step::Put { name, label } => {
                let labels = json!({"app": label.to_string()});
                let value =
                    json!({"metadata": {"name": name.to_string(), "namespace": "x", "labels": labels}});
                store.put("pods", key(*name), value);
            }
            Step::Remove { name } => {
                store.remove("pods", &key(*name));
            }
        }
    }

    fn shown(list: &[(Key, Arc<Stored>)]) -> BTreeMap<String, Value> {
        list.iter().map(|(k, o)| (k.name.clone(), o.value.clone())).collect()
    }

    proptest! {
        #[test]
        fn watch_from_any_version_replays_to_the_list(
            steps in prop::collection::vec(step(), 0..40),
            limit in 1..60_usize,
            label in prop::option::of(0..3_u8),
        ) {
            let pods = Resources::built_in().find("", "v1", "pods").unwrap();
            let labels = label.map(|l| format!("app={l}")).unwrap_or_default();
            let selector = Selector::parse(&pods, None, &labels, "").unwrap();
            let mut store = Store::new(limit);
            let mut past = vec![(store.version(), shown(&store.list("pods", &selector, None)))];
            for step in &steps {
                apply(&mut store, step);
                past.push((store.version(), shown(&store.list("pods", &selector, None))));
            }
            let now = shown(&store.list("pods", &selector, None));
            for (version, state) in past {
                let Ok(changes) = store.changes("pods", version) else {
                    prop_assert!(!store.reaches("pods", version));
                    prop_assert!(store.list_at("pods", version, &selector, None, None).is_err());
                    continue;
                };
                let then = store.list_at("pods", version, &selector, None, None).unwrap();
                prop_assert_eq!((&shown(&then.objects), then.left), (&state, 0));
                let mut replayed = state;
                for change in &changes {
                    match change.seen_through(&selector) {
                        Some(WatchEvent::Added(o)) => {
                            let name = o.value["metadata"]["name"].as_str().unwrap().to_owned();
                            prop_assert!(replayed.insert(name, o.value.clone()).is_none());
                        }
                        Some(WatchEvent::Modified(o)) => {
                            let name = o.value["metadata"]["name"].as_str().unwrap().to_owned();
                            prop_assert!(replayed.insert(name, o.value.clone()).is_some());
                        }
                        Some(WatchEvent::Deleted(o)) => {
                            let name = o.value["metadata"]["name"].as_str().unwrap();
                            prop_assert!(replayed.remove(name).is_some());
                            prop_assert_eq!(
                                o.value["metadata"]["resourceVersion"].as_str().unwrap(),
                                change.version.to_string()
                            );
                        }
                        None => {}
                    }
                }
                prop_assert_eq!(&replayed, &now);
            }
        }
    }

    #[test]
    fn what_leaves_a_selection_is_deleted_as_it_was_and_what_enters_it_is_added() {
        let pods = Resources::built_in().find("", "v1", "pods").unwrap();
        let fields = "spec.nodeName!=,status.phase!=Succeeded";
        let selector = Selector::parse(&pods, None, "", fields).unwrap();
        let mut store = Store::new(100);
        let mut seen = Vec::new();
        let states = [
            json!({}),
            json!({"spec": {"nodeName": "n"}}),
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}),
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}}),
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Succeeded", "reason": "x"}}),
            json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}),
        ];
        for mut state in states {
            let before = store.version();
            state["metadata"] = json!({"name": "1", "namespace": "x"});
            store.put("pods", key(1), state);
            let changes = store.changes("pods", before).unwrap();
            let phase = |object: &Stored| object.value["status"]["phase"].as_str().unwrap_or("").to_owned();
            seen.extend(changes.iter().map(|change| match change.seen_through(&selector) {
                Some(WatchEvent::Added(object)) => format!("added {}", phase(&object)),
                Some(WatchEvent::Modified(object)) => format!("modified {}", phase(&object)),
                Some(WatchEvent::Deleted(object)) => format!("deleted {}", phase(&object)),
                None => "nothing".to_owned(),
            }));
        }
        let expected =
            ["nothing", "added ", "modified Running", "deleted Running", "nothing", "added Running"];
        assert_eq!(seen, expected);
    }

    #[test]
    fn compacted_versions_cannot_be_watched_but_the_current_one_can() {
        let mut store = Store::new(100);
        apply(&mut store, &Step::Put { name: 1, label: 0 });
        let old = store.version();
        apply(&mut store, &Step::Put { name: 1, label: 1 });
        store.compact();
        assert_eq!(store.changes("pods", old).err(), Some(Compacted));
        assert!(store.changes("pods", store.version()).unwrap().is_empty());
    }
}
