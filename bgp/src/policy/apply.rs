//! What a policy makes of a route.

use std::net::IpAddr;

use super::community::AnyCommunity;
use super::term::{Term, TermNextHop};
use super::{Announcer, Policy};
use crate::family::Family;
use crate::prefix::Prefix;
use crate::wire::{Attributes, NextHop};

/// What becomes of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken, or told.
    Accept,
    /// It is not.
    Reject,
}

/// Which of the terms that look at prefix, family or neighbour may concern a route: a bit for each, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub u64);

/// A policy's word about a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The term that decided; `None` for the default.
    pub term: Option<usize>,
    /// The attributes as the terms left them.
    pub attributes: Attributes,
    /// How often the nearest AS is to be said once more; not yet in the attributes.
    pub prepend: u16,
    /// The next hop, if a term set one. Our own is not yet in the attributes.
    pub next_hop: Option<TermNextHop>,
    /// Whether a term set `MULTI_EXIT_DISC`.
    pub med_is_set: bool,
}

impl Policy {
    /// Which terms may concern a route.
    pub fn signature(&self, prefix: Prefix, announcer: &Announcer) -> Signature {
        let gates = self.terms.iter().map(|term| &term.gate).filter(|gate| !gate.is_open());
        let bits = gates
            .zip(0..Self::MOST_GATES)
            .fold(0, |bits, (gate, bit)| if gate.admits(prefix, announcer) { bits | 1 << bit } else { bits });
        Signature(bits)
    }

    /// What becomes of a route with this signature and these attributes.
    pub fn apply(&self, signature: Signature, family: Family, attributes: &Attributes) -> Outcome {
        let mut outcome = Outcome {
            verdict: self.default,
            term: None,
            attributes: attributes.clone(),
            prepend: 0,
            next_hop: None,
            med_is_set: false,
        };
        let mut bits = signature.0;
        for (index, term) in self.terms.iter().enumerate() {
            if !term.gate.is_open() {
                let admitted = bits & 1 == 1;
                bits >>= 1;
                if !admitted {
                    continue;
                }
            }
            if !term.conditions.iter().all(|condition| condition.is_met(&outcome.attributes)) {
                continue;
            }
            outcome.change(term, family);
            if let Some(verdict) = term.then {
                (outcome.verdict, outcome.term) = (verdict, Some(index));
                break;
            }
        }
        outcome
    }
}

impl Outcome {
    fn change(&mut self, term: &Term, family: Family) {
        let attributes = &mut self.attributes;
        attributes.local_pref = term.local_preference.or(attributes.local_pref);
        attributes.med = term.med.or(attributes.med);
        self.med_is_set |= term.med.is_some();
        if term.replace_communities.is_some() {
            AnyCommunity::retain(attributes, |_| false);
        }
        for community in term.replace_communities.iter().flatten() {
            community.add_to(attributes);
        }
        if !term.remove_communities.is_empty() {
            AnyCommunity::retain(attributes, |community| !term.remove_communities.contains(&community));
        }
        for community in &term.add_communities {
            community.add_to(attributes);
        }
        self.prepend = self.prepend.saturating_add(term.prepend.into());
        match term.next_hop {
            Some(TermNextHop::Own) => self.next_hop = Some(TermNextHop::Own),
            Some(TermNextHop::Address(address)) if Family::of(address) == family => {
                self.next_hop = term.next_hop;
                attributes.next_hop = match address {
                    IpAddr::V4(address) => NextHop::V4(address),
                    IpAddr::V6(global) => NextHop::V6 { global, link_local: None },
                };
            }
            // An address of the other family is not for this route.
            Some(TermNextHop::Address(_)) | None => {}
        }
    }

    /// The attributes of an accepted route that came in: what is prepended is the neighbour's AS.
    pub fn imported(mut self) -> Option<Attributes> {
        if self.verdict == Verdict::Reject {
            return None;
        }
        if let Some(asn) = self.attributes.as_path.neighbor_as() {
            for _ in 0..self.prepend {
                self.attributes.as_path = self.attributes.as_path.prepended(asn);
            }
        }
        Some(self.attributes)
    }
}
