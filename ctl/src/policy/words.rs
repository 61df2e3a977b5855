//! Rules in words.

use margay_policy::{
    Action, ClusterPolicy, NamespaceChoice, Peer, Peers, Policy, PolicyRef, Port, PortRange, Ports, Tier,
};

use super::judge::Way;

/// `NetworkPolicy a/b, ingress rule 1 (from pods app=c of a, port 80/TCP)`; the rule's place counts from 0.
pub(crate) fn rule_of(policy: &Policy, way: Way, place: usize) -> String {
    let words = way
        .rules(policy)
        .and_then(|rules| rules.get(place))
        .map(|rule| rule_words(&rule.peers, &rule.ports, way));
    let (policy, direction, number) = (named(&policy.name), direction(way), place + 1);
    format!("{policy}, {direction} rule {number} ({})", words.unwrap_or_default())
}

/// `ClusterNetworkPolicy a (Admin, priority 5), egress rule 1 "name" (Deny to 192.0.2.0/24, all ports)`; the rule's place
/// counts from 0.
pub(crate) fn cluster_rule_of(policy: &ClusterPolicy, way: Way, place: usize) -> String {
    let tier = match policy.tier {
        Tier::Admin => "Admin",
        Tier::Baseline => "Baseline",
    };
    let rule = way.cluster_rules(policy).get(place);
    let name = rule
        .filter(|rule| !rule.name.is_empty())
        .map_or_else(String::new, |rule| format!(" \"{}\"", rule.name));
    let words = rule.map_or_else(String::new, |rule| {
        let action = match rule.action {
            Action::Accept => "Accept",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
        };
        format!("{action} {}", rule_words(&rule.peers, &rule.ports, way))
    });
    let (policy, priority, direction, number) = (&policy.name, policy.priority, direction(way), place + 1);
    format!(
        "ClusterNetworkPolicy {policy} ({tier}, priority {priority}), {direction} rule {number}{name} ({words})"
    )
}

/// A policy, as users name it.
pub(crate) fn named(policy: &PolicyRef) -> String {
    format!("NetworkPolicy {policy}")
}

/// As in a policy's fields.
pub(crate) fn direction(way: Way) -> &'static str {
    match way {
        Way::Egress => "egress",
        Way::Ingress => "ingress",
    }
}

/// As in `policyTypes`.
pub(crate) fn policy_type(way: Way) -> &'static str {
    match way {
        Way::Egress => "Egress",
        Way::Ingress => "Ingress",
    }
}

fn rule_words(peers: &Peers, ports: &Ports, way: Way) -> String {
    let towards = match way {
        Way::Egress => "to",
        Way::Ingress => "from",
    };
    let peers = match peers {
        Peers::Any => "anything".to_owned(),
        Peers::Of(peers) if peers.is_empty() => "nothing: no peer could be read".to_owned(),
        Peers::Of(peers) => peers.iter().map(peer_words).collect::<Vec<_>>().join(" or "),
    };
    let ports = match ports {
        Ports::Any => "all ports".to_owned(),
        Ports::Of(ports) => match ports.as_slice() {
            [] => "no port: none could be read".to_owned(),
            [one] => format!("port {}", port_words(one)),
            several => format!("ports {}", several.iter().map(port_words).collect::<Vec<_>>().join(" ")),
        },
    };
    format!("{towards} {peers}, {ports}")
}

/// `pods app=web of shop`, `10.0.0.0/8 except 10.1.0.0/16`, `nodes rack=r1`.
pub(crate) fn peer_words(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let pods = if pods.is_everything() { "all pods".to_owned() } else { format!("pods {pods}") };
            match namespaces {
                NamespaceChoice::Own(name) => format!("{pods} of {name}"),
                NamespaceChoice::Selected(selector) if selector.is_everything() => {
                    format!("{pods} of all namespaces")
                }
                NamespaceChoice::Selected(selector) => format!("{pods} of namespaces {selector}"),
            }
        }
        Peer::Block(block) => block_words(block),
        Peer::Nodes(nodes) if nodes.is_everything() => "all nodes".to_owned(),
        Peer::Nodes(nodes) => format!("nodes {nodes}"),
    }
}

/// `10.0.0.0/8 except 10.1.0.0/16`.
fn block_words(block: &margay_policy::Block) -> String {
    let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
    match except.as_slice() {
        [] => block.cidr.to_string(),
        except => format!("{} except {}", block.cidr, except.join(" ")),
    }
}

fn port_words(port: &Port) -> String {
    match port {
        Port::Numbered(protocol, PortRange::ALL) => format!("any/{protocol}"),
        Port::Numbered(protocol, range) if range.first == range.last => format!("{}/{protocol}", range.first),
        Port::Numbered(protocol, range) => format!("{}-{}/{protocol}", range.first, range.last),
        Port::Named(protocol, name) => format!("{name}/{protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use margay_policy::{convert, convert_cluster};

    use super::{Way, cluster_rule_of, rule_of};

    #[test]
    fn every_kind_of_peer_and_port_has_words() {
        for (rule, words) in [
            ("{}", "to anything, all ports"),
            ("{to: [{podSelector: {}}], ports: [{port: 80}]}", "to all pods of x, port 80/TCP"),
            (
                "{to: [{podSelector: {matchLabels: {app: db}}, namespaceSelector: {}}], ports: [{protocol: UDP}]}",
                "to pods app=db of all namespaces, port any/UDP",
            ),
            (
                "{to: [{namespaceSelector: {matchLabels: {team: a}}}, {ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/28]}}], ports: [{port: 1, endPort: 9}, {port: web}]}",
                "to all pods of namespaces team=a or 192.0.2.0/24 except 192.0.2.0/28, ports 1-9/TCP web/TCP",
            ),
            (
                "{to: [{}], ports: [{port: 0}]}",
                "to nothing: no peer could be read, no port: none could be read",
            ),
        ] {
            let text = format!(
                "{{metadata: {{namespace: x, name: p}}, spec: {{podSelector: {{}}, egress: [{rule}]}}}}"
            );
            let policy = convert(&serde_saphyr::from_str(&text).unwrap()).0.unwrap();
            assert_eq!(
                rule_of(&policy, Way::Egress, 0),
                format!("NetworkPolicy x/p, egress rule 1 ({words})")
            );
        }
    }

    #[test]
    fn a_rule_of_the_cluster_is_named_with_its_tier_and_what_it_does() {
        let text = "{metadata: {name: p}, spec: {tier: Baseline, priority: 7, subject: {namespaces: {}}, egress: [\
                    {action: Pass, to: [{namespaces: {}}]},\
                    {name: out, action: Deny, to: [{nodes: {}}, {nodes: {matchLabels: {rack: r1}}}, {networks: [192.0.2.0/24]}], protocols: [{destinationNamedPort: web}]}]}}";
        let policy = convert_cluster(&serde_saphyr::from_str(text).unwrap()).0.unwrap();
        for (place, words) in [
            (0, "egress rule 1 (Pass to all pods of all namespaces, all ports)"),
            (
                1,
                "egress rule 2 \"out\" (Deny to all nodes or nodes rack=r1 or 192.0.2.0/24, ports web/TCP web/UDP web/SCTP)",
            ),
        ] {
            let expected = format!("ClusterNetworkPolicy p (Baseline, priority 7), {words}");
            assert_eq!(cluster_rule_of(&policy, Way::Egress, place), expected);
        }
    }
}
