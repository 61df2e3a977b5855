//! The terms in use, each with a number, found by what they ask of a pod.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use crate::{Block, NamespaceChoice, Pod, selector::Labels, term::Term};

/// Stands for a term. Not given to another one later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TermId(u32);

/// Terms that an address matches, in order.
pub(super) type TermSet = Arc<[TermId]>;

/// The terms that policies in use name.
#[derive(Debug, Default)]
pub(super) struct Terms {
    numbers: BTreeMap<Term, TermId>,
    entries: BTreeMap<TermId, InUse>,
    /// Terms about pods, by something that all pods in them have.
    pods: BTreeMap<Bucket<'static>, BTreeSet<TermId>>,
    /// Blocks that ask nothing of a pod.
    blocks: BTreeSet<TermId>,
    /// Blocks that ask for a port.
    blocks_with_port: BTreeSet<TermId>,
    nodes: BTreeSet<TermId>,
    /// Those that came, and those that may have gone, since the last [`Terms::settle`].
    touched: BTreeSet<TermId>,
    last: u32,
}

#[derive(Debug)]
struct InUse {
    term: Term,
    uses: usize,
    is_new: bool,
}

/// A pod can be in a term of a bucket only if it has this.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bucket<'a> {
    /// It is in this namespace.
    Namespace(Cow<'a, str>),
    /// It is in this namespace, with this label.
    NamespaceAndLabel(Cow<'a, str>, Cow<'a, str>, Cow<'a, str>),
    /// It has this label.
    Label(Cow<'a, str>, Cow<'a, str>),
    /// Its namespace has this label.
    NamespaceLabel(Cow<'a, str>, Cow<'a, str>),
    /// Nothing that could be looked up.
    Any,
}

/// Terms that came into use, and that went out of it.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    pub(super) added: BTreeSet<TermId>,
    pub(super) gone: BTreeSet<TermId>,
    /// Whether blocks that ask nothing of a pod are among them.
    pub(super) blocks: bool,
}

impl Terms {
    /// Uses a term once more.
    pub(super) fn acquire(&mut self, term: Term) -> TermId {
        let id = match self.numbers.get(&term) {
            Some(id) => *id,
            None => self.add(term),
        };
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.uses += 1;
        }
        id
    }

    /// Uses a term once less.
    pub(super) fn release(&mut self, id: TermId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.uses -= 1;
            self.touched.insert(id);
        }
    }

    /// Forgets what is used no more, and says what has changed since this was last asked.
    pub(super) fn settle(&mut self) -> Turnover {
        let mut turnover = Turnover::default();
        for id in std::mem::take(&mut self.touched) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let was_there = !std::mem::replace(&mut entry.is_new, false);
            let is_there = entry.uses > 0;
            match (was_there, is_there) {
                (false, true) => drop(turnover.added.insert(id)),
                (true, false) => drop(turnover.gone.insert(id)),
                _ => {}
            }
            turnover.blocks |= was_there != is_there && self.blocks.contains(&id);
            if !is_there {
                self.remove(id);
            }
        }
        turnover
    }

    /// The term that a number stands for.
    pub(super) fn term(&self, id: TermId) -> Option<&Term> {
        self.entries.get(&id).map(|entry| &entry.term)
    }

    /// Whether a term is of addresses, whoever has them.
    pub(super) fn is_block(&self, id: TermId) -> bool {
        self.blocks.contains(&id)
    }

    /// All blocks that ask nothing of a pod.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (TermId, &Block)> {
        self.blocks.iter().filter_map(|id| Some((*id, self.term(*id)?.block()?)))
    }

    /// The terms that a pod at an address is in, without the blocks of [`Terms::blocks`].
    pub(super) fn of_pod(&self, namespace: &Labels, pod: &Pod, address: IpAddr) -> Vec<TermId> {
        let own = &*pod.name.namespace;
        // A map of keys that live for ever is one of keys that live as long as the pod.
        let buckets: &BTreeMap<Bucket<'_>, _> = &self.pods;
        let mut found = Vec::new();
        let mut look = |bucket: Bucket<'_>| {
            let ids = buckets.get(&bucket).into_iter().flatten();
            found.extend(ids.filter(|id| self.has_pod(**id, namespace, pod, address)));
        };
        look(Bucket::Any);
        look(Bucket::Namespace(own.into()));
        for (key, value) in pod.labels.iter() {
            look(Bucket::Label(key.into(), value.into()));
            look(Bucket::NamespaceAndLabel(own.into(), key.into(), value.into()));
        }
        for (key, value) in namespace {
            look(Bucket::NamespaceLabel(key.into(), value.into()));
        }
        let blocks = self.blocks_with_port.iter();
        found.extend(blocks.filter(|id| self.has_pod(**id, namespace, pod, address)));
        found
    }

    /// The terms that a node is in.
    pub(super) fn of_node(&self, labels: &Labels) -> impl Iterator<Item = TermId> {
        let has = |id: &&TermId| matches!(self.term(**id), Some(Term::Nodes(nodes)) if nodes.matches(labels));
        self.nodes.iter().filter(has).copied()
    }

    fn has_pod(&self, id: TermId, namespace: &Labels, pod: &Pod, address: IpAddr) -> bool {
        self.term(id).is_some_and(|term| term.has_pod(namespace, pod, address))
    }

    fn add(&mut self, term: Term) -> TermId {
        self.last += 1;
        let id = TermId(self.last);
        self.index(&term, |ids| {
            ids.insert(id);
        });
        self.numbers.insert(term.clone(), id);
        self.entries.insert(id, InUse { term, uses: 0, is_new: true });
        self.touched.insert(id);
        id
    }

    fn remove(&mut self, id: TermId) {
        let Some(InUse { term, .. }) = self.entries.remove(&id) else { return };
        self.index(&term, |ids| {
            ids.remove(&id);
        });
        self.numbers.remove(&term);
    }

    fn index(&mut self, term: &Term, mut change: impl FnMut(&mut BTreeSet<TermId>)) {
        match term {
            Term::Nodes(_) => change(&mut self.nodes),
            Term::Block { port: None, .. } => change(&mut self.blocks),
            Term::Block { port: Some(_), .. } => change(&mut self.blocks_with_port),
            Term::Pods { .. } => {
                for bucket in buckets(term) {
                    match self.pods.entry(bucket) {
                        Entry::Vacant(place) => change(place.insert(BTreeSet::new())),
                        Entry::Occupied(mut place) => {
                            change(place.get_mut());
                            if place.get().is_empty() {
                                place.remove();
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where a term is looked for: a pod in it has what one of these says.
fn buckets(term: &Term) -> Vec<Bucket<'static>> {
    let Term::Pods { namespaces, pods, .. } = term else { return Vec::new() };
    let asked = |selector: &crate::Selector| {
        let asked = selector.asked().map(|(key, values)| (key.to_owned(), values.clone()));
        asked.map(|(key, values)| values.into_iter().map(move |value| (key.clone().into(), value.into())))
    };
    match (namespaces, asked(pods)) {
        (NamespaceChoice::Own(own), Some(labels)) => {
            labels.map(|(key, value)| Bucket::NamespaceAndLabel(own.clone().into(), key, value)).collect()
        }
        (NamespaceChoice::Own(own), None) => vec![Bucket::Namespace(own.clone().into())],
        (NamespaceChoice::Selected(_), Some(labels)) => {
            labels.map(|(key, value)| Bucket::Label(key, value)).collect()
        }
        (NamespaceChoice::Selected(selector), None) => match asked(selector) {
            Some(labels) => labels.map(|(key, value)| Bucket::NamespaceLabel(key, value)).collect(),
            None => vec![Bucket::Any],
        },
    }
}
