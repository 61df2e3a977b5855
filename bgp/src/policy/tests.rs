//! Policies against a naive evaluator that reads the configuration as it is written.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::Prefix;
use crate::config::{Action, Config, DefaultAction, NextHopOption, PolicyConfig, PrefixEntry, TermConfig};
use crate::wire::attr::{AsPath, Community};
use crate::wire::{Attributes, NextHop};

const LISTS: &str = "
asn: 64500
router_id: 192.0.2.254
prefix_lists:
  a: [{prefix: 10.0.0.0/8, ge: 16, le: 24}, {prefix: 10.1.0.0/16}]
  b: [{prefix: '2001:db8::/32', le: 48}, {prefix: 0.0.0.0/0}]
  c: [{prefix: 10.0.0.0/9, ge: 9}]
policies:
  p:
";

fn any_of(options: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(options)
}

const COMMUNITIES: &[&str] =
    &["64500:1", "no-export", "llgr-stale", "rt:64500:1", "soo:70000:1", "64500:1:2"];

/// A term in the words of the configuration.
fn any_term() -> impl Strategy<Value = String> {
    let matches = any_of(&[
        "",
        "prefix: [a]",
        "prefix: [b, c]",
        "prefix: [c], family: ipv4-unicast",
        "as_path: {contains: [64501]}",
        "as_path: {origin: [64502, 64503]}",
        "as_path: {neighbor: [64501], length: {ge: 2}}",
        "as_path: {length: {le: 1}}",
        "communities: [no-export, '64500:1:2']",
        "communities: ['rt:64500:1']",
        "next_hop: [192.0.2.0/30, '2001:db8::/64']",
        "peer: {kind: external}",
        "peer: {address: [192.0.2.1/32], as: [64501, 64502]}",
        "family: ipv6-unicast, communities: ['64500:1']",
    ]);
    let sets = any_of(&[
        "",
        "local_preference: 200",
        "med: 5, prepend: 1",
        "communities: {add: ['64500:1', 'rt:64500:1', '64500:1:2']}",
        "communities: {remove: [no-export, '64500:1:2', llgr-stale]}",
        "communities: {replace: ['soo:70000:1'], add: [no-export]}",
        "next_hop: self",
        "next_hop: 192.0.2.2",
        "next_hop: '2001:db8::7'",
    ]);
    (matches, sets, any_of(&["accept", "reject", "next", "next"]))
        .prop_map(|(matches, set, then)| format!("{{match: {{{matches}}}, set: {{{set}}}, then: {then}}}"))
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let asns = proptest::collection::vec(64501_u32..64504, 0..4);
    let communities = proptest::collection::vec(any_of(COMMUNITIES), 0..4);
    (asns, communities, proptest::option::of(0_u32..9), 0_u8..6).prop_map(|(asns, communities, med, last)| {
        let mut attributes = Attributes {
            as_path: AsPath::sequence(asns.into_iter().filter_map(Asn::new)),
            next_hop: match last {
                0 => NextHop::Local,
                5 => NextHop::V6 { global: "2001:db8::1".parse().unwrap(), link_local: None },
                _ => NextHop::V4([192, 0, 2, last].into()),
            },
            med,
            ..Attributes::default()
        };
        for community in communities {
            community.parse::<AnyCommunity>().unwrap().add_to(&mut attributes);
        }
        attributes
    })
}

fn any_announcer() -> impl Strategy<Value = Announcer> {
    let peer = |kind, last: u8, number| Announcer {
        kind,
        address: Some(IpAddr::from([192, 0, 2, last])),
        asn: Asn::new(number),
    };
    prop_oneof![
        Just(Announcer::LOCAL),
        (1_u8..3, 64501_u32..64504).prop_map(move |(last, asn)| peer(RouteKind::External, last, asn)),
        (1_u8..3).prop_map(move |last| peer(RouteKind::Internal, last, 64500)),
    ]
}

/// What a route looks like on its way through a naive policy.
#[derive(Clone, Debug, PartialEq)]
struct Naive {
    verdict: Verdict,
    term: Option<usize>,
    local_pref: Option<u32>,
    med: Option<u32>,
    communities: Vec<String>,
    next_hop: String,
    prepend: u16,
}

fn texts(attributes: &Attributes) -> Vec<String> {
    let mut texts: Vec<_> = AnyCommunity::all_of(attributes).iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

fn next_hop_address(next_hop: NextHop) -> Option<IpAddr> {
    match next_hop {
        NextHop::Local => None,
        NextHop::V4(address) => Some(address.into()),
        NextHop::V6 { global, .. } => Some(global.into()),
    }
}

fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("4{:032b}", address.to_bits()),
        IpAddr::V6(address) => format!("6{:0128b}", address.to_bits()),
    }
}

fn is_within(prefix: Prefix, entry: &PrefixEntry) -> bool {
    let covered = 1 + usize::from(entry.prefix.length());
    let (ge, le) = match (entry.ge, entry.le) {
        (None, None) => (entry.prefix.length(), entry.prefix.length()),
        (Some(ge), None) => (ge, 128),
        (ge, Some(le)) => (ge.unwrap_or(0), le),
    };
    bits(prefix.address()).get(..covered) == bits(entry.prefix.address()).get(..covered)
        && prefix.length() >= entry.prefix.length()
        && prefix.length() >= ge
        && prefix.length() <= le
}

fn is_asked(
    config: &Config,
    term: &TermConfig,
    prefix: Prefix,
    from: &Announcer,
    before: &Attributes,
    now: &Naive,
) -> bool {
    let conditions = &term.conditions;
    let one_of = |met: Vec<bool>| met.is_empty() || met.contains(&true);
    let path: Vec<Asn> = before.as_path.segments().iter().flat_map(|segment| segment.asns.clone()).collect();
    let address_in = |address: Option<IpAddr>, prefix: &Prefix| {
        address.is_some_and(|address| {
            let entry = PrefixEntry { prefix: *prefix, ge: None, le: Some(128) };
            is_within(Prefix::host(address), &entry)
        })
    };
    let has = |name: &String| config.prefix_lists[name].iter().any(|entry| is_within(prefix, entry));
    let length = conditions.as_path.length;
    one_of(conditions.prefix.iter().map(has).collect())
        && conditions
            .family
            .is_none_or(|family| (family == crate::Family::Ipv4Unicast) == prefix.address().is_ipv4())
        && one_of(conditions.as_path.contains.iter().map(|asn| path.contains(asn)).collect())
        && one_of(conditions.as_path.origin.iter().map(|asn| path.last() == Some(asn)).collect())
        && one_of(conditions.as_path.neighbor.iter().map(|asn| path.first() == Some(asn)).collect())
        && length.ge.is_none_or(|ge| path.len() >= ge.into())
        && length.le.is_none_or(|le| path.len() <= le.into())
        && one_of(
            conditions
                .communities
                .iter()
                .map(|community| now.communities.contains(&community.to_string()))
                .collect(),
        )
        && one_of(
            conditions.next_hop.iter().map(|prefix| address_in(now.next_hop.parse().ok(), prefix)).collect(),
        )
        && conditions.peer.kind.is_none_or(|kind| kind == from.kind)
        && one_of(conditions.peer.asn.iter().map(|asn| from.asn == Some(*asn)).collect())
        && one_of(conditions.peer.address.iter().map(|prefix| address_in(from.address, prefix)).collect())
}

fn naive(
    config: &Config,
    policy: &PolicyConfig,
    prefix: Prefix,
    from: &Announcer,
    before: &Attributes,
) -> Naive {
    let mut now = Naive {
        verdict: if policy.default == DefaultAction::Accept { Verdict::Accept } else { Verdict::Reject },
        term: None,
        local_pref: before.local_pref,
        med: before.med,
        communities: texts(before),
        next_hop: next_hop_address(before.next_hop).map(|address| address.to_string()).unwrap_or_default(),
        prepend: 0,
    };
    for (index, term) in policy.terms.iter().enumerate() {
        if !is_asked(config, term, prefix, from, before, &now) {
            continue;
        }
        let set = &term.set;
        now.local_pref = set.local_preference.or(now.local_pref);
        now.med = set.med.or(now.med);
        now.prepend += u16::from(set.prepend.unwrap_or(0));
        if let Some(NextHopOption::Address(address)) = set.next_hop
            && address.is_ipv4() == prefix.address().is_ipv4()
        {
            now.next_hop = address.to_string();
        }
        let names = |communities: &[AnyCommunity]| -> Vec<String> {
            communities.iter().map(ToString::to_string).collect()
        };
        let is_kept = |community: &String| community == "llgr-stale";
        if let Some(replace) = &set.communities.replace {
            now.communities.retain(is_kept);
            now.communities.extend(names(replace));
        }
        let removed = names(&set.communities.remove);
        now.communities.retain(|community| is_kept(community) || !removed.contains(community));
        now.communities.extend(names(&set.communities.add));
        now.communities.sort();
        now.communities.dedup();
        if term.then != Action::Next {
            now.verdict = if term.then == Action::Accept { Verdict::Accept } else { Verdict::Reject };
            now.term = Some(index);
            return now;
        }
    }
    now
}

proptest! {
    #[test]
    fn a_policy_says_what_its_words_say(
        terms in proptest::collection::vec(any_term(), 0..6),
        default in any_of(&["accept", "reject"]),
        attributes in any_attributes(),
        from in any_announcer(),
        prefix in any_of(&[
            "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.1.0.0/16", "10.1.0.0/24", "10.200.1.0/25", "192.0.2.0/24",
            "2001:db8::/32", "2001:db8::/48", "2001:db8::/49", "::/0",
        ]),
    ) {
        let text = format!("{LISTS}    default: {default}\n    terms: [{}]\n", terms.join(", "));
        let config = Config::from_yaml(&text).unwrap();
        let checked = config.check().unwrap();
        let (policy, prefix): (_, Prefix) = (&checked.policies["p"], prefix.parse().unwrap());
        let outcome = policy.apply(policy.signature(prefix, &from), prefix.family(), &attributes);
        let found = Naive {
            verdict: outcome.verdict,
            term: outcome.term,
            local_pref: outcome.attributes.local_pref,
            med: outcome.attributes.med,
            communities: texts(&outcome.attributes),
            next_hop: next_hop_address(outcome.attributes.next_hop).map(|address| address.to_string()).unwrap_or_default(),
            prepend: outcome.prepend,
        };
        let mut wanted = naive(&config, &config.policies["p"], prefix, &from, &attributes);
        wanted.communities.sort();
        wanted.communities.dedup();
        prop_assert_eq!(found.communities.len(), AnyCommunity::all_of(&outcome.attributes).len());
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(outcome.med_is_set, outcome.med_is_set && outcome.attributes.med.is_some());
    }
}

#[test]
fn communities_are_read_and_shown_alike() {
    for text in COMMUNITIES.iter().copied().chain(["0x4004000000000001", "graceful-shutdown", "0:0"]) {
        assert_eq!(text.parse::<AnyCommunity>().map(|community| community.to_string()), Ok(text.to_owned()));
    }
    for text in
        ["", "1", "65536:1", "1:65536", "1:2:3:4", "rt:1", "rt:70000:65536", "0x1", "+1:1", "No-Export"]
    {
        assert!(text.parse::<AnyCommunity>().is_err(), "{text}");
    }
    assert_eq!("65535:65281".parse(), Ok(AnyCommunity::Standard(Community::NO_EXPORT)));
}
