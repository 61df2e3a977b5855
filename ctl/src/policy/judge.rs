//! A pair of parties before the reference evaluator.
//!
//! Only what concerns the pair is handed to the evaluator: both pods, their namespaces, the policies there, those of the
//! cluster that are about one of them, and their nodes. That keeps a matrix of many pods quick, and lets parties without
//! a known address be judged:
//!
//! An `ipBlock` (or a network of a ClusterNetworkPolicy) matches addresses, and a pod that exists only as a manifest has none. All that is taken for granted of
//! its address is that it is in one of the networks that users name, or a private one (RFC 1918, 6598 or 4193). A block
//! that holds all of those, such as `0.0.0.0/0` or the same except `169.254.169.254/32`, matches it. A block that holds
//! some, such as `10.0.0.0/8`, may match it or not: it is taken not to, and [`View::doubts`] says so. Others do not match
//! it. A pod in its node's network without a known address is on one of the nodes, nobody knows which.

use std::{fmt, net::IpAddr, sync::Arc};

use anyhow::bail;
use ipnetwork::IpNetwork;
use margay_policy::{
    Action, Block, ClusterPolicy, ClusterRule, Objects, Peer, Peers, Pod, Policy, PolicyId, PolicyRef, Ports,
    Rule,
    evaluate::{Decision, Flow, Side, evaluate, evaluate_audited},
};

use super::{
    party::{Party, ResolvedPort},
    source::Source,
};

/// Where a pod without a known address may be, if nobody says it.
const PRIVATE: [(&str, Family); 5] = [
    ("10.0.0.0/8", Family::Ipv4),
    ("100.64.0.0/10", Family::Ipv4),
    ("172.16.0.0/12", Family::Ipv4),
    ("192.168.0.0/16", Family::Ipv4),
    ("fc00::/7", Family::Ipv6),
];

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Stands for the address of a party whose own is not known. No host has either (RFC 1122 section 3.2.1.3,
    /// RFC 6666), and no block is compared with them.
    fn placeholder(self, way: Way) -> IpAddr {
        let last = match way {
            Way::Egress => 1,
            Way::Ingress => 2,
        };
        match self {
            Self::Ipv4 => IpAddr::from([0, 0, 0, last]),
            Self::Ipv6 => IpAddr::from([0x100, 0, 0, 0, 0, 0, 0, u16::from(last)]),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A direction, seen from the pod that a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The source's policies.
    Egress,
    /// The destination's.
    Ingress,
}

impl Way {
    /// What a policy says about it.
    pub(crate) fn rules(self, policy: &Policy) -> Option<&Vec<Rule>> {
        match self {
            Self::Egress => policy.egress.as_ref(),
            Self::Ingress => policy.ingress.as_ref(),
        }
    }

    fn rules_mut(self, policy: &mut Policy) -> Option<&mut Vec<Rule>> {
        match self {
            Self::Egress => policy.egress.as_mut(),
            Self::Ingress => policy.ingress.as_mut(),
        }
    }

    /// What a policy of the cluster says about it.
    pub(crate) fn cluster_rules(self, policy: &ClusterPolicy) -> &Vec<ClusterRule> {
        match self {
            Self::Egress => &policy.egress,
            Self::Ingress => &policy.ingress,
        }
    }

    fn cluster_rules_mut(self, policy: &mut ClusterPolicy) -> &mut Vec<ClusterRule> {
        match self {
            Self::Egress => &mut policy.egress,
            Self::Ingress => &mut policy.ingress,
        }
    }

    pub(crate) fn of(self, decision: &Decision) -> &Side {
        match self {
            Self::Egress => &decision.egress,
            Self::Ingress => &decision.ingress,
        }
    }
}

/// Why policy does not decide as it does elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exempt {
    /// A pod cannot block access to itself.
    Itself,
    /// A node reaches its pods whatever policies say.
    FromOwnNode,
    /// A pod reaches its node whatever NetworkPolicies say: a ClusterNetworkPolicy alone can close that way.
    ToOwnNode,
}

/// Which part of a rule does not match a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    Peer,
    Port,
    Both,
}

/// A pair in each address family that both have.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) exempt: Option<Exempt>,
    pub(crate) views: Vec<View>,
}

/// A pair in one address family.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) family: Family,
    exempt: Option<Exempt>,
    objects: Objects,
    /// The same where those peers match of which it is not known, by what their rules do: as it opens most and least.
    others: Vec<Objects>,
    source: IpAddr,
    destination: IpAddr,
    /// Peers of which it is not known whether they match, with their policies.
    doubtful: Vec<(Way, PolicyId, Peer)>,
}

impl Pair {
    pub(crate) fn new(source: &Source, from: Party<'_>, to: Party<'_>) -> anyhow::Result<Self> {
        let same = match (from, to) {
            // What a template makes reaches others that it makes as it reaches any pod.
            (Party::Pod(from, _), Party::Pod(to, facts)) => {
                from.name == to.name && !(facts.template && to.in_pod_network())
            }
            (Party::Address(from), Party::Address(to)) => from == to,
            _ => false,
        };
        let exempt = match () {
            () if same => Some(Exempt::Itself),
            () if own_node(from, to) => Some(Exempt::FromOwnNode),
            () if own_node(to, from) => Some(Exempt::ToOwnNode),
            () => None,
        };
        let known = [addresses(source, from), addresses(source, to)];
        let has = |addresses: &[IpAddr], family| addresses.iter().any(|own| Family::of(*own) == family);
        let families: Vec<Family> = match &known {
            [from, to] if from.is_empty() && to.is_empty() => {
                let said = |family: &Family| {
                    source.pod_networks.iter().any(|network| Family::of(network.ip()) == *family)
                };
                let said: Vec<Family> = Family::BOTH.into_iter().filter(said).collect();
                if said.is_empty() { vec![Family::Ipv4] } else { said }
            }
            known => {
                let both = |family: &Family| known.iter().all(|own| own.is_empty() || has(own, *family));
                Family::BOTH.into_iter().filter(both).collect()
            }
        };
        if families.is_empty() {
            bail!(
                "{from} and {to} have no address family in common: {} and {}",
                list(&known[0]),
                list(&known[1])
            );
        }
        let view = |family| View { exempt, ..View::new(source, family, (from, to), &known) };
        Ok(Self { exempt, views: families.into_iter().map(view).collect() })
    }
}

impl View {
    fn new(
        source: &Source,
        family: Family,
        (from, to): (Party<'_>, Party<'_>),
        known: &[Vec<IpAddr>; 2],
    ) -> Self {
        let first = |known: &[IpAddr]| known.iter().copied().find(|own| Family::of(*own) == family);
        let (from_address, to_address) = (first(&known[0]), first(&known[1]));
        let mut view = Self {
            family,
            exempt: None,
            objects: Objects::default(),
            others: Vec::new(),
            source: from_address.unwrap_or(family.placeholder(Way::Egress)),
            destination: to_address.unwrap_or(family.placeholder(Way::Ingress)),
            doubtful: Vec::new(),
        };
        view.insert(source, from.subject(), view.source);
        view.insert(source, to.subject(), view.destination);
        let here = [from_address, to_address];
        let nodes = source.objects.nodes.iter();
        let nodes = nodes.filter(|(_, node)| here.iter().flatten().any(|own| node.addresses.contains(own)));
        view.objects.nodes = nodes.map(|(name, node)| (name.clone(), node.clone())).collect();
        let networks = networks(&source.pod_networks, family);
        let whole = view.objects.clone();
        let unknown = [(Way::Egress, to, to_address), (Way::Ingress, from, from_address)];
        let unknown = || unknown.into_iter().filter(|(_, _, address)| address.is_none());
        for (way, far, _) in unknown() {
            each_rule(&mut view.objects, way, |policy, _, peers| {
                settle(peers, |peer| {
                    let share = peer_share(peer, far, &networks);
                    if share == Some(Share::Some) {
                        view.doubtful.push((way, policy.clone(), peer.clone()));
                    }
                    share.map(|share| share == Share::All)
                });
            });
        }
        if view.doubtful.is_empty() {
            return view;
        }
        for (opens, passes) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut other = whole.clone();
            for (way, far, _) in unknown() {
                each_rule(&mut other, way, |_, action, peers| {
                    let guess = match action {
                        Action::Accept => opens,
                        Action::Deny => !opens,
                        Action::Pass => passes,
                    };
                    settle(peers, |peer| {
                        let share = peer_share(peer, far, &networks)?;
                        Some(share == Share::All || (share == Share::Some && guess))
                    });
                });
            }
            view.others.push(other);
        }
        view
    }

    fn insert(&mut self, source: &Source, pod: Option<&Pod>, address: IpAddr) {
        let Some(pod) = pod else { return };
        let mut pod = pod.clone();
        pod.addresses = vec![address];
        pod.announced.clear();
        let namespace = pod.name.namespace.to_string();
        let first = PolicyRef { namespace: namespace.clone(), name: String::new() };
        let own = source.objects.policies.range(first..).take_while(|(name, _)| name.namespace == namespace);
        self.objects.policies.extend(own.map(|(name, policy)| (name.clone(), policy.clone())));
        let cluster =
            source.objects.cluster_policies.iter().filter(|(_, policy)| source.is_subject(policy, &pod));
        self.objects.cluster_policies.extend(cluster.map(|(name, policy)| (name.clone(), policy.clone())));
        if let Some(known) = source.objects.namespaces.get(&namespace) {
            self.objects.namespaces.insert(namespace, known.clone());
        }
        while self.objects.pods.contains_key(&pod.name) {
            // Another pod of the same template. No rule looks at a pod's name.
            pod.name.name = format!("{}'", pod.name.name).into();
        }
        self.objects.pods.insert(pod.name.clone(), Arc::new(pod));
    }

    pub(crate) fn decide(&self, port: ResolvedPort) -> Decision {
        evaluate(&self.objects, &self.flow(port))
    }

    /// Whether the connection may be made.
    pub(crate) fn allows(&self, port: ResolvedPort) -> bool {
        self.passes(&self.decide(port))
    }

    /// Whether that depends on an address that is not known.
    pub(crate) fn uncertain(&self, port: ResolvedPort) -> bool {
        let allows = self.allows(port);
        self.others.iter().any(|other| self.passes(&evaluate(other, &self.flow(port))) != allows)
    }

    /// What would close it, if the policies in audit were enforced; `None` if nothing would, or something does already.
    pub(crate) fn audit(&self, port: ResolvedPort) -> Option<Decision> {
        let audited = evaluate_audited(&self.objects, &self.flow(port));
        (self.allows(port) && !self.passes(&audited)).then_some(audited)
    }

    fn passes(&self, decision: &Decision) -> bool {
        match self.exempt {
            Some(Exempt::Itself | Exempt::FromOwnNode) => true,
            Some(Exempt::ToOwnNode) => !matches!(decision.egress, Side::Denied { .. }),
            None => decision.allowed(),
        }
    }

    fn flow(&self, port: ResolvedPort) -> Flow {
        Flow {
            source: self.source,
            destination: self.destination,
            protocol: port.protocol,
            port: port.number,
        }
    }

    /// Whether this policy opens the way by itself.
    pub(crate) fn opens(&self, policy: &PolicyRef, way: Way, port: ResolvedPort) -> bool {
        self.objects.policies.get(policy).is_some_and(|policy| self.alone(policy.clone(), way, port))
    }

    /// Why a rule of a policy does not open the way, found by taking its conditions away.
    pub(crate) fn miss(&self, policy: &PolicyRef, rule: usize, way: Way, port: ResolvedPort) -> Option<Miss> {
        let policy = self.objects.policies.get(policy)?;
        let rule = way.rules(policy)?.get(rule)?;
        let with = |rule: Rule| {
            let mut policy = policy.clone();
            if let Some(rules) = way.rules_mut(&mut policy) {
                *rules = vec![rule];
            }
            self.alone(policy, way, port)
        };
        if with(rule.clone()) {
            return None;
        }
        Some(match () {
            () if with(Rule { peers: Peers::Any, ports: rule.ports.clone() }) => Miss::Peer,
            () if with(Rule { peers: rule.peers.clone(), ports: Ports::Any }) => Miss::Port,
            () => Miss::Both,
        })
    }

    fn alone(&self, policy: Policy, way: Way, port: ResolvedPort) -> bool {
        let objects = Objects {
            namespaces: self.objects.namespaces.clone(),
            pods: self.objects.pods.clone(),
            policies: [(policy.name.clone(), policy)].into(),
            ..Objects::default()
        };
        matches!(way.of(&evaluate(&objects, &self.flow(port))), Side::Allowed { .. })
    }

    /// Peers that might match the far end if its address were known, of policies that are wanted.
    pub(crate) fn doubts(
        &self,
        way: Way,
        wanted: impl Fn(&PolicyId) -> bool,
    ) -> impl Iterator<Item = (&PolicyId, &Peer)> {
        let here = self.doubtful.iter().filter(move |(of, policy, _)| *of == way && wanted(policy));
        here.map(|(_, policy, peer)| (policy, peer))
    }
}

/// The addresses that are a party's own, as far as they are known.
pub(crate) fn addresses(source: &Source, party: Party<'_>) -> Vec<IpAddr> {
    match party {
        Party::Address(address) => vec![address],
        Party::Pod(pod, _) if pod.finished => Vec::new(),
        Party::Pod(pod, _) if pod.host_network => pod.addresses.clone(),
        Party::Pod(pod, _) => {
            let own = |address: &&IpAddr| source.owner(**address) == Some(&pod.name);
            pod.addresses.iter().filter(own).copied().collect()
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Whether the first is the node of the second.
fn own_node(node: Party<'_>, pod: Party<'_>) -> bool {
    let (Some(_), Party::Pod(_, of_pod)) = (pod.subject(), pod) else { return false };
    match node {
        Party::Address(address) => of_pod.node_addresses.contains(&address),
        Party::Pod(node, facts) => node.host_network && facts.node.is_some() && facts.node == of_pod.node,
    }
}

/// Goes through the peers of all rules of a direction. What a NetworkPolicy's rules do is to accept.
fn each_rule(objects: &mut Objects, way: Way, mut visit: impl FnMut(&PolicyId, Action, &mut Peers)) {
    for (name, policy) in &mut objects.policies {
        let name = PolicyId::Network(name.clone());
        for rule in way.rules_mut(policy).into_iter().flatten() {
            visit(&name, Action::Accept, &mut rule.peers);
        }
    }
    for (name, policy) in &mut objects.cluster_policies {
        let name = PolicyId::Cluster(name.clone());
        for rule in way.cluster_rules_mut(policy) {
            visit(&name, rule.action, &mut rule.peers);
        }
    }
}

/// Makes everything of peers that match, and nothing of those that do not; `None` leaves one to the evaluator.
fn settle(peers: &mut Peers, mut matches: impl FnMut(&Peer) -> Option<bool>) {
    let Peers::Of(all) = peers else { return };
    let mut matched = false;
    all.retain(|peer| match matches(peer) {
        None => true,
        Some(matches) => {
            matched |= matches;
            false
        }
    });
    if matched {
        *peers = Peers::Any;
    }
}

/// How many of the addresses that a far end may have a peer matches; `None` where that does not depend on the address.
fn peer_share(peer: &Peer, far: Party<'_>, networks: &[IpNetwork]) -> Option<Share> {
    match peer {
        Peer::Pods { .. } => None,
        Peer::Block(block) => Some(share(block, networks)),
        Peer::Nodes(nodes) => Some(match far {
            Party::Pod(pod, _) if pod.host_network && nodes.is_everything() => Share::All,
            Party::Pod(pod, _) if pod.host_network => Share::Some,
            _ => Share::None,
        }),
    }
}

/// Where an address that is not known may be.
fn networks(said: &[IpNetwork], family: Family) -> Vec<IpNetwork> {
    let said: Vec<IpNetwork> =
        said.iter().copied().filter(|network| Family::of(network.ip()) == family).collect();
    if !said.is_empty() {
        return said;
    }
    let private = PRIVATE.iter().filter(|(_, of)| *of == family);
    private.filter_map(|(network, _)| network.parse().ok()).collect()
}

/// How many of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    All,
    Some,
    None,
}

/// How many of the addresses of some networks are in a block.
fn share(block: &Block, networks: &[IpNetwork]) -> Share {
    let within = |inner: &IpNetwork, outer: &IpNetwork| {
        outer.prefix() <= inner.prefix() && outer.contains(inner.network())
    };
    let touches = |a: &IpNetwork, b: &IpNetwork| within(a, b) || within(b, a);
    let whole = |network: &IpNetwork| {
        within(network, &block.cidr) && !block.except.iter().any(|except| touches(except, network))
    };
    let part = |network: &IpNetwork| {
        touches(network, &block.cidr) && !block.except.iter().any(|except| within(network, except))
    };
    match () {
        () if networks.iter().all(whole) => Share::All,
        () if networks.iter().any(part) => Share::Some,
        () => Share::None,
    }
}

#[cfg(test)]
mod tests {
    use margay_policy::{
        Block, Protocol,
        evaluate::{Flow, evaluate},
    };

    use super::{Exempt, Family, Miss, Pair, Share, Way, networks, share};
    use crate::policy::{
        party::{Party, ResolvedPort},
        source::Source,
    };

    const WEB: ResolvedPort = ResolvedPort { protocol: Protocol::Tcp, number: 80 };

    fn source(pods: &[&str], policies: &[&str]) -> Source {
        let mut source = Source::default();
        for pod in pods {
            source.add_pod(&serde_saphyr::from_str(pod).unwrap(), "");
        }
        for policy in policies {
            source.add_policy(&serde_saphyr::from_str(policy).unwrap(), "");
        }
        assert!(source.problems.is_empty(), "{:?}", source.problems);
        source.complete()
    }

    fn pair(source: &Source, from: &str, to: &str) -> Pair {
        Pair::new(source, Party::find(source, from).unwrap(), Party::find(source, to).unwrap()).unwrap()
    }

    fn allowed(source: &Source, from: &str, to: &str) -> Vec<bool> {
        pair(source, from, to).views.iter().map(|view| view.decide(WEB).allowed()).collect()
    }

    #[test]
    fn a_block_holds_all_some_or_none_of_the_private_addresses() {
        for (cidr, except, ipv4, ipv6) in [
            ("0.0.0.0/0", &[] as &[&str], Share::All, Share::None),
            ("0.0.0.0/0", &["169.254.169.254/32", "240.0.0.0/4"], Share::All, Share::None),
            ("0.0.0.0/0", &["10.0.0.0/8"], Share::Some, Share::None),
            (
                "0.0.0.0/0",
                &["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"],
                Share::None,
                Share::None,
            ),
            ("10.1.0.0/16", &[], Share::Some, Share::None),
            ("203.0.113.0/24", &[], Share::None, Share::None),
            ("::/0", &[], Share::None, Share::All),
            ("fd00::/8", &[], Share::None, Share::Some),
            ("2000::/3", &[], Share::None, Share::None),
        ] {
            let except = except.iter().map(|except| except.parse().unwrap()).collect();
            let block = Block { cidr: cidr.parse().unwrap(), except };
            let shares = [Family::Ipv4, Family::Ipv6].map(|family| share(&block, &networks(&[], family)));
            assert_eq!(shares, [ipv4, ipv6], "{block:?}");
        }
    }

    #[test]
    fn a_pod_without_an_address_matches_no_block_but_one_of_all_private_addresses() {
        for (block, open, uncertain) in [
            ("{cidr: 0.0.0.0/0}", true, false),
            ("{cidr: 0.0.0.0/0, except: [169.254.169.254/32]}", true, false),
            ("{cidr: 10.0.0.0/8}", false, true),
            ("{cidr: 0.0.0.0/8}", false, false),
        ] {
            let policy = format!(
                "{{metadata: {{namespace: x, name: p}}, spec: {{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {block}}}]}}]}}}}"
            );
            let pods = ["{metadata: {namespace: x, name: a}}", "{metadata: {namespace: x, name: b}}"];
            let source = source(&pods, &[&policy]);
            assert_eq!(allowed(&source, "x/a", "x/b"), [open], "{block}");
            let pair = pair(&source, "x/a", "x/b");
            assert_eq!(pair.views[0].uncertain(WEB), uncertain, "{block}");
        }
    }

    #[test]
    fn a_denial_is_certain_where_the_port_or_the_other_side_denies_too() {
        let pods =
            ["{metadata: {namespace: x, name: a}}", "{metadata: {namespace: x, name: b, labels: {app: b}}}"];
        let policy = "{metadata: {namespace: x, name: p}, spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 80}]}]}}";
        let deny = "{metadata: {namespace: x, name: e}, spec: {podSelector: {}, policyTypes: [Egress]}}";
        let tls = ResolvedPort { number: 443, ..WEB };
        for (policies, port, uncertain) in
            [(&[policy] as &[&str], WEB, true), (&[policy], tls, false), (&[policy, deny], WEB, false)]
        {
            let source = source(&pods, policies);
            assert_eq!(pair(&source, "x/a", "x/b").views[0].uncertain(port), uncertain, "{policies:?}");
        }
    }

    #[test]
    fn what_a_pair_is_told_is_what_the_evaluator_says_of_all_objects() {
        let pods = [
            "{metadata: {namespace: x, name: a, labels: {app: a}}, status: {podIP: 10.0.0.1}}",
            "{metadata: {namespace: x, name: b, labels: {app: b}}, status: {podIP: 10.0.0.2}}",
            "{metadata: {namespace: y, name: c, labels: {app: a}}, status: {podIP: 10.0.1.1}, spec: {containers: [{name: c, ports: [{name: web, containerPort: 80}]}]}}",
            "{metadata: {namespace: z, name: d, labels: {app: d}}, status: {podIP: 192.0.2.1}}",
        ];
        let policies = [
            "{metadata: {namespace: x, name: in}, spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}}]}, {from: [{podSelector: {}}], ports: [{port: 80}]}]}}",
            "{metadata: {namespace: x, name: out}, spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], egress: [{ports: [{port: web}]}, {to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.1.0/24]}}]}]}}",
            "{metadata: {namespace: y, name: in}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/31}}]}]}}",
            "{metadata: {namespace: z, name: both}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}}]}]}}",
        ];
        let cluster = [
            "{metadata: {name: a}, spec: {tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: y}}}], protocols: [{tcp: {destinationPort: {number: 81}}}]}], egress: [{action: Accept, to: [{nodes: {matchLabels: {rack: r1}}}]}, {action: Pass, to: [{networks: [10.0.0.0/8]}]}]}}",
            "{metadata: {name: b}, spec: {tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}]}]}}",
        ];
        let mut source = source(&pods, &policies);
        for policy in cluster {
            source.add_cluster_policy(&serde_saphyr::from_str(policy).unwrap(), "");
        }
        let node = "{metadata: {name: n, labels: {rack: r1}}, status: {addresses: [{type: InternalIP, address: 203.0.113.9}]}}";
        source.add_node(&serde_saphyr::from_str(node).unwrap(), "");
        source
            .add_namespace(&serde_saphyr::from_str("{metadata: {name: y, labels: {team: y}}}").unwrap(), "");
        let ends = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1", "203.0.113.9"];
        let mut answers = [0, 0];
        for (from, to) in ends.iter().flat_map(|from| ends.map(|to| (*from, to))) {
            for number in [80, 81] {
                let port = ResolvedPort { number, ..WEB };
                let [source_address, destination] = [from, to].map(|end| end.parse().unwrap());
                let flow =
                    Flow { source: source_address, destination, protocol: Protocol::Tcp, port: number };
                let expected = evaluate(&source.objects, &flow);
                assert_eq!(pair(&source, from, to).views[0].decide(port), expected, "{from} {to} {number}");
                answers[usize::from(expected.allowed())] += 1;
            }
        }
        assert!(answers.iter().all(|count| *count > 10), "{answers:?}");
    }

    #[test]
    fn the_networks_of_pods_say_whether_a_block_matches_those_without_an_address() {
        let policy = "{metadata: {namespace: x, name: p}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}";
        let pods = ["{metadata: {namespace: x, name: a}}", "{metadata: {namespace: x, name: b}}"];
        for (networks, open) in [
            (&["10.244.0.0/16"] as &[&str], &[true] as &[bool]),
            (&["10.244.0.0/16", "10.245.0.0/16"], &[true]),
            (&["192.168.0.0/16"], &[false]),
            (&["10.244.0.0/16", "2001:db8::/32"], &[true, false]),
            (&["2001:db8::/32"], &[false]),
        ] {
            let mut source = source(&pods, &[policy]);
            source.pod_networks = networks.iter().map(|network| network.parse().unwrap()).collect();
            assert_eq!(allowed(&source, "x/a", "x/b"), open, "{networks:?}");
            let pair = pair(&source, "x/a", "x/b");
            assert!(!pair.views[0].uncertain(WEB), "{networks:?}");
        }
    }

    #[test]
    fn addresses_that_are_known_are_judged_in_each_family_that_both_have() {
        let pods = [
            "{metadata: {namespace: x, name: a}, status: {podIPs: [{ip: 10.0.0.1}, {ip: '2001:db8::1'}]}}",
            "{metadata: {namespace: x, name: b}, status: {podIPs: [{ip: 10.0.0.2}, {ip: '2001:db8::2'}]}}",
            "{metadata: {namespace: x, name: c}, status: {podIPs: [{ip: '2001:db8::3'}]}}",
            "{metadata: {namespace: x, name: unknown}}",
        ];
        let policy = "{metadata: {namespace: x, name: p}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}";
        let source = source(&pods, &[policy]);
        assert_eq!(allowed(&source, "x/a", "x/b"), [true, false]);
        assert_eq!(allowed(&source, "x/a", "x/c"), [false]);
        assert_eq!(allowed(&source, "10.9.9.9", "x/unknown"), [true]);
        let [from, to] = ["10.9.9.9", "x/c"].map(|text| Party::find(&source, text).unwrap());
        assert_eq!(
            Pair::new(&source, from, to).unwrap_err().to_string(),
            "10.9.9.9 and x/c have no address family in common: 10.9.9.9 and 2001:db8::3"
        );
    }

    #[test]
    fn itself_and_its_own_node_are_exempt_and_a_replica_is_not_itself() {
        let pods = [
            "{metadata: {namespace: x, name: a}, spec: {nodeName: n1, containers: []}, status: {podIP: 10.0.0.1, hostIP: 192.0.2.1}}",
            "{metadata: {namespace: x, name: host}, spec: {nodeName: n1, hostNetwork: true, containers: []}, status: {podIP: 192.0.2.1}}",
            "{metadata: {namespace: x, name: far}, spec: {nodeName: n2, hostNetwork: true, containers: []}, status: {podIP: 192.0.2.2}}",
        ];
        let deny = "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}";
        let mut source = source(&pods, &[deny]);
        source.add_template(
            Some("x"),
            "web",
            serde_saphyr::from_str("{spec: {containers: []}}").unwrap(),
            "",
        );
        let source = source.complete();
        for (from, to, exempt) in [
            ("x/a", "x/a", Some(Exempt::Itself)),
            ("x/host", "x/a", Some(Exempt::FromOwnNode)),
            ("x/a", "x/host", Some(Exempt::ToOwnNode)),
            ("192.0.2.1", "x/a", Some(Exempt::FromOwnNode)),
            ("x/far", "x/a", None),
            ("x/web", "x/web", None),
        ] {
            assert_eq!(pair(&source, from, to).exempt, exempt, "{from} {to}");
        }
        let egress = "{metadata: {namespace: x, name: out}, spec: {podSelector: {}, policyTypes: [Egress]}}";
        let admin = |action: &str| {
            format!(
                "{{metadata: {{name: p}}, spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [{{action: {action}, to: [{{networks: [192.0.2.0/24]}}]}}]}}}}"
            )
        };
        for (action, open) in [("Accept", true), ("Deny", false), ("Pass", true)] {
            let mut source = self::source(&pods, &[deny, egress]);
            source.add_cluster_policy(&serde_saphyr::from_str(&admin(action)).unwrap(), "");
            let allows = |from, to| pair(&source, from, to).views[0].allows(WEB);
            assert_eq!(allows("x/a", "x/host"), open, "{action}");
            assert!(allows("x/host", "x/a"));
            assert_eq!(allows("x/a", "x/far"), action == "Accept", "{action}");
        }
        assert_eq!(allowed(&source, "x/far", "x/a"), [false]);
        assert_eq!(allowed(&source, "x/a", "x/far"), [true]);
        assert_eq!(allowed(&source, "x/web", "x/web"), [false]);
    }

    #[test]
    fn an_address_that_is_another_pods_by_now_is_not_the_old_pods() {
        let pods = [
            "{metadata: {namespace: x, name: old, creationTimestamp: '2026-01-01T00:00:00Z'}, status: {podIP: 10.0.0.1}}",
            "{metadata: {namespace: x, name: new, creationTimestamp: '2026-01-02T00:00:00Z'}, status: {podIP: 10.0.0.1}}",
        ];
        let deny = "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}";
        assert_eq!(allowed(&source(&pods, &[deny]), "x/old", "x/new"), [false]);
    }

    #[test]
    fn a_miss_is_of_the_peer_the_port_or_both() {
        let pods =
            ["{metadata: {namespace: x, name: a, labels: {app: a}}}", "{metadata: {namespace: x, name: b}}"];
        let rules = "[{from: [{podSelector: {matchLabels: {app: z}}}], ports: [{port: 80}]},\
                      {from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 81}]},\
                      {from: [{podSelector: {matchLabels: {app: z}}}], ports: [{port: 81}]},\
                      {from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}]}]";
        let policy =
            format!("{{metadata: {{namespace: x, name: p}}, spec: {{podSelector: {{}}, ingress: {rules}}}}}");
        let source = source(&pods, &[&policy]);
        let pair = pair(&source, "x/a", "x/b");
        let name = source.objects.policies.keys().next().unwrap();
        let misses = [0, 1, 2, 3].map(|rule| pair.views[0].miss(name, rule, Way::Ingress, WEB));
        assert_eq!(misses, [Some(Miss::Peer), Some(Miss::Port), Some(Miss::Both), None]);
    }
}
