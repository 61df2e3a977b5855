//! Random puts, removes and commits against a kernel that refuses what the real one refuses.

use std::collections::{BTreeMap, BTreeSet};

use margay_netlink::nftables::{
    Base, Chain, ChainKind, Change, Data, Element, Expr, Field, Found, Hook, Key, Outline, Policy, Register,
    Rule, SetKind, Type, Verdict,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::Table;

const SETS: [&str; 2] = ["a", "b"];
const CHAINS: [&str; 3] = ["x", "y", "base"];
const COUNTERS: [&str; 2] = ["m", "n"];

/// What the kernel would hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kernel {
    sets: BTreeMap<String, (SetKind, BTreeMap<Key, Option<Data>>)>,
    chains: BTreeMap<String, Chain>,
    counters: BTreeSet<String>,
}

impl Kernel {
    fn commit(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut after = self.clone();
        for change in changes {
            after.change(change).map_err(|reason| format!("{change}: {reason}"))?;
        }
        *self = after;
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), &'static str> {
        let all = |outcome: bool, reason| if outcome { Ok(()) } else { Err(reason) };
        match change {
            Change::AddTable => {}
            Change::DeleteTable => *self = Self::default(),
            Change::AddChain { name, base } => {
                let chain = Chain { base: *base, rules: Vec::new() };
                // The kernel would take it for a change of the chain that is there.
                all(self.chains.insert(name.clone(), chain).is_none(), "exists")?;
            }
            Change::DeleteChain(name) => {
                let chain = self.chains.remove(name).ok_or("no such chain")?;
                all(chain.rules.is_empty(), "has rules")?;
                all(!self.referred().contains(name), "busy")?;
            }
            Change::FlushChain(name) => {
                self.chains.get_mut(name).ok_or("no such chain")?.rules.clear();
            }
            Change::AddRule { chain, rule } => {
                self.chains.get_mut(chain).ok_or("no such chain")?.rules.push(rule.clone());
                all(self.referred().iter().all(|name| self.has(name)), "refers to nothing")?;
            }
            Change::AddSet { name, kind } => {
                let is_new = self.sets.insert(name.clone(), (*kind, BTreeMap::new())).is_none();
                all(is_new, "exists")?;
            }
            Change::DeleteSet(name) => {
                self.sets.remove(name).ok_or("no such set")?;
                all(!self.referred().contains(name), "busy")?;
            }
            Change::AddElements { set, kind, elements } => {
                let (of, present) = self.sets.get_mut(set).ok_or("no such set")?;
                all(of == kind, "another kind")?;
                for Element { key, data } in elements {
                    all(present.insert(key.clone(), data.clone()).is_none(), "exists")?;
                }
                all(self.referred().iter().all(|name| self.has(name)), "refers to nothing")?;
            }
            Change::DeleteElements { set, kind, elements } => {
                let (of, present) = self.sets.get_mut(set).ok_or("no such set")?;
                all(of == kind, "another kind")?;
                for Element { key, .. } in elements {
                    present.remove(key).ok_or("no such element")?;
                }
            }
            Change::AddCounter(name) => all(self.counters.insert(name.clone()), "exists")?,
            Change::DeleteCounter(name) => {
                all(self.counters.remove(name), "no such counter")?;
                all(!self.referred().contains(name), "busy")?;
            }
        }
        Ok(())
    }

    fn has(&self, name: &String) -> bool {
        self.sets.contains_key(name) || self.chains.contains_key(name) || self.counters.contains(name)
    }

    /// What rules and elements refer to.
    fn referred(&self) -> BTreeSet<String> {
        let of_verdict = |verdict: &Verdict| verdict.chain().map(str::to_owned);
        let rules = self.chains.values().flat_map(|chain| chain.rules.iter().flatten());
        let of_rules = rules.filter_map(|expr| match expr {
            Expr::Lookup { set, .. } => Some(set.clone()),
            Expr::Counter(name) => Some(name.clone()),
            Expr::Verdict(verdict) => of_verdict(verdict),
            _ => None,
        });
        let elements = self.sets.values().flat_map(|(_, elements)| elements.values());
        let of_elements = elements.filter_map(|data| match data {
            Some(Data::Verdict(verdict)) => of_verdict(verdict),
            _ => None,
        });
        of_rules.chain(of_elements).collect()
    }

    fn outline(&self) -> Outline {
        let rules = self.chains.iter().filter(|(_, chain)| !chain.rules.is_empty());
        Outline {
            chains: self.chains.iter().map(|(name, chain)| (name.clone(), chain.base)).collect(),
            rules: rules
                .map(|(name, chain)| (name.clone(), chain.rules.iter().cloned().map(Some).collect()))
                .collect(),
            sets: self.sets.keys().cloned().collect(),
            counters: self.counters.clone(),
        }
    }

    /// Takes what refers to nothing away: whoever drives a table puts what elements and rules refer to.
    fn made_whole(mut self) -> Self {
        loop {
            let dangling: BTreeSet<String> =
                self.referred().into_iter().filter(|name| !self.has(name)).collect();
            if dangling.is_empty() {
                return self;
            }
            let is_dangling = |verdict: &Verdict| verdict.chain().is_some_and(|name| dangling.contains(name));
            for (_, elements) in self.sets.values_mut() {
                elements
                    .retain(|_, data| !matches!(data, Some(Data::Verdict(verdict)) if is_dangling(verdict)));
            }
            for chain in self.chains.values_mut() {
                chain.rules.retain(|rule| {
                    rule.iter().all(|expr| match expr {
                        Expr::Lookup { set: name, .. } | Expr::Counter(name) => !dangling.contains(name),
                        Expr::Verdict(verdict) => !is_dangling(verdict),
                        _ => true,
                    })
                });
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    PutSet(&'static str, bool),
    RemoveSet(&'static str),
    Put(&'static str, u32, Option<Verdict>),
    Remove(&'static str, u32),
    PutChain(&'static str, Vec<Rule>),
    RemoveChain(&'static str),
    PutCounter(&'static str),
    RemoveCounter(&'static str),
    Commit,
    /// Somebody else did something.
    Lost,
    /// The kernel refuses the next commit, for whatever reason.
    Refused,
}

fn verdict() -> impl Strategy<Value = Verdict> {
    select(vec![
        Verdict::Return,
        Verdict::Drop,
        Verdict::Jump("x".into()),
        Verdict::Goto("x".into()),
        Verdict::Goto("y".into()),
    ])
}

fn rule() -> impl Strategy<Value = Rule> {
    let from = Register::word(0);
    let lookup = move |set: &'static str| Expr::Lookup { set: set.into(), from, found: Found::Is };
    prop_oneof![
        verdict().prop_map(|verdict| vec![Expr::Verdict(verdict)]),
        select(SETS.to_vec()).prop_map(move |set| vec![lookup(set)]),
        select(COUNTERS.to_vec()).prop_map(|name| vec![Expr::Counter(name.into())]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let set = || select(SETS.to_vec());
    let chain = || select(CHAINS.to_vec());
    let counter = || select(COUNTERS.to_vec());
    prop_oneof![
        2 => (set(), prop::bool::weighted(0.9)).prop_map(|(set, usual)| Step::PutSet(set, usual)),
        1 => set().prop_map(Step::RemoveSet),
        6 => (set(), 0_u32..4, option::of(verdict())).prop_map(|(set, key, data)| Step::Put(set, key, data)),
        3 => (set(), 0_u32..4).prop_map(|(set, key)| Step::Remove(set, key)),
        4 => (chain(), vec(rule(), 0..3)).prop_map(|(chain, rules)| Step::PutChain(chain, rules)),
        2 => chain().prop_map(Step::RemoveChain),
        2 => counter().prop_map(Step::PutCounter),
        1 => counter().prop_map(Step::RemoveCounter),
        5 => Just(Step::Commit),
        1 => Just(Step::Lost),
        1 => Just(Step::Refused),
    ]
}

fn kind(usual: bool) -> SetKind {
    SetKind {
        key: &[Type::ClassId],
        data: Some(if usual { Type::Verdict } else { Type::ClassId }),
        intervals: false,
    }
}

fn base(name: &str) -> Option<Base> {
    (name == "base").then_some(Base {
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: 0,
        policy: Policy::Accept,
    })
}

fn key(number: u32) -> Key {
    vec![Field::Number(number)]
}

/// What is wanted, one after the other in a table and in a model.
fn take(step: &Step, table: &mut Table, model: &mut Kernel) {
    match step {
        Step::PutSet(name, usual) => {
            table.put_set(name, kind(*usual));
            if model.sets.get(*name).is_none_or(|(present, _)| *present != kind(*usual)) {
                model.sets.insert((*name).into(), (kind(*usual), BTreeMap::new()));
            }
        }
        Step::RemoveSet(name) => {
            table.remove_set(name);
            model.sets.remove(*name);
        }
        Step::Put(set, number, data) => {
            // Only into a set that was put.
            if let Some((_, elements)) = model.sets.get_mut(*set) {
                let data = data.clone().map(Data::Verdict);
                table.put(set, key(*number), data.clone());
                elements.insert(key(*number), data);
            }
        }
        Step::Remove(set, number) => {
            table.remove(set, &key(*number));
            if let Some((_, elements)) = model.sets.get_mut(*set) {
                elements.remove(&key(*number));
            }
        }
        Step::PutChain(name, rules) => {
            let chain = Chain { base: base(name), rules: rules.clone() };
            table.put_chain(name, chain.clone());
            model.chains.insert((*name).into(), chain);
        }
        Step::RemoveChain(name) => {
            table.remove_chain(name);
            model.chains.remove(*name);
        }
        Step::PutCounter(name) => {
            table.put_counter(name);
            model.counters.insert((*name).into());
        }
        Step::RemoveCounter(name) => {
            table.remove_counter(name);
            model.counters.remove(*name);
        }
        Step::Commit | Step::Lost | Step::Refused => {}
    }
}

/// Makes what is wanted whole, in both.
fn make_whole(table: &mut Table, model: &mut Kernel) {
    let whole = model.clone().made_whole();
    for (name, (_, elements)) in &model.sets {
        let kept = &whole.sets[name].1;
        elements.keys().filter(|key| !kept.contains_key(*key)).for_each(|key| table.remove(name, key));
    }
    for (name, chain) in &whole.chains {
        table.put_chain(name, chain.clone());
    }
    *model = whole;
}

proptest! {
    #[test]
    fn after_each_commit_the_kernel_holds_what_is_wanted(steps in vec(step(), 0..60)) {
        let (mut table, mut model, mut kernel) = (Table::default(), Kernel::default(), Kernel::default());
        for step in &steps {
            take(step, &mut table, &mut model);
            match step {
                Step::Commit => {
                    make_whole(&mut table, &mut model);
                    let transaction = table.transaction();
                    let is_known = table.is_known();
                    if let Err(reason) = kernel.commit(transaction.changes()) {
                        prop_assert!(false, "{reason}\n{:?}", transaction.changes());
                    }
                    table.committed();
                    prop_assert_eq!(&kernel, &model);
                    prop_assert_eq!(table.transaction().count(), 0);
                    prop_assert!(is_known || transaction.count() >= 3);
                }
                Step::Lost => {
                    kernel = Kernel::default();
                    table.lost();
                }
                Step::Refused => table.lost(),
                _ => {}
            }
            // Whatever was put since, what is there is what was committed.
            prop_assert!(table.is_outlined_by(&kernel.outline()));
        }
    }

    #[test]
    fn what_is_taken_away_and_put_back_costs_nothing(steps in vec(step(), 0..40)) {
        let (mut table, mut model) = (Table::default(), Kernel::default());
        for step in &steps {
            take(step, &mut table, &mut model);
        }
        table.committed();
        let before = model.clone();
        for (name, (kind, elements)) in &before.sets {
            table.remove_set(name);
            table.put_set(name, *kind);
            for (key, data) in elements {
                table.put(name, key.clone(), data.clone());
            }
        }
        for (name, chain) in &before.chains {
            table.put_chain(name, Chain { base: chain.base, rules: vec![vec![Expr::Verdict(Verdict::Accept)]] });
            table.remove_chain(name);
            table.put_chain(name, chain.clone());
        }
        for name in &before.counters {
            table.remove_counter(name);
            table.put_counter(name);
        }
        prop_assert_eq!(table.transaction().changes().to_vec(), vec![]);
    }
}

#[test]
fn a_change_of_one_element_is_one_change_whatever_else_there_is() {
    let mut table = Table::default();
    table.put_set("a", kind(true));
    (0..1000).for_each(|number| table.put("a", key(number), Some(Data::Verdict(Verdict::Drop))));
    table.committed();
    table.put("a", key(1000), Some(Data::Verdict(Verdict::Drop)));
    assert_eq!(table.transaction().count(), 1);
    table.put("a", key(1), Some(Data::Verdict(Verdict::Return)));
    let changes = table.transaction();
    let [Change::DeleteElements { elements: gone, .. }, Change::AddElements { elements: come, .. }] =
        changes.changes()
    else {
        panic!("{changes:?}");
    };
    assert_eq!((gone.len(), come.len()), (1, 2));
}
