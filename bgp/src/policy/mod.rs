//! Import and export policies: which routes are taken and told, and with what attributes.
//!
//! A [`Policy`] is compiled once from the configuration. What it says of a route depends on two things: on the prefix,
//! its family and whose route it is ([`Policy::signature`], a bit for each term that looks at them), and on the
//! attributes ([`Policy::apply`]). Whoever remembers results by signature and attributes asks for each pair once.
//!
//! Pure: no clock, table or session. Never decided here: what the protocol itself forbids (`rib`).

mod apply;
mod community;
mod path_regex;
mod prefix_list;
mod term;

pub use apply::{Outcome, Signature, Verdict};
pub use community::{AnyCommunity, InvalidCommunity};
pub use path_regex::{InvalidPathRegex, PathRegex};
pub use prefix_list::PrefixList;
pub use term::{AttributeMatch, Gate, PeerMatch, Term, TermNextHop};

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;

#[cfg(test)]
mod tests;

/// Who announced a route, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// This speaker.
    Local,
    /// A neighbour of another AS.
    External,
    /// A neighbour of our AS.
    Internal,
}

/// Whose route it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcer {
    /// Ours, of another AS, or of our AS.
    pub kind: RouteKind,
    /// The neighbour's address; `None` for a route of ours.
    pub address: Option<IpAddr>,
    /// The neighbour's AS; `None` for a route of ours.
    pub asn: Option<Asn>,
}

impl Announcer {
    /// Of a route that this speaker originates.
    pub const LOCAL: Announcer = Announcer { kind: RouteKind::Local, address: None, asn: None };
}

/// Terms in order, the first of which that accepts or rejects decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name in the configuration.
    pub name: String,
    /// The terms.
    pub terms: Vec<Term>,
    /// What becomes of a route that no term decides about.
    pub default: Verdict,
}

impl Policy {
    /// Terms that may look at prefix, family or neighbour.
    pub const MOST_GATES: usize = 64;

    /// Which term decides, in words.
    pub fn describe(&self, term: Option<usize>) -> String {
        match term.and_then(|index| Some((index, self.terms.get(index)?))) {
            None => format!("policy `{}`, its default", self.name),
            Some((index, Term { name: None, .. })) => format!("policy `{}`, terms[{index}]", self.name),
            Some((_, Term { name: Some(name), .. })) => format!("policy `{}`, term `{name}`", self.name),
        }
    }
}
