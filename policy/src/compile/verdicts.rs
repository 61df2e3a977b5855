//! What each policy set says about each class.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    addresses::{Addresses, Member, Reclassed},
    output::{
        CauseId, Changes, ClassId, Direction, Entries, PolicySet, PolicySetId, SetChange, Verdict, Way,
    },
    rules::Place,
    selection::{Selected, Selection},
    table::{Answers, Naming, Table},
};

/// What no policy is about.
static OPEN: Entries = Entries::all(Verdict::Allow);

/// The policy sets.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    sets: BTreeMap<PolicySetId, Compiled>,
    causes: Causes,
}

#[derive(Debug, Default)]
struct Compiled {
    /// As [`Way::ALL`].
    tables: [Option<Table>; 2],
    set: PolicySet,
}

/// Numbers for policies of the cluster that tables name.
#[derive(Debug, Default)]
struct Causes {
    numbers: BTreeMap<(String, Way), CauseId>,
    names: BTreeMap<CauseId, (String, Way)>,
    last: u32,
}

/// What verdicts were before an update, where they are other now.
#[derive(Debug, Default)]
struct Before(BTreeMap<(PolicySetId, Way), Past>);

#[derive(Debug, Default)]
struct Past {
    any: Option<Entries>,
    /// `None`: as any.
    classes: BTreeMap<ClassId, Option<Entries>>,
}

impl Verdicts {
    /// Decides anew what depends on policy sets and classes that have changed.
    pub(super) fn update(
        &mut self,
        selection: &Selection,
        selected: &Selected,
        addresses: &Addresses,
        reclassed: &Reclassed,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut before = Before::default();
        let mut stale: BTreeSet<PolicySetId> =
            selected.moved.parts.iter().copied().map(PolicySetId).collect();
        stale.extend(&selected.rewritten);
        if !stale.is_empty() {
            changes.causes = self.causes.update(selection);
        }
        let mut new = BTreeSet::new();
        for id in &stale {
            if !self.sets.contains_key(id) {
                new.insert(*id);
            }
            self.rewrite(*id, selection, addresses, &mut changes, &mut before);
        }
        for (id, compiled) in self.sets.iter_mut().filter(|(id, _)| !stale.contains(id)) {
            compiled.decide(*id, reclassed, addresses, &mut changes, &mut before);
        }
        self.note_tightened(&before, &new, selection, addresses, reclassed, &mut changes);
        for name in selected.moved.members.keys().filter(|name| !selected.arrived.contains(*name)) {
            changes.tightened.pods.insert(name.clone());
        }
        changes
    }

    pub(super) fn set(&self, id: PolicySetId) -> Option<&PolicySet> {
        self.sets.get(&id).map(|compiled| &compiled.set)
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = (PolicySetId, &PolicySet)> {
        self.sets.iter().map(|(id, compiled)| (*id, &compiled.set))
    }

    pub(super) fn cause(&self, id: CauseId) -> Option<(&str, Way)> {
        self.causes.names.get(&id).map(|(name, way)| (name.as_str(), *way))
    }

    pub(super) fn causes(&self) -> impl Iterator<Item = CauseId> {
        self.causes.names.keys().copied()
    }

    /// Makes a policy set from the rules of its policies, or forgets it when it is gone.
    fn rewrite(
        &mut self,
        id: PolicySetId,
        selection: &Selection,
        addresses: &Addresses,
        changes: &mut Changes,
        before: &mut Before,
    ) {
        let change = changes.sets.entry(id).or_default();
        let Some(key) = selection.key_of(id) else {
            self.sets.remove(&id);
            for way in Way::ALL {
                change.way_mut(way).any = true;
            }
            return;
        };
        let is_known = self.sets.contains_key(&id);
        let compiled = self.sets.entry(id).or_default();
        for (place, way) in Way::ALL.into_iter().enumerate() {
            let cause = |name: &str| self.causes.of(name, way);
            let table = Table::new(selection.rules(key), way, &key.ports, cause);
            let now = table.as_ref().map(|table| direction(table, addresses));
            let past = std::mem::replace(compiled.set.way_mut(way), now);
            let now = compiled.set.way(way);
            let change = change.way_mut(way);
            let outline = |of: Option<&Direction>| {
                of.map(|of| (of.any.clone(), of.isolating.clone(), of.audited.clone()))
            };
            change.any = outline(past.as_ref()) != outline(now);
            let past_any = past.as_ref().map_or(Entries::all(Verdict::Allow), |past| past.any.clone());
            let all = [past.as_ref(), now].map(|of| of.into_iter().flat_map(|of| of.classes.keys().copied()));
            let all: BTreeSet<ClassId> = all.into_iter().flatten().collect();
            let past_of = |class: &ClassId| past.as_ref().and_then(|past| past.classes.get(class));
            change.classes = all
                .into_iter()
                .filter(|class| past_of(class) != now.and_then(|now| now.classes.get(class)))
                .collect();
            if change.any || !change.classes.is_empty() {
                let entry = before.0.entry((id, way)).or_default();
                entry.any = Some(past_any);
                entry.classes =
                    change.classes.iter().map(|class| (*class, past_of(class).cloned())).collect();
            }
            compiled.tables[place] = table;
        }
        if is_known && *change == SetChange::default() {
            changes.sets.remove(&id);
        }
    }

    /// Finds whose connections may be forbidden now.
    fn note_tightened(
        &self,
        before: &Before,
        new: &BTreeSet<PolicySetId>,
        selection: &Selection,
        addresses: &Addresses,
        reclassed: &Reclassed,
        changes: &mut Changes,
    ) {
        for ((id, way), past) in &before.0 {
            let Some(compiled) = self.sets.get(id).filter(|_| !new.contains(id)) else { continue };
            let now = compiled.set.way(*way);
            let now_of = |class: ClassId| now.map_or(&OPEN, |now| now.of(class));
            // Nothing was in a class that is new, unless ranges were cut anew: then who knows what was said of their parts.
            let past_of = |class: ClassId| match reclassed.classes.get(&class) {
                Some(None) if addresses.is_of_ranges(class) => &OPEN,
                Some(None) => now_of(class),
                _ => past.of(class, now),
            };
            let is_tightened = |class: &ClassId| past_of(*class).is_tightened_by(now_of(*class));
            if past.any(now).is_tightened_by(now.map_or(&OPEN, |now| &now.any))
                || past.classes.keys().any(is_tightened)
            {
                changes.tightened.pods.extend(selection.pods_of(*id).cloned());
            }
        }
        let mut seen: BTreeMap<(ClassId, ClassId), bool> = BTreeMap::new();
        for (member, of) in &reclassed.members {
            let Member::Address(address) = member else { continue };
            let of_its_own =
                |class: Option<u32>| class.map_or_else(|| addresses.class_in_range(*address), ClassId);
            let (from, to) = (of_its_own(of.from), of_its_own(of.to));
            let tightened = *seen.entry((from, to)).or_insert_with(|| {
                let is_new = matches!(reclassed.classes.get(&from), Some(None));
                self.is_tightened(before, new, (from, is_new), to)
            });
            if tightened {
                changes.tightened.addresses.insert(*address);
            }
        }
    }

    /// Whether some policy set drops to or from one class what passed to or from another, which may be new.
    fn is_tightened(
        &self,
        before: &Before,
        new: &BTreeSet<PolicySetId>,
        (from, is_new): (ClassId, bool),
        to: ClassId,
    ) -> bool {
        let sets = self.sets.iter().filter(|(id, _)| !new.contains(id));
        let mut ways = sets.flat_map(|(id, compiled)| Way::ALL.map(|way| (id, way, compiled.set.way(way))));
        ways.any(|(id, way, now)| {
            let Some(now) = now else { return false };
            let past = match before.0.get(&(*id, way)) {
                Some(Past { any: Some(_), .. }) if is_new => &OPEN,
                Some(past) => past.of(from, Some(now)),
                None => now.of(from),
            };
            past.is_tightened_by(now.of(to))
        })
    }
}

impl Compiled {
    /// Decides about the classes that have changed, where the rules are as they were.
    fn decide(
        &mut self,
        id: PolicySetId,
        reclassed: &Reclassed,
        addresses: &Addresses,
        changes: &mut Changes,
        before: &mut Before,
    ) {
        for (table, way) in self.tables.iter().zip(Way::ALL) {
            let (Some(table), Some(direction)) = (table, self.set.way_mut(way)) else { continue };
            let mut answers = Answers::of(table);
            for (class, terms) in &reclassed.classes {
                let was = terms.as_ref().map(|terms| table.naming(terms));
                let now = addresses.key(*class).map(|terms| table.naming(terms));
                let is_named =
                    |naming: &Option<Naming>| naming.as_ref().is_some_and(|naming| !naming.is_empty());
                if (!is_named(&was) && !is_named(&now)) || was == now {
                    continue;
                }
                let entries =
                    now.map(|naming| answers.entries(naming)).filter(|entries| **entries != direction.any);
                let past = match entries {
                    Some(entries) if direction.classes.get(class) == Some(entries) => continue,
                    Some(entries) => direction.classes.insert(*class, entries.clone()),
                    None => match direction.classes.remove(class) {
                        Some(past) => Some(past),
                        None => continue,
                    },
                };
                changes.sets.entry(id).or_default().way_mut(way).classes.insert(*class);
                before.0.entry((id, way)).or_default().classes.insert(*class, past);
            }
        }
    }
}

impl Past {
    /// What was said of all others; where that has not changed, it is as now.
    fn any<'a>(&'a self, now: Option<&'a Direction>) -> &'a Entries {
        self.any.as_ref().or(now.map(|now| &now.any)).unwrap_or(&OPEN)
    }

    /// What was said of a class, likewise.
    fn of<'a>(&'a self, class: ClassId, now: Option<&'a Direction>) -> &'a Entries {
        match self.classes.get(&class) {
            Some(Some(entries)) => entries,
            Some(None) => self.any(now),
            None => now.and_then(|now| now.classes.get(&class)).unwrap_or_else(|| self.any(now)),
        }
    }
}

impl Causes {
    /// Knows the policies in use and no others; gives those that came and went.
    fn update(&mut self, selection: &Selection) -> BTreeSet<CauseId> {
        let mut wanted = BTreeSet::new();
        for rules in selection.all_rules() {
            if let Place::Admin { name, .. } | Place::Baseline { name, .. } = &rules.place {
                let ways = Way::ALL.into_iter().filter(|way| rules.way(*way).is_some());
                wanted.extend(ways.map(|way| (name.clone(), way)));
            }
        }
        let known: BTreeSet<(String, Way)> = self.numbers.keys().cloned().collect();
        let mut changed = BTreeSet::new();
        for gone in known.difference(&wanted) {
            if let Some(id) = self.numbers.remove(gone) {
                self.names.remove(&id);
                changed.insert(id);
            }
        }
        for new in wanted.difference(&known) {
            self.last += 1;
            let id = CauseId(self.last);
            self.numbers.insert(new.clone(), id);
            self.names.insert(id, new.clone());
            changed.insert(id);
        }
        changed
    }

    fn of(&self, name: &str, way: Way) -> CauseId {
        self.numbers.get(&(name.to_owned(), way)).copied().unwrap_or(CauseId(0))
    }
}

fn direction(table: &Table, addresses: &Addresses) -> Direction {
    let mut answers = Answers::of(table);
    let any = answers.entries(Naming::default()).clone();
    let named: BTreeSet<ClassId> = table.terms().flat_map(|term| addresses.matching(term)).collect();
    let mut classes = BTreeMap::new();
    for class in named {
        let Some(terms) = addresses.key(class) else { continue };
        let entries = answers.entries(table.naming(terms));
        if *entries != any {
            classes.insert(class, entries.clone());
        }
    }
    Direction { classes, any, isolating: table.isolating.clone(), audited: table.audited.clone() }
}
