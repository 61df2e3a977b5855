//! Sessions that users ask for, checked.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU8};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::ObjectMeta;
use margay_api::resource::{
    AddPathDirection, AddressFamily, AtLimit, BGPPeer, BGPPeerSpec, Filter, FilterAction, FilterDefault,
    FilterMatch, FilterRule, RouteSource, SecretKey,
};
use margay_bgp::{
    Asn, Family, HoldTime, Prefix,
    config::{
        self, Action, AddPathOption, AsPathMatch, BfdOptions, CommunityChange, DefaultAction,
        GracefulRestartOptions, MatchConfig, MaxPrefixes, PeerMatchConfig, PrefixEntry, SetConfig,
        TermConfig,
    },
    policy::{PathRegex, RouteKind},
};
use margay_policy::Selector;

use super::{
    Read, Told,
    bgp_configuration::{Problems, asn, bfd, communities, graceful_restart, hold_time, prefix},
    guarded::Kind,
};

/// What the agent needs to know of a `BGPPeer`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PeerFacts {
    /// The nodes that have the session.
    pub(crate) nodes: Selector,
    /// The session; or that there is none.
    pub(crate) session: Result<Session, Malformed>,
    /// What is wrong with it.
    pub(crate) problems: Vec<String>,
    /// What its status says, and of what.
    pub(crate) told: Told,
}

impl PeerFacts {
    /// Whether all of the session could be read.
    pub(crate) fn is_whole(&self) -> bool {
        self.session.as_ref().is_ok_and(|session| session.own.is_whole)
    }

    /// Whether a node with these labels is at an end of the session, as far as can be read.
    pub(crate) fn concerns(&self, labels: &BTreeMap<String, String>) -> bool {
        let peers = match &self.session {
            Ok(Session { end: End::Nodes(peers), .. })
            | Err(Malformed { claim: Some(Claim::Nodes(peers)), .. }) => Some(peers),
            Ok(_) | Err(_) => None,
        };
        self.nodes.matches(labels) || peers.is_some_and(|peers| peers.matches(labels))
    }
}

/// A session that cannot be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Malformed {
    /// Whom it would be with, where that can be read: nobody else may take its place, without its password and filters.
    pub(crate) claim: Option<Claim>,
}

/// Whom a session would be with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Claim {
    /// A router.
    Router(IpAddr),
    /// Other nodes.
    Nodes(Selector),
}

/// A session that is well formed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Session {
    /// Who is at the other end.
    pub(crate) end: End,
    /// What both ends follow, where both are nodes.
    pub(crate) options: SessionOptions,
    /// What is the nodes' own.
    pub(crate) own: OwnOptions,
    pub(crate) description: Option<String>,
}

/// Who is at the other end of a session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// A router.
    Router {
        address: IpAddr,
        asn: Asn,
        port: Option<u16>,
        interface: Option<String>,
        source_address: Option<IpAddr>,
    },
    /// Other nodes.
    Nodes(Selector),
}

/// How a session is held.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SessionOptions {
    pub(crate) password: Option<SecretKey>,
    pub(crate) passive: bool,
    pub(crate) ttl: Option<u8>,
    pub(crate) ttl_security: Option<u8>,
    pub(crate) hold_time: Option<HoldTime>,
    pub(crate) families: Vec<Family>,
    pub(crate) graceful_restart: Option<GracefulRestartOptions>,
    pub(crate) max_prefixes: Option<MaxPrefixes>,
    pub(crate) bfd: Option<BfdOptions>,
    /// As the nodes of `nodeSelector` see it.
    pub(crate) add_path: AddPathOption,
    /// Of those nodes.
    pub(crate) add_path_limit: Option<NonZeroU8>,
}

/// What the nodes do with the routes of a session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnOptions {
    pub(crate) next_hop_self: bool,
    pub(crate) route_reflector_client: bool,
    pub(crate) import: Option<FilterFacts>,
    pub(crate) export: Option<FilterFacts>,
    /// Whether all rules of the filters could be read.
    pub(crate) is_whole: bool,
}

/// A filter in the speaker's terms.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FilterFacts {
    /// The terms, each with the list of prefixes that it matches, if it does.
    pub(crate) terms: Vec<(TermConfig, Vec<PrefixEntry>)>,
    pub(crate) default: DefaultAction,
}

/// How often the nearest AS is said once more, at most: as the schema has it, and the speaker.
const MOST_PREPENDED: u8 = 32;

impl Kind for BGPPeer {}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &BGPPeer) -> Read<PeerFacts> {
    let spec = &object.spec;
    let mut problems = Problems::new(format!("BGPPeer {}", key(&object.metadata)));
    let nodes = spec.node_selector.as_ref().map(|it| problems.keep("nodeSelector", selector(it)));
    let end = end(spec, &mut problems);
    let options = options(spec, &mut problems);
    // A rule that cannot be read costs no session.
    let mut of_rules = Problems::new(format!("BGPPeer {}", key(&object.metadata)));
    let import = spec.import.as_ref().map(|it| filter("import", it, &mut of_rules));
    let export = spec.export.as_ref().map(|it| filter("export", it, &mut of_rules));
    let own = OwnOptions {
        next_hop_self: spec.next_hop_self,
        route_reflector_client: spec.route_reflector_client,
        import,
        export,
        is_whole: of_rules.list.is_empty(),
    };
    let session = match end {
        Some(end) if problems.list.is_empty() => {
            Ok(Session { end, options, own, description: spec.description.clone() })
        }
        _ => Err(Malformed { claim: claim(spec) }),
    };
    let problems = [problems.list, of_rules.list].concat();
    // One that cannot be read may mean any node: none has the session, and every node says what is wrong with it.
    let nodes = nodes.flatten().unwrap_or_default();
    let conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let told = Told { generation: object.metadata.generation, conditions };
    Read { value: Some(PeerFacts { nodes, session, problems: problems.clone(), told }), problems }
}

fn end(spec: &BGPPeerSpec, problems: &mut Problems) -> Option<End> {
    match (&spec.address, &spec.peer_selector) {
        (Some(text), None) => {
            let address = problems.keep("address", address(text));
            let number = spec.asn.ok_or_else(|| "is missing: the AS of the router at `address`".to_owned());
            let number = problems.keep("asn", number.and_then(asn));
            let port = spec
                .port
                .map(|port| if port == 0 { Err("0: expected 1 to 65535".to_owned()) } else { Ok(port) });
            let port = port.map(|port| problems.keep("port", port));
            let source = spec
                .source_address
                .as_deref()
                .map(|text| problems.keep("sourceAddress", self::address(text)));
            Some(End::Router {
                address: address?,
                asn: number?,
                port: port.flatten(),
                interface: spec.interface.clone(),
                source_address: source.flatten(),
            })
        }
        (None, Some(peers)) => {
            if spec.asn.is_some() {
                let _none = problems
                    .keep::<()>("asn", Err("nodes of peerSelector have their own: leave it out".into()));
            }
            problems.keep("peerSelector", selector(peers)).map(End::Nodes)
        }
        (both, _) => {
            let found = if both.is_some() { "both are there" } else { "neither is there" };
            problems.keep("address", Err(format!("expected either address or peerSelector; {found}")))
        }
    }
}

/// Whom a malformed session would be with.
fn claim(spec: &BGPPeerSpec) -> Option<Claim> {
    let router = spec.address.as_ref().and_then(|text| text.parse().ok()).map(Claim::Router);
    let nodes = || selector(spec.peer_selector.as_ref()?).ok().map(Claim::Nodes);
    router.or_else(nodes)
}

fn options(spec: &BGPPeerSpec, problems: &mut Problems) -> SessionOptions {
    let hold_time = spec.hold_time_seconds.and_then(|it| problems.keep("holdTimeSeconds", hold_time(it)));
    let restart =
        spec.graceful_restart.as_ref().and_then(|it| problems.keep("gracefulRestart", graceful_restart(it)));
    let families = match &spec.families[..] {
        [] => Family::ALL.to_vec(),
        some => some
            .iter()
            .map(|family| match family {
                AddressFamily::IPv4 => Family::Ipv4Unicast,
                AddressFamily::IPv6 => Family::Ipv6Unicast,
            })
            .collect(),
    };
    let bfd = spec.bfd.and_then(|it| problems.keep("bfd", bfd(it)));
    let add_path = match spec.add_path.map(|it| it.direction) {
        None => AddPathOption::None,
        Some(AddPathDirection::Receive) => AddPathOption::Receive,
        Some(AddPathDirection::Send) => AddPathOption::Send,
        Some(AddPathDirection::Both) => AddPathOption::Both,
    };
    let limit = spec.add_path.and_then(|it| it.send_limit).and_then(|limit| {
        let limit = match add_path {
            AddPathOption::Receive => Err("goes with direction Send or Both".to_owned()),
            _ => NonZeroU8::new(limit).ok_or_else(|| "0: expected 1 to 255".to_owned()),
        };
        problems.keep("addPath.sendLimit", limit)
    });
    let max = spec.max_prefixes;
    SessionOptions {
        password: spec.password.as_ref().map(|password| password.secret_key_ref.clone()),
        passive: spec.passive,
        ttl: spec.ttl,
        ttl_security: spec.ttl_security,
        hold_time,
        families,
        graceful_restart: restart,
        bfd,
        add_path,
        add_path_limit: limit,
        max_prefixes: max.map(|max| MaxPrefixes {
            limit: max.limit,
            warn_percent: max.warn_percent.unwrap_or(75),
            action: match max.action {
                AtLimit::Restart => config::AtLimit::Restart,
                AtLimit::Idle => config::AtLimit::Idle,
                AtLimit::Warn => config::AtLimit::Warn,
            },
            restart_time: None,
        }),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_not_an_address| format!("`{text}` is no address; write 192.0.2.1 or 2001:db8::1"))
}

fn selector(selector: &LabelSelector) -> Result<Selector, String> {
    Selector::from_api(selector).map_err(|(field, reason)| format!("{field}: {reason}"))
}

/// The filter in the speaker's terms. What is wrong with a rule is noted: it is about no route then, or, where it rejects or sets
/// anything, rejects every one: so no route passes that should not, nor otherwise than it should.
fn filter(direction: &str, filter: &Filter, problems: &mut Problems) -> FilterFacts {
    let mut terms = Vec::new();
    for (index, rule) in filter.rules.iter().enumerate() {
        let is_needed = rule.action == FilterAction::Reject || rule.set.is_some();
        let instead = if is_needed {
            "it rejects all routes until it can be"
        } else {
            "the rule is passed over until it can be"
        };
        let read = term(rule).map_err(|reason| format!("{reason}; {instead} read"));
        match problems.keep(&format!("{direction}.rules[{index}]"), read) {
            Some(term) => terms.push(term),
            None if is_needed => {
                let (conditions, set) = (MatchConfig::default(), SetConfig::default());
                let name = rule.name.clone();
                terms.push((TermConfig { name, conditions, set, then: Action::Reject }, Vec::new()));
            }
            None => {}
        }
    }
    let default = match filter.default {
        FilterDefault::Accept => DefaultAction::Accept,
        FilterDefault::Reject => DefaultAction::Reject,
    };
    FilterFacts { terms, default }
}

fn term(rule: &FilterRule) -> Result<(TermConfig, Vec<PrefixEntry>), String> {
    let FilterMatch { prefixes, communities: matched, as_path_contains, as_path_regex, source } =
        rule.conditions.clone().unwrap_or_default();
    let of = |field: &str, reason: String| format!("{field}: {reason}");
    let mut entries = Vec::new();
    for range in prefixes {
        let prefix = prefix(&range.cidr).map_err(|reason| of("match.prefixes", reason))?;
        entries.push(lengths(prefix, range.ge, range.le).map_err(|reason| of("match.prefixes", reason))?);
    }
    for written in &as_path_regex {
        PathRegex::new(written).map_err(|error| of("match.asPathRegex", error.to_string()))?;
    }
    let contains = as_path_contains.into_iter().map(asn).collect::<Result<_, _>>();
    let conditions = MatchConfig {
        as_path: AsPathMatch {
            contains: contains.map_err(|reason| of("match.asPathContains", reason))?,
            regex: as_path_regex,
            ..AsPathMatch::default()
        },
        communities: communities(&matched).map_err(|reason| of("match.communities", reason))?,
        peer: PeerMatchConfig {
            kind: source.map(|source| match source {
                RouteSource::Local => RouteKind::Local,
                RouteSource::Internal => RouteKind::Internal,
                RouteSource::External => RouteKind::External,
            }),
            ..PeerMatchConfig::default()
        },
        ..MatchConfig::default()
    };
    let set = rule.set.clone().unwrap_or_default();
    let add = communities(&set.add_communities).map_err(|reason| of("set.addCommunities", reason))?;
    if let Some(prepend) = set.prepend.filter(|prepend| *prepend > MOST_PREPENDED) {
        return Err(of("set.prepend", format!("{prepend}: expected up to {MOST_PREPENDED}")));
    }
    let remove =
        communities(&set.remove_communities).map_err(|reason| of("set.removeCommunities", reason))?;
    let set = SetConfig {
        local_preference: set.local_preference,
        med: set.med,
        communities: CommunityChange { add, remove, replace: None },
        prepend: set.prepend,
        next_hop: None,
    };
    let then = match rule.action {
        FilterAction::Accept => Action::Accept,
        FilterAction::Reject => Action::Reject,
        FilterAction::Next => Action::Next,
    };
    Ok((TermConfig { name: rule.name.clone(), conditions, set, then }, entries))
}

/// Prefixes within another one, if there can be any.
fn lengths(prefix: Prefix, ge: Option<u8>, le: Option<u8>) -> Result<PrefixEntry, String> {
    let (length, bits) = (prefix.length(), prefix.family().address_bits());
    let least = ge.unwrap_or(length);
    let most = le.unwrap_or(if ge.is_some() { bits } else { length });
    if length <= least && least <= most && most <= bits {
        return Ok(PrefixEntry { prefix, ge, le });
    }
    Err(format!("{prefix}: expected {length} <= ge {least} <= le {most} <= {bits}"))
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;
    use margay_api::resource::BGPPeer;
    use margay_bgp::config::{Action, MatchConfig, SetConfig, TermConfig};
    use margay_bgp::policy::PathRegex;
    use margay_policy::Selector;

    use super::{Claim, End, read};

    fn check(spec: &str, problem: Option<&str>) {
        let read =
            read(&serde_saphyr::from_str(&format!("{{metadata: {{name: tor}}, spec: {spec}}}")).unwrap());
        let facts = read.value.unwrap();
        assert_eq!(facts.is_whole(), problem.is_none(), "{spec}: {facts:?}");
        assert_eq!(facts.problems, read.problems);
        if let Some(problem) = problem {
            let named = format!("BGPPeer tor: spec.{problem}");
            assert!(
                read.problems.iter().any(|said| said.starts_with(&named)),
                "{named}: {:?}",
                read.problems
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        check("{address: 192.0.2.1, asn: 64500}", None);
        check("{peerSelector: {}}", None);
        check("{}", Some("address: expected either"));
        check("{address: 192.0.2.1, asn: 64500, peerSelector: {}}", Some("address: expected either"));
        check("{address: 192.0.2.1}", Some("asn: is missing"));
        check("{address: 192.0.2.1.1, asn: 1}", Some("address: `192.0.2.1.1`"));
        check("{address: 192.0.2.1, asn: 0}", Some("asn: 0"));
        check("{peerSelector: {}, asn: 64500}", Some("asn: nodes of peerSelector"));
        check("{address: 192.0.2.1, asn: 1, holdTimeSeconds: 1}", Some("holdTimeSeconds: 1"));
        check("{address: 192.0.2.1, asn: 1, bfd: {multiplier: 0}}", Some("bfd: multiplier is 0"));
        check("{address: 192.0.2.1, asn: 1, addPath: {direction: Both, sendLimit: 4}}", None);
        check(
            "{address: 192.0.2.1, asn: 1, addPath: {direction: Send, sendLimit: 0}}",
            Some("addPath.sendLimit: 0"),
        );
        check(
            "{address: 192.0.2.1, asn: 1, addPath: {direction: Receive, sendLimit: 1}}",
            Some("addPath.sendLimit: goes with"),
        );
        check(
            "{address: 192.0.2.1, asn: 1, import: {rules: [{action: Accept, match: {asPathRegex: ['^(1']}}]}}",
            Some("import.rules[0]: match.asPathRegex: `^(1`, column 2: unclosed group"),
        );
        check("{address: 192.0.2.1, asn: 1, sourceAddress: x}", Some("sourceAddress: `x`"));
        check(
            "{address: 192.0.2.1, asn: 1, nodeSelector: {matchExpressions: [{key: a, operator: Near}]}}",
            Some("nodeSelector.matchExpressions[0]".replace("nodeSelector.", "nodeSelector: ").as_str()),
        );
        check(
            "{address: 192.0.2.1, asn: 1, import: {rules: [{action: Accept, match: {prefixes: [{cidr: 10.0.0.1/8}]}}]}}",
            Some("import.rules[0]: match.prefixes"),
        );
        check(
            "{address: 192.0.2.1, asn: 1, export: {rules: [{action: Next, set: {addCommunities: ['1']}}]}}",
            Some("export.rules[0]: set.addCommunities: community `1`"),
        );
    }

    #[test]
    fn a_rule_that_cannot_be_read_costs_no_session_and_lets_no_route_pass_nor_with_other_attributes() {
        for (rule, rejects_all) in [
            ("{action: Accept, match: {asPathRegex: ['^(1']}}", false),
            ("{action: Next, match: {communities: [x]}}", false),
            ("{action: Next, match: {communities: [x]}, set: {med: 1}}", true),
            ("{action: Reject, match: {asPathRegex: ['^(1']}}", true),
            ("{action: Accept, set: {prepend: 33}}", true),
            ("{action: Reject, match: {prefixes: [{cidr: 10.0.0.0/8, ge: 25, le: 24}]}}", true),
        ] {
            let text = format!(
                "{{metadata: {{name: tor}}, spec: {{address: 192.0.2.1, asn: 1, import: {{rules: [{rule}], default: Accept}}}}}}"
            );
            let facts = read(&serde_saphyr::from_str(&text).unwrap()).value.unwrap();
            let import = facts.session.unwrap().own.import.unwrap();
            let terms = if rejects_all {
                let (conditions, set) = (MatchConfig::default(), SetConfig::default());
                vec![(TermConfig { name: None, conditions, set, then: Action::Reject }, vec![])]
            } else {
                vec![]
            };
            assert_eq!(import.terms, terms, "{rule}");
            assert!(facts.problems[0].contains("until it can be read"), "{:?}", facts.problems);
        }
    }

    #[test]
    fn the_schema_refuses_what_has_no_end_and_nothing_that_the_speaker_takes() {
        let definition = serde_json::to_value(BGPPeer::crd()).unwrap();
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let conditions = &spec["properties"]["import"]["properties"]["rules"]["items"]["properties"]["match"];
        let pattern = conditions["properties"]["asPathRegex"]["items"]["pattern"].as_str().unwrap();
        let pattern = regex::Regex::new(pattern).unwrap();
        for written in [
            "^64501_",
            "^64501 \\{64503,64504\\}$",
            "^$",
            "^64501( 64501)*$",
            "^(64501|64502)_[0-9]+$",
            "_645[0-9][0-9]_",
            "^64501[]_]",
            "^64501[^]_]1",
            "(((1|2)+ )*3)?",
            "[(]",
            "\\(64512\\)",
            "a]",
            "(?:1|2)",
        ] {
            assert!(PathRegex::new(written).is_ok(), "{written}");
            assert!(pattern.is_match(written), "{written}");
        }
        for written in ["^(64501", "^64501)", "_64501_[", "[0-9", "1\\", "((1)", "(1|2))"] {
            assert!(PathRegex::new(written).is_err(), "{written}");
            assert!(!pattern.is_match(written), "{written}");
        }
    }

    #[test]
    fn whom_a_malformed_session_would_be_with_is_read() {
        let router = Some(Claim::Router("192.0.2.1".parse().unwrap()));
        for (spec, claim) in [
            ("{address: 192.0.2.1}", router.clone()),
            ("{address: 192.0.2.1, asn: 1, peerSelector: {}}", router),
            ("{peerSelector: {}, asn: 1}", Some(Claim::Nodes(Selector::default()))),
            ("{address: x, asn: 1}", None),
            ("{}", None),
        ] {
            let read =
                read(&serde_saphyr::from_str(&format!("{{metadata: {{name: a}}, spec: {spec}}}")).unwrap());
            assert_eq!(read.value.unwrap().session.unwrap_err().claim, claim, "{spec}");
        }
    }

    #[test]
    fn without_a_selector_all_nodes_are_meant() {
        let read = read(
            &serde_saphyr::from_str("{metadata: {name: a}, spec: {address: '2001:db8::1', asn: 64500}}")
                .unwrap(),
        );
        let facts = read.value.unwrap();
        assert!(facts.nodes.is_everything());
        assert!(matches!(facts.session.unwrap().end, End::Router { .. }));
    }
}
