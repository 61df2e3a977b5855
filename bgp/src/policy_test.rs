//! Tests that users write for their policies.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::config::NextHopOption;
use crate::family::Family;
use crate::policy::{Announcer, AnyCommunity, Policy, RouteKind, TermNextHop, Verdict};
use crate::prefix::Prefix;
use crate::wire::attr::AsPath;
use crate::wire::{Attributes, NextHop};

/// What should become of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTest {
    /// For people.
    pub name: String,
    /// Which policy is asked.
    pub policy: String,
    /// Which way the route goes: on import the neighbour's AS is prepended, on export ours. Default import.
    #[serde(default)]
    pub direction: Direction,
    /// The route that goes in.
    pub route: TestRoute,
    /// What should come out.
    pub expect: Expected,
}

/// The way of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From a neighbour.
    #[default]
    Import,
    /// To an external neighbour.
    Export,
}

/// A route of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestRoute {
    /// The prefix.
    pub prefix: Prefix,
    /// The AS path, the nearest first. Default empty.
    #[serde(default)]
    pub as_path: Vec<Asn>,
    /// `NEXT_HOP`. Default none, as of a route of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<IpAddr>,
    /// `MULTI_EXIT_DISC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// `LOCAL_PREF`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<u32>,
    /// Communities of all kinds.
    #[serde(default)]
    pub communities: Vec<AnyCommunity>,
    /// Whose route it is. Default ours.
    #[serde(default)]
    pub from: TestPeer,
}

/// Whose route it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestPeer {
    /// The neighbour's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The neighbour's AS.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub asn: Option<Asn>,
    /// Default `external` if its AS is another than ours, `internal` if it is ours, `local` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<RouteKind>,
}

/// What should come out; attributes that are not named are not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// `accept` or `reject`.
    pub verdict: VerdictName,
    /// The AS path, the nearest first, prepended numbers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path: Option<Vec<Asn>>,
    /// `NEXT_HOP`, or `self`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHopOption>,
    /// `MULTI_EXIT_DISC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// `LOCAL_PREF`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<u32>,
    /// All communities, in any order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<Vec<AnyCommunity>>,
}

/// A verdict as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictName {
    /// Taken, or told.
    Accept,
    /// Not.
    Reject,
}

/// A test that did not go as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its place in the list.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What was expected and what came.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tests[{}]: {}: {}", self.index, self.name, self.reason)
    }
}

/// Runs the tests; gives those that fail.
pub fn run(tests: &[PolicyTest], policies: &BTreeMap<String, Arc<Policy>>, local_as: Asn) -> Vec<Failure> {
    let failure =
        |index: usize, test: &PolicyTest, reason| Failure { index, name: test.name.clone(), reason };
    let tests = tests.iter().enumerate();
    tests
        .filter_map(|(index, test)| {
            let Some(policy) = policies.get(&test.policy) else {
                return Some(failure(index, test, format!("there is no policy `{}`", test.policy)));
            };
            test.run(policy, local_as).err().map(|reason| failure(index, test, reason))
        })
        .collect()
}

impl PolicyTest {
    fn run(&self, policy: &Policy, local_as: Asn) -> Result<(), String> {
        let route = &self.route;
        let announcer = route.from.announcer(local_as);
        let signature = policy.signature(route.prefix, &announcer);
        let outcome = policy.apply(signature, Family::of(route.prefix.address()), &route.attributes());
        let decided = policy.describe(outcome.term);
        let next_hop = match outcome.next_hop {
            Some(TermNextHop::Own) => "self".to_owned(),
            _ => next_hop_text(outcome.attributes.next_hop),
        };
        let (verdict, prepend) = (outcome.verdict, outcome.prepend);
        let wanted = match self.expect.verdict {
            VerdictName::Accept => Verdict::Accept,
            VerdictName::Reject => Verdict::Reject,
        };
        if verdict != wanted {
            let name = |verdict| if verdict == Verdict::Accept { "accept" } else { "reject" };
            return Err(format!("expected {}, came {} by {decided}", name(wanted), name(verdict)));
        }
        let mut attributes = outcome.attributes;
        let nearest = match self.direction {
            Direction::Import => attributes.as_path.neighbor_as(),
            Direction::Export => Some(local_as),
        };
        if let Some(asn) = nearest {
            for _ in 0..prepend {
                attributes.as_path = attributes.as_path.prepended(asn);
            }
        }
        let expect = &self.expect;
        let sorted = |communities: &[AnyCommunity]| {
            let mut texts: Vec<String> = communities.iter().map(ToString::to_string).collect();
            texts.sort();
            format!("[{}]", texts.join(", "))
        };
        let number = |number: Option<u32>| number.map_or("none".to_owned(), |number| number.to_string());
        let came = [
            ("as_path", expect.as_path.clone().map(|path| AsPath::sequence(path).to_string()), {
                attributes.as_path.to_string()
            }),
            ("next_hop", expect.next_hop.map(|next_hop| next_hop.to_string()), next_hop),
            ("med", expect.med.map(|med| med.to_string()), number(attributes.med)),
            (
                "local_preference",
                expect.local_preference.map(|preference| preference.to_string()),
                number(attributes.local_pref),
            ),
            (
                "communities",
                expect.communities.as_deref().map(sorted),
                sorted(&AnyCommunity::all_of(&attributes)),
            ),
        ];
        for (attribute, expected, came) in came {
            if let Some(expected) = expected
                && expected != came
            {
                return Err(format!("{attribute}: expected {expected}, came {came} by {decided}"));
            }
        }
        Ok(())
    }
}

impl TestPeer {
    fn announcer(&self, local_as: Asn) -> Announcer {
        let kind = self.kind.unwrap_or(match self.asn {
            None if self.address.is_none() => RouteKind::Local,
            Some(asn) if asn == local_as => RouteKind::Internal,
            _ => RouteKind::External,
        });
        Announcer { kind, address: self.address, asn: self.asn }
    }
}

impl TestRoute {
    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes {
            as_path: AsPath::sequence(self.as_path.iter().copied()),
            next_hop: match self.next_hop {
                None => NextHop::Local,
                Some(IpAddr::V4(address)) => NextHop::V4(address),
                Some(IpAddr::V6(global)) => NextHop::V6 { global, link_local: None },
            },
            med: self.med,
            local_pref: self.local_preference,
            ..Attributes::default()
        };
        for community in &self.communities {
            community.add_to(&mut attributes);
        }
        attributes
    }
}

fn next_hop_text(next_hop: NextHop) -> String {
    match next_hop {
        NextHop::Local => "none".to_owned(),
        NextHop::V4(address) => address.to_string(),
        NextHop::V6 { global, .. } => global.to_string(),
    }
}
