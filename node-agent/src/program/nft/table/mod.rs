//! The wanted table, and by how much the kernel's differs from it.

use std::collections::{BTreeMap, BTreeSet};

use margay_netlink::nftables::{Chain, Change, Data, Element, Key, Outline, Rule, SetKind, Transaction};

/// The name of our table, of family `inet`.
pub(crate) const TABLE: &str = margay_api::paths::NFT_TABLE;

/// The wanted table, told by puts and removes, and what the kernel has of all that they touched since the last commit.
///
/// Putting what is there, or back what was taken away, costs no change of the kernel. What is put refers to sets,
/// chains and counters that are put before the next commit; what is removed is referred to no more by then.
#[derive(Debug, Default)]
pub(crate) struct Table {
    sets: BTreeMap<String, Set>,
    chains: BTreeMap<String, Chain>,
    counters: BTreeSet<String>,
    /// `None` when it is not known what the kernel holds: then it is told everything.
    touched: Option<Touched>,
}

#[derive(Debug)]
struct Set {
    kind: SetKind,
    elements: BTreeMap<Key, Option<Data>>,
}

/// What the kernel has in the place of an element.
#[derive(Debug)]
enum Had {
    Nothing,
    Element(Option<Data>),
}

/// What the kernel has of what was touched: `None` where it has nothing.
#[derive(Debug, Default)]
struct Touched {
    sets: BTreeMap<String, Option<SetKind>>,
    /// By set.
    elements: BTreeMap<String, BTreeMap<Key, Had>>,
    chains: BTreeMap<String, Option<Chain>>,
    counters: BTreeMap<String, bool>,
}

impl Table {
    /// Wants a set or map. One of the same kind keeps its elements.
    pub(crate) fn put_set(&mut self, name: &str, kind: SetKind) {
        if self.sets.get(name).is_some_and(|set| set.kind == kind) {
            return;
        }
        self.remove_set(name);
        self.sets.insert(name.to_owned(), Set { kind, elements: BTreeMap::new() });
        if let Some(touched) = &mut self.touched {
            touched.sets.entry(name.to_owned()).or_insert(None);
        }
    }

    /// Wants a set or map no more, nor its elements.
    pub(crate) fn remove_set(&mut self, name: &str) {
        let Some(set) = self.sets.remove(name) else { return };
        let Some(touched) = &mut self.touched else { return };
        for (key, data) in set.elements {
            touched.element(name, key, Had::Element(data));
        }
        touched.sets.entry(name.to_owned()).or_insert(Some(set.kind));
    }

    /// Wants an element, with a value in a map, in a set that was put.
    pub(crate) fn put(&mut self, set: &str, key: Key, data: Option<Data>) {
        let Some(wanted) = self.sets.get_mut(set) else {
            debug_assert!(false, "an element of {set}, which is no set");
            return;
        };
        if wanted.elements.get(&key) == Some(&data) {
            return;
        }
        match &mut self.touched {
            None => drop(wanted.elements.insert(key, data)),
            Some(touched) => {
                let before = wanted.elements.insert(key.clone(), data);
                touched.element(set, key, before.map_or(Had::Nothing, Had::Element));
            }
        }
    }

    /// Wants an element no more.
    pub(crate) fn remove(&mut self, set: &str, key: &Key) {
        let Some((key, data)) = self.sets.get_mut(set).and_then(|set| set.elements.remove_entry(key)) else {
            return;
        };
        if let Some(touched) = &mut self.touched {
            touched.element(set, key, Had::Element(data));
        }
    }

    /// Wants a chain with these rules.
    pub(crate) fn put_chain(&mut self, name: &str, chain: Chain) {
        if self.chains.get(name) == Some(&chain) {
            return;
        }
        let before = self.chains.insert(name.to_owned(), chain);
        if let Some(touched) = &mut self.touched {
            touched.chains.entry(name.to_owned()).or_insert(before);
        }
    }

    /// Wants a chain no more.
    pub(crate) fn remove_chain(&mut self, name: &str) {
        let Some(before) = self.chains.remove(name) else { return };
        if let Some(touched) = &mut self.touched {
            touched.chains.entry(name.to_owned()).or_insert(Some(before));
        }
    }

    /// Wants a named counter.
    pub(crate) fn put_counter(&mut self, name: &str) {
        if !self.counters.insert(name.to_owned()) {
            return;
        }
        if let Some(touched) = &mut self.touched {
            touched.counters.entry(name.to_owned()).or_insert(false);
        }
    }

    /// Wants a named counter no more.
    pub(crate) fn remove_counter(&mut self, name: &str) {
        if !self.counters.remove(name) {
            return;
        }
        if let Some(touched) = &mut self.touched {
            touched.counters.entry(name.to_owned()).or_insert(true);
        }
    }

    /// From what the kernel holds to what is wanted; the whole anew where the former is not known.
    pub(super) fn transaction(&self) -> Transaction {
        let changes = match &self.touched {
            Some(touched) => self.difference(touched).unwrap_or_else(|| self.replacement()),
            None => self.replacement(),
        };
        Transaction::new(TABLE, changes)
    }

    /// The kernel now holds what is wanted.
    pub(super) fn committed(&mut self) {
        self.touched = Some(Touched::default());
    }

    /// It is not known any more what the kernel holds.
    pub(super) fn lost(&mut self) {
        self.touched = None;
    }

    /// The named counters that are wanted, in order.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> impl Iterator<Item = &str> {
        self.counters.iter().map(String::as_str)
    }

    /// Whether it is known what the kernel holds.
    pub(super) fn is_known(&self) -> bool {
        self.touched.is_some()
    }

    /// Whether this is the outline of what was last committed. True when it is not known what that was.
    pub(super) fn is_outlined_by(&self, outline: &Outline) -> bool {
        let Some(touched) = &self.touched else { return true };
        let chains = present(self.chains.iter(), &touched.chains, Option::as_ref);
        let has_chains = chains.len() == outline.chains.len()
            && chains.iter().zip(&outline.chains).all(|((name, chain), (found, base))| {
                let rules = outline.rules.get(*name).map_or(&[][..], Vec::as_slice);
                let has_rules = chain.rules.iter().map(Some).eq(rules.iter().map(Option::as_ref));
                *name == found && chain.base == *base && has_rules
            });
        let sets = self.sets.keys().map(|name| (name, ()));
        let sets = present(sets, &touched.sets, |kind| kind.map(|_| ()));
        let counters = self.counters.iter().map(|name| (name, ()));
        let counters = present(counters, &touched.counters, |had| had.then_some(()));
        has_chains && sets.into_keys().eq(&outline.sets) && counters.into_keys().eq(&outline.counters)
    }

    /// Everything in the place of whatever is there.
    fn replacement(&self) -> Vec<Change> {
        // Adding first makes the deletion succeed when there is no table yet.
        let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
        changes.extend(self.sets.iter().map(|(name, set)| add_set(name, set)));
        changes.extend(self.counters.iter().cloned().map(Change::AddCounter));
        changes.extend(self.chains.iter().map(|(name, chain)| add_chain(name, chain)));
        for (name, set) in &self.sets {
            let elements = set.elements.iter().map(|(key, data)| element(key, data.as_ref()));
            changes.extend(add_elements(name, set.kind, elements.collect()));
        }
        changes.extend(self.chains.iter().flat_map(|(name, chain)| add_rules(name, &chain.rules)));
        changes
    }

    /// From what was there to what is wanted, in an order in which whatever is referred to exists; `None` when a name
    /// stands for something of another kind now, which only a replacement can bring about.
    fn difference(&self, touched: &Touched) -> Option<Vec<Change>> {
        let (mut come, mut refill, mut gone) = (Vec::new(), Vec::new(), Gone::default());
        for (name, before) in &touched.sets {
            match (before, self.sets.get(name)) {
                (None, Some(set)) => come.push(add_set(name, set)),
                (Some(_), None) => gone.sets.push(Change::DeleteSet(name.clone())),
                (Some(before), Some(set)) if *before != set.kind => return None,
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        for (name, before) in &touched.counters {
            match (before, self.counters.contains(name)) {
                (false, true) => come.push(Change::AddCounter(name.clone())),
                (true, false) => gone.counters.push(Change::DeleteCounter(name.clone())),
                (true, true) | (false, false) => {}
            }
        }
        for (name, before) in &touched.chains {
            match (before, self.chains.get(name)) {
                (None, Some(chain)) => {
                    come.push(add_chain(name, chain));
                    refill.extend(add_rules(name, &chain.rules));
                }
                (Some(_), None) => {
                    gone.rules.push(Change::FlushChain(name.clone()));
                    gone.chains.push(Change::DeleteChain(name.clone()));
                }
                (Some(before), Some(chain)) if before.base != chain.base => return None,
                (Some(before), Some(chain)) if before.rules != chain.rules => {
                    refill.push(Change::FlushChain(name.clone()));
                    refill.extend(add_rules(name, &chain.rules));
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        let mut changes = come;
        let (delete, add): (Vec<_>, Vec<_>) =
            touched.elements.iter().map(|(name, before)| self.elements(touched, name, before)).unzip();
        changes.extend(delete.into_iter().flatten());
        changes.extend(add.into_iter().flatten());
        // Rules refer to chains, sets and counters, so those of chains that go are taken away before all of these.
        changes.extend([refill, gone.rules, gone.chains, gone.sets, gone.counters].into_iter().flatten());
        Some(changes)
    }

    /// What to delete of a set, and what to add to it: both where a value differs.
    fn elements(
        &self,
        touched: &Touched,
        name: &str,
        before: &BTreeMap<Key, Had>,
    ) -> (Option<Change>, Option<Change>) {
        let wanted = self.sets.get(name);
        let had = touched.sets.get(name).copied().flatten();
        let Some(kind) = wanted.map(|set| set.kind).or(had) else { return (None, None) };
        let (mut delete, mut add) = (Vec::new(), Vec::new());
        for (key, before) in before {
            let after = wanted.and_then(|set| set.elements.get(key));
            let before = match before {
                Had::Nothing => None,
                Had::Element(data) => Some(data),
            };
            if before == after {
                continue;
            }
            if let Some(data) = before {
                // Those of a set that goes go with it; but the chains that they lead to go before it.
                if wanted.is_some() || leads_to_chain(data.as_ref()) {
                    delete.push(element(key, None));
                }
            }
            add.extend(after.map(|data| element(key, data.as_ref())));
        }
        let set = name.to_owned();
        let delete = (!delete.is_empty()).then_some(Change::DeleteElements { set, kind, elements: delete });
        (delete, add_elements(name, kind, add))
    }
}

impl Touched {
    fn element(&mut self, set: &str, key: Key, before: Had) {
        if !self.elements.contains_key(set) {
            self.elements.insert(set.to_owned(), BTreeMap::new());
        }
        if let Some(elements) = self.elements.get_mut(set) {
            elements.entry(key).or_insert(before);
        }
    }
}

/// What goes, in the order of the fields.
#[derive(Default)]
struct Gone {
    rules: Vec<Change>,
    chains: Vec<Change>,
    sets: Vec<Change>,
    counters: Vec<Change>,
}

/// What the kernel has: what is wanted, but of what was touched that which was there before.
fn present<'a, W, B>(
    wanted: impl Iterator<Item = (&'a String, W)>,
    touched: &'a BTreeMap<String, B>,
    before: impl Fn(&'a B) -> Option<W>,
) -> BTreeMap<&'a String, W> {
    let untouched = wanted.filter(|(name, _)| !touched.contains_key(*name));
    untouched.chain(touched.iter().filter_map(|(name, had)| Some((name, before(had)?)))).collect()
}

fn add_set(name: &str, set: &Set) -> Change {
    Change::AddSet { name: name.to_owned(), kind: set.kind }
}

fn add_chain(name: &str, chain: &Chain) -> Change {
    Change::AddChain { name: name.to_owned(), base: chain.base }
}

fn add_rules(chain: &str, rules: &[Rule]) -> impl Iterator<Item = Change> {
    rules.iter().map(|rule| Change::AddRule { chain: chain.to_owned(), rule: rule.clone() })
}

fn add_elements(set: &str, kind: SetKind, elements: Vec<Element>) -> Option<Change> {
    (!elements.is_empty()).then(|| Change::AddElements { set: set.to_owned(), kind, elements })
}

fn element(key: &Key, data: Option<&Data>) -> Element {
    Element { key: key.clone(), data: data.cloned() }
}

fn leads_to_chain(data: Option<&Data>) -> bool {
    matches!(data, Some(Data::Verdict(verdict)) if verdict.chain().is_some())
}

#[cfg(test)]
mod tests;
