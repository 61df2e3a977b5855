//! Policies as they are written, and how they become those that work.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;
use crate::asn::Asn;
use crate::family::Family;
use crate::policy::{
    AnyCommunity, AttributeMatch, Gate, PathRegex, PeerMatch, Policy, PrefixList, RouteKind, Term,
    TermNextHop, Verdict,
};
use crate::prefix::Prefix;

/// An entry of a prefix list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixEntry {
    /// What a prefix must be within.
    pub prefix: Prefix,
    /// The least length of a prefix that counts. Default: the length of `prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ge: Option<u8>,
    /// The greatest length of a prefix that counts. Default: with `ge` all, without it the length of `prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub le: Option<u8>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// The terms, in the order in which they are asked.
    #[serde(default)]
    pub terms: Vec<TermConfig>,
    /// What becomes of a route that no term accepts or rejects. Default reject.
    #[serde(default)]
    pub default: DefaultAction,
}

/// What becomes of a route that no term decides about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultAction {
    /// It is taken, or told.
    Accept,
    /// It is not.
    #[default]
    Reject,
}

/// What a term decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The route is taken, or told.
    Accept,
    /// It is not.
    Reject,
    /// The next term is asked.
    Next,
}

/// A term of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermConfig {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which routes it is about; without one, all.
    #[serde(default, rename = "match")]
    pub conditions: MatchConfig,
    /// What it changes.
    #[serde(default)]
    pub set: SetConfig,
    /// What it decides.
    pub then: Action,
}

/// Which routes a term is about: those that meet all fields, of each list one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchConfig {
    /// Names of prefix lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefix: Vec<String>,
    /// The AS path.
    pub as_path: AsPathMatch,
    /// Communities of all kinds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<AnyCommunity>,
    /// Prefixes that the next hop may be in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next_hop: Vec<Prefix>,
    /// Who announced the route.
    pub peer: PeerMatchConfig,
    /// The family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
}

/// What the AS path must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AsPathMatch {
    /// One of these is in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<Asn>,
    /// One of these is its last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origin: Vec<Asn>,
    /// One of these is its first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub neighbor: Vec<Asn>,
    /// One of these regular expressions fits it as it is shown, `_` standing for where a number begins or ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regex: Vec<String>,
    /// Its length, a set counting as one.
    pub length: LengthMatch,
}

/// What a length must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LengthMatch {
    /// At least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ge: Option<u16>,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub le: Option<u16>,
}

/// Who announced the route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerMatchConfig {
    /// Prefixes that its address may be in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<Prefix>,
    /// Its AS.
    #[serde(rename = "as", skip_serializing_if = "Vec::is_empty")]
    pub asn: Vec<Asn>,
    /// Its kind; `local` for a route of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<RouteKind>,
}

/// What a term changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetConfig {
    /// `LOCAL_PREF`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<u32>,
    /// `MULTI_EXIT_DISC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Communities of all kinds.
    pub communities: CommunityChange,
    /// How often the nearest AS is said once more, up to 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepend: Option<u8>,
    /// The next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHopOption>,
}

/// What becomes of the communities: first `replace`, then `remove`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommunityChange {
    /// These come.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<AnyCommunity>,
    /// These go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<AnyCommunity>,
    /// These come in place of all others, of all kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<Vec<AnyCommunity>>,
}

/// A next hop that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHopOption {
    /// `self`.
    Own,
    /// An address, for routes of its family.
    Address(IpAddr),
}

impl fmt::Display for NextHopOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("self"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for NextHopOption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NextHopOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "self" => Ok(Self::Own),
            _ => text.parse().map(Self::Address).ok().ok_or_else(|| {
                serde::de::Error::custom(format!("next hop `{text}`: expected an address or self"))
            }),
        }
    }
}

/// The most that a term prepends: longer paths are refused by many.
const MOST_PREPENDED: u8 = 32;

/// All policies, ready to work.
///
/// # Errors
/// The first thing that is wrong, with its path.
pub(super) fn compile(
    lists: &BTreeMap<String, Vec<PrefixEntry>>,
    policies: &BTreeMap<String, PolicyConfig>,
) -> Result<BTreeMap<String, Arc<Policy>>, ConfigError> {
    let mut compiled_lists = BTreeMap::new();
    for (name, entries) in lists {
        compiled_lists.insert(name.as_str(), Arc::new(compile_list(name, entries)?));
    }
    let mut compiled = BTreeMap::new();
    for (name, policy) in policies {
        let path = format!("policies.{name}");
        let terms: Vec<Term> = policy
            .terms
            .iter()
            .enumerate()
            .map(|(index, term)| compile_term(&format!("{path}.terms[{index}]"), term, &compiled_lists))
            .collect::<Result<_, _>>()?;
        let gates = terms.iter().filter(|term| !term.gate.is_open()).count();
        if gates > Policy::MOST_GATES {
            let most = Policy::MOST_GATES;
            let reason = format!(
                "{gates} terms match prefix, peer or family: expected up to {most}; put prefixes into one list"
            );
            return Err(ConfigError::Value { path: format!("{path}.terms"), reason });
        }
        let default = match policy.default {
            DefaultAction::Accept => Verdict::Accept,
            DefaultAction::Reject => Verdict::Reject,
        };
        compiled.insert(name.clone(), Arc::new(Policy { name: name.clone(), terms, default }));
    }
    Ok(compiled)
}

fn compile_list(name: &str, entries: &[PrefixEntry]) -> Result<PrefixList, ConfigError> {
    let mut list = PrefixList::default();
    for (index, entry) in entries.iter().enumerate() {
        let (length, bits) = (entry.prefix.length(), entry.prefix.family().address_bits());
        let ge = entry.ge.unwrap_or(length);
        let le = entry.le.unwrap_or(if entry.ge.is_some() { bits } else { length });
        if ge < length || le < ge || le > bits {
            return Err(ConfigError::Value {
                path: format!("prefix_lists.{name}[{index}]"),
                reason: format!("{}: expected {length} <= ge {ge} <= le {le} <= {bits}", entry.prefix),
            });
        }
        list.insert(entry.prefix, ge, le);
    }
    Ok(list)
}

fn compile_term(
    path: &str,
    term: &TermConfig,
    lists: &BTreeMap<&str, Arc<PrefixList>>,
) -> Result<Term, ConfigError> {
    let wrong =
        |field: &str, reason: String| Err(ConfigError::Value { path: format!("{path}.{field}"), reason });
    let MatchConfig { prefix, as_path, communities, next_hop, peer, family } = &term.conditions;
    let mut prefixes = Vec::new();
    for (index, name) in prefix.iter().enumerate() {
        match lists.get(name.as_str()) {
            Some(list) => prefixes.push(Arc::clone(list)),
            None => {
                return wrong(&format!("match.prefix[{index}]"), format!("there is no prefix list `{name}`"));
            }
        }
    }
    let mut conditions = Vec::new();
    let mut require = |is_asked: bool, condition| conditions.extend(is_asked.then_some(condition));
    require(!as_path.contains.is_empty(), AttributeMatch::AsContained(as_path.contains.clone()));
    require(!as_path.origin.is_empty(), AttributeMatch::AsOrigin(as_path.origin.clone()));
    require(!as_path.neighbor.is_empty(), AttributeMatch::AsNeighbor(as_path.neighbor.clone()));
    let mut expressions = Vec::new();
    for (index, written) in as_path.regex.iter().enumerate() {
        match PathRegex::new(written) {
            Ok(expression) => expressions.push(expression),
            Err(error) => return wrong(&format!("match.as_path.regex[{index}]"), error.to_string()),
        }
    }
    let has_expressions = !expressions.is_empty();
    require(has_expressions, AttributeMatch::AsPathRegex(expressions));
    let LengthMatch { ge, le } = as_path.length;
    let length =
        AttributeMatch::AsLength { ge: ge.unwrap_or(0).into(), le: le.map_or(usize::MAX, usize::from) };
    require(ge.is_some() || le.is_some(), length);
    require(!communities.is_empty(), AttributeMatch::Community(communities.clone()));
    require(!next_hop.is_empty(), AttributeMatch::NextHop(next_hop.clone()));
    let prepend = term.set.prepend.unwrap_or(0);
    if prepend > MOST_PREPENDED {
        return wrong("set.prepend", format!("{prepend}: expected up to {MOST_PREPENDED}"));
    }
    Ok(Term {
        name: term.name.clone(),
        gate: Gate {
            prefixes,
            family: *family,
            peer: PeerMatch { address: peer.address.clone(), asn: peer.asn.clone(), kind: peer.kind },
        },
        conditions,
        local_preference: term.set.local_preference,
        med: term.set.med,
        replace_communities: term.set.communities.replace.clone(),
        remove_communities: term.set.communities.remove.clone(),
        add_communities: term.set.communities.add.clone(),
        prepend,
        next_hop: term.set.next_hop.map(|next_hop| match next_hop {
            NextHopOption::Own => TermNextHop::Own,
            NextHopOption::Address(address) => TermNextHop::Address(address),
        }),
        then: match term.then {
            Action::Accept => Some(Verdict::Accept),
            Action::Reject => Some(Verdict::Reject),
            Action::Next => None,
        },
    })
}
