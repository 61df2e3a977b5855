//! The API's NetworkPolicy to the checked one.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{Problem, Reader};
use crate::{
    Block, NamespaceChoice, Peer, Peers, Policy, PolicyId, PolicyRef, Port, PortRange, Ports, Protocol, Rule,
    Selector,
};

/// Reads a policy. `None` when it cannot be told whom it selects; it isolates nobody then.
pub fn convert(policy: &NetworkPolicy) -> (Option<Policy>, Vec<Problem>) {
    let name = PolicyRef {
        namespace: policy.metadata.namespace.clone().unwrap_or_default(),
        name: policy.metadata.name.clone().unwrap_or_default(),
    };
    let mut reader =
        NetworkReader { reader: Reader::new(PolicyId::Network(name.clone())), own: name.namespace.clone() };
    let read = reader.policy(policy, name);
    (read, reader.reader.problems)
}

struct NetworkReader {
    reader: Reader,
    /// The policy's namespace.
    own: String,
}

impl NetworkReader {
    fn problem(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.reader.problem(field, reason);
    }

    fn policy(&mut self, policy: &NetworkPolicy, name: PolicyRef) -> Option<Policy> {
        let Some(spec) = &policy.spec else {
            self.problem("spec", "is missing; the policy is passed over");
            return None;
        };
        let everything = LabelSelector::default();
        let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
        let pod_selector = self.reader.selector("spec.podSelector", selector)?;
        let mut types = (false, false);
        for (index, text) in spec.policy_types.iter().flatten().enumerate() {
            match text.as_str() {
                "Ingress" => types.0 = true,
                "Egress" => types.1 = true,
                other => self.problem(
                    format!("spec.policyTypes[{index}]"),
                    format!("`{other}` is not one of Ingress, Egress"),
                ),
            }
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            // The API server's default (NetworkPolicySpec.policyTypes).
            types = (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
        }
        let enforcement = self.reader.enforcement(&policy.metadata);
        let ingress = types.0.then(|| {
            let rules = spec.ingress.iter().flatten().enumerate();
            rules.map(|(index, rule)| self.ingress(&format!("spec.ingress[{index}]"), rule)).collect()
        });
        let egress = types.1.then(|| {
            let rules = spec.egress.iter().flatten().enumerate();
            rules.map(|(index, rule)| self.egress(&format!("spec.egress[{index}]"), rule)).collect()
        });
        Some(Policy { name, pod_selector, ingress, egress, enforcement })
    }

    fn ingress(&mut self, field: &str, rule: &NetworkPolicyIngressRule) -> Rule {
        Rule {
            peers: self.peers(&format!("{field}.from"), rule.from.as_deref()),
            ports: self.ports(&format!("{field}.ports"), rule.ports.as_deref()),
        }
    }

    fn egress(&mut self, field: &str, rule: &NetworkPolicyEgressRule) -> Rule {
        Rule {
            peers: self.peers(&format!("{field}.to"), rule.to.as_deref()),
            ports: self.ports(&format!("{field}.ports"), rule.ports.as_deref()),
        }
    }

    fn peers(&mut self, field: &str, peers: Option<&[NetworkPolicyPeer]>) -> Peers {
        match peers {
            None | Some([]) => Peers::Any,
            Some(peers) => {
                let peers = peers.iter().enumerate();
                Peers::Of(
                    peers.filter_map(|(index, peer)| self.peer(&format!("{field}[{index}]"), peer)).collect(),
                )
            }
        }
    }

    fn peer(&mut self, field: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => {
                let cidr = self.reader.network(&format!("{field}.ipBlock.cidr"), &block.cidr)?;
                let mut except = Vec::new();
                for (index, text) in block.except.iter().flatten().enumerate() {
                    let field = format!("{field}.ipBlock.except[{index}]");
                    // Unread, an except would open what it closes: the whole peer matches nothing.
                    let part = self.reader.network(&field, text)?;
                    if part.is_ipv4() != cidr.is_ipv4()
                        || part.prefix() < cidr.prefix()
                        || !cidr.contains(part.ip())
                    {
                        self.problem(field, format!("{part} is not inside {cidr}"));
                        return None;
                    }
                    except.push(part);
                }
                except.sort();
                except.dedup();
                Some(Peer::Block(Block { cidr, except }))
            }
            (None, None, None) => {
                self.problem(field, "names no peer; give podSelector, namespaceSelector or ipBlock");
                None
            }
            (Some(_), _, _) => {
                self.problem(field, "has ipBlock beside a selector; they exclude each other");
                None
            }
            (None, namespaces, pods) => {
                let namespaces = match namespaces {
                    Some(selector) => NamespaceChoice::Selected(
                        self.reader.selector(&format!("{field}.namespaceSelector"), selector)?,
                    ),
                    None => NamespaceChoice::Own(self.own.clone()),
                };
                let pods = match pods {
                    Some(selector) => self.reader.selector(&format!("{field}.podSelector"), selector)?,
                    None => Selector::default(),
                };
                Some(Peer::Pods { namespaces, pods })
            }
        }
    }

    fn ports(&mut self, field: &str, ports: Option<&[NetworkPolicyPort]>) -> Ports {
        match ports {
            None | Some([]) => Ports::Any,
            Some(ports) => {
                let ports = ports.iter().enumerate();
                Ports::Of(
                    ports.filter_map(|(index, port)| self.port(&format!("{field}[{index}]"), port)).collect(),
                )
            }
        }
    }

    fn port(&mut self, field: &str, port: &NetworkPolicyPort) -> Option<Port> {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>() {
            Ok(protocol) => protocol,
            Err(reason) => {
                self.problem(format!("{field}.protocol"), reason);
                return None;
            }
        };
        let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
        let wrong = |number: i32| format!("{number} is not a port; it takes 1 to 65535");
        match (&port.port, port.end_port) {
            (None, None) => Some(Port::Numbered(protocol, PortRange::ALL)),
            (Some(IntOrString::String(name)), None) => Some(Port::Named(protocol, name.clone())),
            (Some(IntOrString::Int(first)), end) => {
                let last = end.unwrap_or(*first);
                let Some(first) = number(*first) else {
                    self.problem(format!("{field}.port"), wrong(*first));
                    return None;
                };
                let Some(last) = number(last).filter(|last| *last >= first) else {
                    self.problem(format!("{field}.endPort"), format!("{last} is not a port from {first} on"));
                    return None;
                };
                Some(Port::Numbered(protocol, PortRange { first, last }))
            }
            (_, Some(_)) => {
                self.problem(format!("{field}.endPort"), "needs a numeric port beside it");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;

    use super::convert;
    use crate::{Peers, Policy, Port, PortRange, Ports, Protocol};

    fn read(spec: &str) -> (Option<Policy>, Vec<String>) {
        let text = format!("metadata: {{namespace: x, name: p}}\nspec: {spec}");
        let policy: NetworkPolicy = serde_saphyr::from_str(&text).unwrap();
        let (policy, problems) = convert(&policy);
        (policy, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn policy_types_have_the_defaults_of_the_api() {
        for (spec, ingress, egress) in [
            ("{podSelector: {}}", true, false),
            ("{podSelector: {}, egress: [{}]}", true, true),
            ("{podSelector: {}, egress: []}", true, false),
            ("{podSelector: {}, policyTypes: [Egress]}", false, true),
            ("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}", true, false),
        ] {
            let policy = read(spec).0.unwrap();
            assert_eq!((policy.ingress.is_some(), policy.egress.is_some()), (ingress, egress), "{spec}");
        }
    }

    #[test]
    fn empty_lists_are_everything_and_an_empty_port_is_all_of_tcp() {
        let rule = |text: &str| {
            read(&format!("{{podSelector: {{}}, ingress: [{text}]}}")).0.unwrap().ingress.unwrap().remove(0)
        };
        assert_eq!(rule("{from: [], ports: []}"), rule("{}"));
        assert_eq!(rule("{}").peers, Peers::Any);
        assert_eq!(
            rule("{ports: [{}]}").ports,
            Ports::Of(vec![Port::Numbered(Protocol::Tcp, PortRange::ALL)])
        );
    }

    #[test]
    fn what_cannot_be_read_matches_nothing_and_is_reported_with_its_path() {
        for (rule, problem) in [
            (
                "{from: [{ipBlock: {cidr: nonsense}}]}",
                "NetworkPolicy x/p: spec.ingress[0].from[0].ipBlock.cidr: `nonsense` is not a network such as 192.0.2.0/24",
            ),
            (
                "{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [198.51.100.0/25]}}]}",
                "NetworkPolicy x/p: spec.ingress[0].from[0].ipBlock.except[0]: 198.51.100.0/25 is not inside 192.0.2.0/24",
            ),
            (
                "{from: [{}]}",
                "NetworkPolicy x/p: spec.ingress[0].from[0]: names no peer; give podSelector, namespaceSelector or ipBlock",
            ),
            (
                "{from: [{podSelector: {matchExpressions: [{key: a, operator: Like}]}}]}",
                "NetworkPolicy x/p: spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: `Like` is not one of In, NotIn, Exists, DoesNotExist",
            ),
        ] {
            let (policy, problems) = read(&format!("{{podSelector: {{}}, ingress: [{rule}]}}"));
            assert_eq!(problems, [problem]);
            assert_eq!(policy.unwrap().ingress.unwrap()[0].peers, Peers::Of(vec![]));
        }
        for (port, problem) in [
            ("{port: 0}", "spec.ingress[0].ports[0].port: 0 is not a port; it takes 1 to 65535"),
            ("{port: 80, endPort: 79}", "spec.ingress[0].ports[0].endPort: 79 is not a port from 80 on"),
            ("{port: web, endPort: 90}", "spec.ingress[0].ports[0].endPort: needs a numeric port beside it"),
            ("{protocol: ICMP}", "spec.ingress[0].ports[0].protocol: `ICMP` is not one of TCP, UDP, SCTP"),
        ] {
            let (policy, problems) = read(&format!("{{podSelector: {{}}, ingress: [{{ports: [{port}]}}]}}"));
            assert_eq!(problems, [format!("NetworkPolicy x/p: {problem}")]);
            assert_eq!(policy.unwrap().ingress.unwrap()[0].ports, Ports::Of(vec![]));
        }
        let (policy, problems) = read("{podSelector: {matchExpressions: [{key: a, operator: In}]}}");
        assert!(policy.is_none());
        assert!(problems[0].contains("spec.podSelector.matchExpressions[0].values"), "{problems:?}");
    }
}
