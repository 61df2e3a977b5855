//! The speaker's configuration, from the nodes, the objects and the agent's settings. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use margay_api::resource::{Mesh, SecretKey};
use margay_bgp::{
    Asn, BgpIdentifier, HoldTime, Prefix,
    config::{
        Action, AddPathOption, CommunityChange, Config, ConfigError, DefaultAction, MatchConfig, Neighbor,
        Network, NextHopOption, Password, PeerMatchConfig, PolicyConfig, PrefixEntry, SetConfig, TermConfig,
    },
    policy::RouteKind,
};
use margay_policy::Selector;

use crate::{
    config::Bgp,
    decide::{PeerNode, Topology},
    watch::{
        Claim, ConfigurationFacts, End, FilterFacts, OwnOptions, PeerFacts, SecretFacts, ServiceRanges,
        Session, SessionOptions,
    },
};

/// Hops that a session between nodes of different ASes may span: they need not be on one link.
const BETWEEN_NODES: u8 = 64;

/// Everything that decides about the sessions of this node.
pub(super) struct Known<'a> {
    pub(super) settings: &'a Bgp,
    pub(super) topology: &'a Topology,
    pub(super) configuration: &'a ConfigurationFacts,
    pub(super) peers: &'a BTreeMap<String, PeerFacts>,
    /// The Secrets that were listed, whether they are there or not.
    pub(super) secrets: &'a BTreeMap<String, Option<SecretFacts>>,
    /// Prefixes of Services to announce.
    pub(super) services: BTreeSet<Prefix>,
}

/// The speaker's configuration, and what was wrong on the way to it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) config: Config,
    pub(super) problems: Vec<String>,
}

/// `None` as long as the node has no address.
pub(super) fn speaker(known: &Known<'_>) -> Option<Outcome> {
    let Known { settings, topology, configuration, .. } = known;
    let mut config = Config::new(known.asn_of(&topology.own), router_id(topology)?);
    if let Some(hold_time) = configuration.hold_time.or(HoldTime::new(settings.hold_time)) {
        config.hold_time = hold_time;
    }
    if let Some(port) = configuration.listen_port {
        for address in &mut config.listen {
            *address = SocketAddr::new(address.ip(), port);
        }
    }
    config.connect_retry = configuration.connect_retry.unwrap_or(config.connect_retry);
    // Whom the agent peers with, and what it tells, is what its objects and settings say.
    config.ebgp_requires_policy = false;
    config.cluster_id = topology.own.facts.reflects_for;

    // Nodes and routers reach each other through the default route as often as on one link, and a reflector, or a node
    // that hears of another's pods by a router, has no other way to the next hops.
    config.kernel.resolve_via_default = true;

    let mut sessions = Sessions { problems: configuration.problems.clone(), ..Sessions::default() };
    sessions.problems.extend(topology.own.facts.problems.iter().cloned());
    for (name, facts) in known.peers.iter().filter(|(_, facts)| facts.concerns(&topology.own.labels)) {
        let object = format!("BGPPeer {name}");
        sessions.problems.extend(facts.problems.iter().cloned());
        match &facts.session {
            Ok(session) => known.add(name, &object, facts, session, &config, &mut sessions),
            Err(malformed) => {
                for address in known.claimed(&facts.nodes, malformed.claim.as_ref()) {
                    sessions.claims.entry(address).or_insert_with(|| object.clone());
                }
            }
        }
    }
    for (object, candidate) in known.routers().chain(known.nodes(&config)) {
        sessions.add_plain(&object, candidate, &config);
    }
    let Sessions { candidates, problems, .. } = sessions;
    for candidate in candidates.into_values() {
        config.prefix_lists.extend(candidate.prefix_lists);
        config.policies.extend(candidate.policies);
        config.neighbors.push(candidate.neighbor);
    }
    let blocks = topology.blocks.iter().filter_map(|it| Prefix::masked(it.network(), it.prefix()));
    let mut networks: BTreeMap<Prefix, bool> = blocks.map(|prefix| (prefix, true)).collect();
    // No blackhole beneath: a process of the node looks up its route before kube-proxy rewrites the address.
    networks.extend(known.services.iter().map(|prefix| (*prefix, false)));
    config.networks = networks.into_iter().map(|(prefix, blackhole)| Network { prefix, blackhole }).collect();
    Some(Outcome { config, problems })
}

/// The Secrets that sessions of this node ask for.
pub(super) fn secrets(topology: &Topology, peers: &BTreeMap<String, PeerFacts>) -> BTreeSet<String> {
    let concerned = peers.values().filter(|facts| facts.concerns(&topology.own.labels));
    let sessions = concerned.filter_map(|facts| facts.session.as_ref().ok());
    sessions.filter_map(|session| Some(session.options.password.as_ref()?.name.clone())).collect()
}

/// A neighbour with the policies that it takes.
struct Candidate {
    neighbor: Neighbor,
    prefix_lists: BTreeMap<String, Vec<PrefixEntry>>,
    policies: BTreeMap<String, PolicyConfig>,
}

/// The sessions so far.
#[derive(Default)]
struct Sessions {
    /// Which `BGPPeer` has an address, whether there is a session or not: another session in its place would be one
    /// without its password and filters.
    claims: BTreeMap<IpAddr, String>,
    candidates: BTreeMap<IpAddr, Candidate>,
    problems: Vec<String>,
}

impl Sessions {
    /// Whether an address is an object's from now on. That it is another's is noted.
    fn claim(&mut self, address: IpAddr, object: &str) -> bool {
        match self.claims.entry(address) {
            Entry::Vacant(entry) => {
                entry.insert(object.to_owned());
                true
            }
            Entry::Occupied(entry) => {
                let other = entry.get();
                // Two nodes may say that they have one address.
                if other != object {
                    let problem = format!("{object}: {address} is with {other}; the first by name counts");
                    self.problems.push(problem);
                }
                false
            }
        }
    }

    /// Adds a session that no `BGPPeer` asks for, if its address is nobody's.
    fn add_plain(&mut self, object: &str, candidate: Candidate, config: &Config) {
        let address = candidate.neighbor.address;
        if self.claims.contains_key(&address) || self.candidates.contains_key(&address) {
            return;
        }
        match check(config, &candidate) {
            Ok(()) => drop(self.candidates.insert(address, candidate)),
            Err(reason) => self.problems.push(format!("{object}: {reason}")),
        }
    }
}

/// Which end of a session between nodes this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// That of `nodeSelector`.
    Own,
    /// That of `peerSelector`.
    Peer,
}

/// Another node at the other end of a session.
struct Meeting<'a> {
    name: &'a str,
    node: &'a PeerNode,
    /// Which of its addresses, if both nodes have one of a family.
    address: Option<IpAddr>,
    side: Side,
}

impl Known<'_> {
    fn asn_of(&self, node: &PeerNode) -> Asn {
        node.facts.asn.or(self.configuration.asn).unwrap_or(self.settings.asn)
    }

    /// Adds the sessions of a `BGPPeer`, those left out that cannot be.
    fn add(
        &self,
        name: &str,
        object: &str,
        facts: &PeerFacts,
        session: &Session,
        config: &Config,
        sessions: &mut Sessions,
    ) {
        let mut ends = self.ends(object, facts, session, &mut sessions.problems);
        ends.retain(|(neighbor, _)| sessions.claim(neighbor.address, object));
        let password = match session.options.password.as_ref().map(|key| self.password(key)) {
            None => None,
            Some(Ok(Some(password))) => Some(password),
            // Not listed yet: the session waits.
            Some(Ok(None)) => return,
            Some(Err(reason)) => {
                let problem = format!("{object}: spec.password: {reason}; there is no session without it");
                sessions.problems.push(problem);
                return;
            }
        };
        for (neighbor, side) in ends {
            let neighbor = with_options(neighbor, &session.options, side, password.clone());
            let candidate = self.candidate(name, neighbor, session, side);
            match check(config, &candidate) {
                Ok(()) => drop(sessions.candidates.insert(candidate.neighbor.address, candidate)),
                Err(reason) => sessions.problems.push(format!("{object}: {reason}")),
            }
        }
    }

    /// The addresses that a malformed `BGPPeer` would have sessions with.
    fn claimed(&self, nodes: &Selector, claim: Option<&Claim>) -> Vec<IpAddr> {
        match claim {
            Some(Claim::Router(address)) => vec![*address],
            Some(Claim::Nodes(peers)) => {
                self.meetings(nodes, peers).filter_map(|meeting| meeting.address).collect()
            }
            None => Vec::new(),
        }
    }

    /// The password; `None` when its Secret was not listed yet.
    fn password(&self, key: &SecretKey) -> Result<Option<Password>, String> {
        let SecretKey { name, key } = key;
        match self.secrets.get(name) {
            None => Ok(None),
            Some(None) => Err(format!("there is no Secret {name} in the agent's namespace that it may read")),
            Some(Some(entries)) => match entries.get(key) {
                None => Err(format!("Secret {name} has no entry `{key}`")),
                Some(Err(reason)) => Err(format!("entry `{key}` of Secret {name} {reason}")),
                Some(Ok(password)) => Ok(Some(password.clone())),
            },
        }
    }

    /// The neighbours that a session is with, without its options.
    fn ends(
        &self,
        object: &str,
        facts: &PeerFacts,
        session: &Session,
        problems: &mut Vec<String>,
    ) -> Vec<(Neighbor, Side)> {
        match &session.end {
            End::Router { address, asn, port, interface, source_address } => {
                let description = Some(match &session.description {
                    Some(text) => format!("{object}: {text}"),
                    None => object.to_owned(),
                });
                let mut neighbor = self.reached(Neighbor { description, ..Neighbor::new(*address, *asn) });
                neighbor.port = port.unwrap_or(neighbor.port);
                neighbor.interface.clone_from(interface);
                if interface.is_some() {
                    neighbor.local_address = None;
                }
                neighbor.local_address = source_address.or(neighbor.local_address);
                vec![(neighbor, Side::Own)]
            }
            End::Nodes(peers) => {
                let mut ends = Vec::new();
                for Meeting { name, node, address, side } in self.meetings(&facts.nodes, peers) {
                    match address {
                        Some(address) => ends.push((self.node(name, node, address), side)),
                        None => problems.push(format!(
                            "{object}: node {name} and this one have no addresses of one family"
                        )),
                    }
                }
                ends
            }
        }
    }

    /// The other nodes that this one meets by a `nodeSelector` and a `peerSelector`. Where both choose both nodes, each
    /// end is that of `nodeSelector`.
    fn meetings(&self, nodes: &Selector, peers: &Selector) -> impl Iterator<Item = Meeting<'_>> {
        let own = &self.topology.own;
        self.topology.others.iter().filter_map(move |(name, node)| {
            let side = if nodes.matches(&own.labels) && peers.matches(&node.labels) {
                Side::Own
            } else if peers.matches(&own.labels) && nodes.matches(&node.labels) {
                Side::Peer
            } else {
                return None;
            };
            Some(Meeting { name, node, address: common(node, own), side })
        })
    }

    /// A neighbour with its policies, as a `BGPPeer` wants them.
    fn candidate(&self, name: &str, mut neighbor: Neighbor, session: &Session, side: Side) -> Candidate {
        let own = match side {
            Side::Own => session.own.clone(),
            Side::Peer => {
                let (import, export, is_whole) = (None, None, true);
                OwnOptions { next_hop_self: false, route_reflector_client: false, import, export, is_whole }
            }
        };
        neighbor.route_reflector_client = own.route_reflector_client;
        let mut policies = Policies::default();
        if let Some(filter) = &own.import {
            let policy = format!("bgppeer-{name}-import");
            neighbor.import = policies.add(policy, Vec::new(), Some(filter));
        }
        let mut terms = self.announcement_terms(&mut policies);
        if own.next_hop_self {
            let set = SetConfig { next_hop: Some(NextHopOption::Own), ..SetConfig::default() };
            terms.push(TermConfig {
                name: Some("next hop self".into()),
                conditions: MatchConfig::default(),
                set,
                then: Action::Next,
            });
        }
        let is_own = own.next_hop_self || own.export.is_some();
        let policy = if is_own { format!("bgppeer-{name}-export") } else { ANNOUNCED.to_owned() };
        neighbor.export = policies.add(policy, terms, own.export.as_ref());
        policies.with(neighbor)
    }

    /// The routers of the agent's own settings, each with the words for it.
    fn routers(&self) -> impl Iterator<Item = (String, Candidate)> {
        self.settings.peers.iter().enumerate().map(|(index, peer)| {
            let neighbor = self.reached(Neighbor::new(peer.address, peer.asn));
            let mut policies = Policies::default();
            let terms = self.announcement_terms(&mut policies);
            let export = policies.add(ANNOUNCED.to_owned(), terms, None);
            (
                format!("bgp.peers[{index}] of the agent's file"),
                policies.with(Neighbor { export, ..neighbor }),
            )
        })
    }

    /// The other nodes that this one has a session with by itself: all of a mesh, or route reflectors and their clients.
    fn nodes(&self, config: &Config) -> impl Iterator<Item = (String, Candidate)> {
        let own = &self.topology.own;
        let reflects = |node: &PeerNode| node.facts.reflects_for.is_some();
        let has_reflector = reflects(own) || self.topology.others.values().any(reflects);
        let mesh = match self.configuration.mesh {
            Some(mesh) => mesh,
            None if self.settings.mesh => Mesh::Auto,
            None => Mesh::Disabled,
        };
        let meshed = match mesh {
            Mesh::Full => true,
            Mesh::Auto => !has_reflector,
            Mesh::Disabled => false,
        };
        let asn = config.asn;
        self.topology.others.iter().filter_map(move |(name, node)| {
            let is_reflected = reflects(own) || reflects(node);
            if !meshed && !is_reflected {
                return None;
            }
            // One that says it has this node's own address is no neighbour: that would be this node.
            let address = common(node, own).filter(|address| !own.addresses.contains(address))?;
            let mut neighbor = self.node(name, node, address);
            neighbor.route_reflector_client = reflects(own) && !reflects(node) && neighbor.remote_as == asn;
            let mut policies = Policies::default();
            // Nodes reach Services by themselves. Reflectors pass them on to those who do not.
            let (policy, mut terms) = if reflects(node) {
                (ANNOUNCED, Vec::new())
            } else {
                (TO_NODES, hidden_services(&self.configuration.services, &mut policies))
            };
            terms.extend(self.announcement_terms(&mut policies));
            neighbor.export = policies.add(policy.to_owned(), terms, None);
            neighbor.bfd = self.configuration.bfd;
            Some((format!("node {name}"), policies.with(neighbor)))
        })
    }

    /// Another node as a neighbour.
    fn node(&self, name: &str, node: &PeerNode, address: IpAddr) -> Neighbor {
        let asn = self.asn_of(node);
        let neighbor = self.reached(Neighbor::new(address, asn));
        let is_internal = asn == self.asn_of(&self.topology.own);
        Neighbor {
            description: Some(format!("node {name}")),
            port: self.configuration.listen_port.unwrap_or(neighbor.port),
            ttl: (!is_internal).then_some(BETWEEN_NODES),
            ..neighbor
        }
    }

    /// From which of the node's addresses a neighbour is reached, and what it is told as next hop.
    fn reached(&self, neighbor: Neighbor) -> Neighbor {
        let own = &self.topology.own;
        Neighbor {
            local_address: own.address(neighbor.address.is_ipv4()),
            next_hop_ipv4: match own.address(true) {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            },
            next_hop_ipv6: match own.address(false) {
                Some(IpAddr::V6(address)) => Some(address),
                _ => None,
            },
            graceful_restart: self.configuration.graceful_restart.unwrap_or_default(),
            ..neighbor
        }
    }

    /// What is said with the node's own routes.
    fn announcement_terms(&self, policies: &mut Policies) -> Vec<TermConfig> {
        let numbered = self.configuration.announcements.iter().enumerate();
        let terms = numbered.map(|(index, announcement)| {
            let list = format!("announcements-{index}");
            let prefix = announcement.prefix;
            let all = PrefixEntry { prefix, ge: Some(prefix.length()), le: None };
            policies.prefix_lists.insert(list.clone(), vec![all]);
            TermConfig {
                name: Some(format!("announcements[{index}]")),
                conditions: MatchConfig {
                    prefix: vec![list],
                    peer: PeerMatchConfig { kind: Some(RouteKind::Local), ..PeerMatchConfig::default() },
                    ..MatchConfig::default()
                },
                set: SetConfig {
                    local_preference: announcement.local_preference,
                    communities: CommunityChange {
                        add: announcement.communities.clone(),
                        ..CommunityChange::default()
                    },
                    ..SetConfig::default()
                },
                then: Action::Next,
            }
        });
        terms.collect()
    }
}

/// The policy towards whoever is told all.
const ANNOUNCED: &str = "announced";
/// The policy towards nodes.
const TO_NODES: &str = "to-nodes";

/// Policies of one neighbour, and the lists that they name.
#[derive(Default)]
struct Policies {
    prefix_lists: BTreeMap<String, Vec<PrefixEntry>>,
    policies: BTreeMap<String, PolicyConfig>,
}

impl Policies {
    /// Adds a policy of these terms and those of a filter behind them, and says its name; none when all would pass as
    /// it is.
    fn add(
        &mut self,
        name: String,
        mut terms: Vec<TermConfig>,
        filter: Option<&FilterFacts>,
    ) -> Option<String> {
        let mut default = DefaultAction::Accept;
        if let Some(filter) = filter {
            default = filter.default;
            for (index, (term, prefixes)) in filter.terms.iter().enumerate() {
                let mut term = term.clone();
                if !prefixes.is_empty() {
                    let list = format!("{name}-{index}");
                    self.prefix_lists.insert(list.clone(), prefixes.clone());
                    term.conditions.prefix = vec![list];
                }
                terms.push(term);
            }
        }
        if terms.is_empty() && default == DefaultAction::Accept {
            return None;
        }
        self.policies.insert(name.clone(), PolicyConfig { terms, default });
        Some(name)
    }

    fn with(self, neighbor: Neighbor) -> Candidate {
        let Self { prefix_lists, policies } = self;
        Candidate { neighbor, prefix_lists, policies }
    }
}

/// A term that keeps what is announced of Services: host routes, and the ranges of cluster IPs as they are. A range may
/// hold the pods' blocks too, such as 0.0.0.0/0.
fn hidden_services(ranges: &ServiceRanges, policies: &mut Policies) -> Vec<TermConfig> {
    if ranges.is_empty() {
        return Vec::new();
    }
    let whole = ranges.cluster.iter().map(|prefix| PrefixEntry { prefix: *prefix, ge: None, le: None });
    let all = ranges.cluster.iter().chain(&ranges.external).chain(&ranges.load_balancer);
    let hosts = all.map(|prefix| {
        let bits = prefix.family().address_bits();
        PrefixEntry { prefix: *prefix, ge: Some(bits), le: None }
    });
    policies.prefix_lists.insert("services".into(), whole.chain(hosts).collect());
    vec![TermConfig {
        name: Some("services".into()),
        conditions: MatchConfig { prefix: vec!["services".into()], ..MatchConfig::default() },
        set: SetConfig::default(),
        then: Action::Reject,
    }]
}

fn with_options(
    neighbor: Neighbor,
    options: &SessionOptions,
    side: Side,
    password: Option<Password>,
) -> Neighbor {
    // The object says it for one end, and the other end does the opposite.
    let add_path = match (side, options.add_path) {
        (Side::Peer, AddPathOption::Receive) => AddPathOption::Send,
        (Side::Peer, AddPathOption::Send) => AddPathOption::Receive,
        (_, either) => either,
    };
    Neighbor {
        password,
        passive: options.passive,
        ttl: options.ttl.or(neighbor.ttl).filter(|_| options.ttl_security.is_none()),
        ttl_security: options.ttl_security,
        hold_time: options.hold_time,
        families: options.families.clone(),
        graceful_restart: options.graceful_restart.unwrap_or(neighbor.graceful_restart),
        max_prefixes: options.max_prefixes,
        bfd: options.bfd,
        add_path,
        add_path_limit: options.add_path_limit.filter(|_| side == Side::Own),
        ..neighbor
    }
}

/// Whether the speaker would take a neighbour; if not, why, without what only the speaker's configuration has.
fn check(config: &Config, candidate: &Candidate) -> Result<(), String> {
    let alone = Config {
        neighbors: vec![candidate.neighbor.clone()],
        prefix_lists: candidate.prefix_lists.clone(),
        policies: candidate.policies.clone(),
        ..config.clone()
    };
    match alone.check() {
        Ok(_) => Ok(()),
        Err(ConfigError::Value { path, reason }) => {
            Err(format!("{}: {reason}", path.strip_prefix("neighbors[0].").unwrap_or(&path)))
        }
        Err(error @ ConfigError::Syntax(_)) => Err(error.to_string()),
    }
}

/// One session carries both families: over IPv4 where both nodes have it.
fn common(node: &PeerNode, own: &PeerNode) -> Option<IpAddr> {
    [true, false].into_iter().find_map(|is_ipv4| own.address(is_ipv4).and(node.address(is_ipv4)))
}

/// What the node's annotation says, or the node's IPv4 address; without one, a number made from its name (RFC 6286 asks
/// only that it is unique within the autonomous system).
fn router_id(topology: &Topology) -> Option<BgpIdentifier> {
    let Topology { name, own, .. } = topology;
    if let Some(router_id) = own.facts.router_id.filter(|_| !own.addresses.is_empty()) {
        return Some(router_id);
    }
    if let Some(IpAddr::V4(address)) = own.address(true) {
        return BgpIdentifier::new(address);
    }
    own.address(false)?;
    // FNV-1a: a hash that is the same in every build.
    let step = |hash: u32, octet: u8| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
    let hash = name.bytes().fold(0x811c_9dc5, step);
    BgpIdentifier::new(Ipv4Addr::from(hash | 1))
}

#[cfg(test)]
mod tests;
