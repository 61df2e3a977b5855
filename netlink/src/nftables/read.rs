//! What the kernel holds of a table.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Base, ChainKind, Connection, Expr, Hook, LIST_ELEMENT, OBJECT_COUNTER, Policy, Rule, TABLE,
    attribute::Attributes,
    change::{
        CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, HOOK_NUMBER, HOOK_PRIORITY, OBJECT_DATA,
        OBJECT_NAME, OBJECT_TYPE, RULE_CHAIN, RULE_EXPRESSIONS, SET_NAME, type_of,
    },
    connection::Wanted,
    message,
};
use crate::{Errno, Error};

/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// `NFTA_COUNTER_*`.
const COUNTER_OCTETS: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// What a table is made of, without the elements of its sets. All empty when there is no such table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Chains by name, with where their packets come from.
    pub chains: BTreeMap<String, Option<Base>>,
    /// Rules in order, by chain; `None` for one with anything that [`Expr`] cannot say.
    pub rules: BTreeMap<String, Vec<Option<Rule>>>,
    /// Names of sets and maps.
    pub sets: BTreeSet<String>,
    /// Names of counters.
    pub counters: BTreeSet<String>,
}

/// What a counter has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their octets, from the IP header on.
    pub octets: u64,
}

impl Connection {
    /// The number of the kernel's present ruleset: every transaction of anyone, on any table of the network
    /// namespace, raises it by one.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let what = "look up the generation of nftables";
        let found = self.ask(
            what,
            message::GET_GENERATION,
            Wanted::One,
            |_| {},
            |found: &mut Option<u32>, kind, body| {
                if kind == type_of(message::NEW_GENERATION) {
                    *found = body.number(GENERATION_ID);
                }
            },
        )?;
        found.ok_or_else(|| Error::Answer { request: what.to_owned(), reason: "no number in it".into() })
    }

    /// What a table of family `inet` is made of.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn outline(&mut self, table: &str) -> Result<Outline, Error> {
        let what = format!("list table inet {table}");
        let is_ours = |body: &Attributes<'_>| body.text(TABLE) == Some(table);
        // The kernel picks chains by family only, and takes the table's name for those that it can pick by.
        let chains = self.ask(
            &what,
            message::GET_CHAIN,
            Wanted::All,
            |_| {},
            |found: &mut BTreeMap<_, _>, _, body| {
                if let Some(name) = body.text(CHAIN_NAME).filter(|_| is_ours(body)) {
                    found.insert(name.to_owned(), base(body));
                }
            },
        )?;
        let rules = self.ask(
            &what,
            message::GET_RULE,
            Wanted::All,
            |writer| writer.text(TABLE, table),
            |found: &mut BTreeMap<_, Vec<_>>, _, body| {
                if let Some(chain) = body.text(RULE_CHAIN).filter(|_| is_ours(body)) {
                    found.entry(chain.to_owned()).or_default().push(rule(body));
                }
            },
        )?;
        let sets = self.ask(
            &what,
            message::GET_SET,
            Wanted::All,
            |_| {},
            |found: &mut BTreeSet<_>, _, body| {
                found.extend(body.text(SET_NAME).filter(|_| is_ours(body)).map(str::to_owned));
            },
        )?;
        let counters = self.counters(table)?.into_keys().collect();
        Ok(Outline { chains, rules, sets, counters })
    }

    /// What the named counters of a table of family `inet` have seen since they were made.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn counters(&mut self, table: &str) -> Result<BTreeMap<String, Count>, Error> {
        self.ask(
            &format!("list the counters of table inet {table}"),
            message::GET_OBJECT,
            Wanted::All,
            |writer| {
                writer.text(TABLE, table);
                writer.number(OBJECT_TYPE, OBJECT_COUNTER);
            },
            |found: &mut BTreeMap<_, _>, _, body| {
                if body.text(TABLE) == Some(table) {
                    found.extend(counter(body));
                }
            },
        )
    }

    /// What one named counter of a table of family `inet` has seen since it was made; `None` when there is none.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn counter(&mut self, table: &str, name: &str) -> Result<Option<Count>, Error> {
        let found = self.ask(
            &format!("read the counter {name} of table inet {table}"),
            message::GET_OBJECT,
            Wanted::One,
            |writer| {
                writer.text(TABLE, table);
                writer.text(OBJECT_NAME, name);
                writer.number(OBJECT_TYPE, OBJECT_COUNTER);
            },
            |found: &mut Option<_>, _, body| *found = counter(body).map(|(_, count)| count),
        );
        match found {
            Err(Error::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
            found => found,
        }
    }
}

/// A named counter and what it has seen.
pub(super) fn counter(body: &Attributes<'_>) -> Option<(String, Count)> {
    if body.number(OBJECT_TYPE) != Some(OBJECT_COUNTER) {
        return None;
    }
    let name = body.text(OBJECT_NAME)?;
    let data = body.nest(OBJECT_DATA);
    let number = |kind| data.as_ref().and_then(|data| data.long(kind)).unwrap_or_default();
    Some((name.to_owned(), Count { packets: number(COUNTER_PACKETS), octets: number(COUNTER_OCTETS) }))
}

/// `None` for a chain that others jump to.
pub(super) fn base(chain: &Attributes<'_>) -> Option<Base> {
    let hook = chain.nest(CHAIN_HOOK)?;
    let policy = match chain.number(CHAIN_POLICY)? {
        0 => Policy::Drop,
        _ => Policy::Accept,
    };
    let priority = hook.number(HOOK_PRIORITY)?.cast_signed();
    let kind = ChainKind::of_name(chain.text(CHAIN_TYPE)?)?;
    Some(Base { kind, hook: Hook::of_number(hook.number(HOOK_NUMBER)?)?, priority, policy })
}

pub(super) fn rule(rule: &Attributes<'_>) -> Option<Rule> {
    let expressions = rule.nest(RULE_EXPRESSIONS);
    expressions.iter().flat_map(|list| list.nests(LIST_ELEMENT)).map(|expr| Expr::decode(&expr)).collect()
}
