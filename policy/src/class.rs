//! Small numbers for classes and policy sets, the same from one compilation to the next.

use std::collections::{BTreeMap, BTreeSet};

use crate::{PolicyRef, Protocol, term::Term};

/// A class of addresses, local to the node. 0 is of addresses that match no term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Of addresses that match no term.
    pub const NONE: Self = Self(0);
}

/// Local pods that the same policies select, with the same numbers behind the ports that those name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicySetId(pub u32);

/// What makes two local pods share a policy set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PolicySetKey {
    pub(crate) policies: BTreeSet<PolicyRef>,
    /// Numbers behind the names that ingress rules of these policies use.
    pub(crate) ports: BTreeMap<(String, Protocol), BTreeSet<u16>>,
}

/// Remembers which number stands for what, so that a compilation changes only what its input changed. A number
/// that went out of use is not given to something else: what still carries it somewhere stays harmless.
#[derive(Debug, Default)]
pub struct Interner {
    classes: BTreeMap<BTreeSet<Term>, ClassId>,
    sets: BTreeMap<PolicySetKey, PolicySetId>,
    last_class: u32,
    last_set: u32,
}

impl Interner {
    pub(crate) fn class(&mut self, terms: BTreeSet<Term>) -> ClassId {
        if terms.is_empty() {
            return ClassId::NONE;
        }
        *self.classes.entry(terms).or_insert_with(|| {
            self.last_class += 1;
            ClassId(self.last_class)
        })
    }

    pub(crate) fn set(&mut self, key: PolicySetKey) -> PolicySetId {
        *self.sets.entry(key).or_insert_with(|| {
            self.last_set += 1;
            PolicySetId(self.last_set)
        })
    }

    /// Forgets what is not in use, so that a long life does not fill the memory.
    pub(crate) fn keep(&mut self, classes: &BTreeSet<ClassId>, sets: &BTreeSet<PolicySetId>) {
        self.classes.retain(|_, id| classes.contains(id));
        self.sets.retain(|_, id| sets.contains(id));
    }
}
