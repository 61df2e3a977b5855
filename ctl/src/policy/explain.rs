//! `margayctl policy explain`: one connection, with the reasons on either side.

use std::process::ExitCode;

use clap::Args;
use margay_policy::{
    Enforcement, PolicyId, PolicyRef,
    evaluate::{Decision, Side},
};
use serde::Serialize;

use super::{
    Answer, From,
    judge::{Exempt, Miss, Pair, View, Way},
    party::{Party, PortChoice, ResolvedPort},
    source::Source,
    warn, words,
};
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where the connection comes from: NAMESPACE/POD or an address.
    #[arg(long, value_name = "NS/POD|ADDRESS")]
    from: String,
    /// Where it goes: NAMESPACE/POD or an address.
    #[arg(long, value_name = "NS/POD|ADDRESS")]
    to: String,
    /// Its destination port: 80, 80/tcp, 53/udp, 9/sctp or the name of a port of the destination.
    #[arg(long, value_name = "PORT")]
    port: PortChoice,
    #[command(flatten)]
    objects: From,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> anyhow::Result<Answer> {
    let source = arguments.objects.load()?;
    warn(&source);
    let from = Party::find(&source, &arguments.from)?;
    let to = Party::find(&source, &arguments.to)?;
    let explanation = explain(&source, from, to, &arguments.port)?;
    let text = output.structured(&serde_json::to_value(&explanation)?).unwrap_or_else(|| explanation.text());
    Ok(Answer { text, status: if explanation.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE } })
}

/// May a connection be made, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    from: String,
    to: String,
    port: String,
    /// In every address family that both ends have.
    pub(crate) allowed: bool,
    /// It might be otherwise if the addresses of both were known.
    pub(crate) uncertain: bool,
    /// The policies in audit that would close it, if they were enforced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    would_deny: Vec<String>,
    /// One, or one for each address family if they differ.
    pub(crate) verdicts: Vec<Verdict>,
    /// What the verdict depends on beside policy.
    pub(crate) notes: Vec<String>,
}

/// What both sides say.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    families: Vec<String>,
    allowed: bool,
    pub(crate) egress: Reason,
    pub(crate) ingress: Reason,
}

/// What one side says.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    pub(crate) verdict: Word,
    /// In words.
    text: String,
    /// The policies that isolate the pod and do not open the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) isolated_by: Vec<String>,
    /// The policy with the rule that closes the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) denied_by: Option<String>,
    /// The policies that open the way, each by itself enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) opened_by: Vec<String>,
    /// The field of the rule that opens or closes the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Why the rules of those that isolate do not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    misses: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    Allowed,
    Denied,
    NotIsolated,
    NotSubject,
}

pub(crate) fn explain(
    source: &Source,
    from: Party<'_>,
    to: Party<'_>,
    port: &PortChoice,
) -> anyhow::Result<Explanation> {
    let port = port.resolve(to)?;
    let pair = Pair::new(source, from, to)?;
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut notes = Vec::new();
    let mut would_deny = Vec::new();
    let (mut certain, mut doubtful) = (false, false);
    for party in [from, to] {
        notes.extend(note(source, party));
    }
    for view in &pair.views {
        let decision = view.decide(port);
        let reason = |way: Way| {
            let subject = match way {
                Way::Egress => from,
                Way::Ingress => to,
            };
            reason(source, view, way, way.of(&decision), (subject, pair.exempt), port)
        };
        let (egress, ingress) = (reason(Way::Egress), reason(Way::Ingress));
        let allowed = view.allows(port);
        if view.uncertain(port) {
            doubtful = true;
            notes.extend(doubts(view, &decision, (from, to)));
        } else if !allowed {
            certain = true;
        }
        if let Some(audited) = view.audit(port) {
            notes.extend(findings(source, &audited, &mut would_deny));
        }
        let family = view.family.to_string();
        match verdicts.iter_mut().find(|other| other.egress == egress && other.ingress == ingress) {
            Some(same) => same.families.push(family),
            None => verdicts.push(Verdict { families: vec![family], allowed, egress, ingress }),
        }
    }
    notes.dedup();
    let allowed = verdicts.iter().all(|verdict| verdict.allowed);
    Ok(Explanation {
        from: from.to_string(),
        to: to.to_string(),
        port: port.to_string(),
        allowed,
        uncertain: doubtful && !certain,
        would_deny,
        verdicts,
        notes,
    })
}

/// Which peers might change the verdict, if they matched.
fn doubts(view: &View, decision: &Decision, (from, to): (Party<'_>, Party<'_>)) -> Vec<String> {
    let mut doubts = Vec::new();
    for (way, far) in [(Way::Egress, to), (Way::Ingress, from)] {
        let wanted = |policy: &PolicyId| match (way.of(decision), policy) {
            (Side::Isolated { by }, PolicyId::Network(name)) => by.contains(name),
            (_, PolicyId::Network(_)) => false,
            (_, PolicyId::Cluster(_)) => true,
        };
        for (policy, peer) in view.doubts(way, wanted) {
            doubts.push(format!(
                "{far} has no known address: {} of {policy} was taken not to match it; give --pod-cidr, or the pod a status.podIP",
                words::peer_words(peer),
            ));
        }
    }
    doubts
}

/// What the policies in audit would close.
fn findings(source: &Source, audited: &Decision, would_deny: &mut Vec<String>) -> Vec<String> {
    let mut notes = Vec::new();
    for way in [Way::Egress, Way::Ingress] {
        let (closers, words) = match way.of(audited) {
            Side::NotIsolated | Side::Allowed { .. } => continue,
            Side::Denied { policy, rule } => {
                (vec![PolicyId::Cluster(policy.clone())], cluster_rule(source, policy, way, *rule))
            }
            Side::Isolated { by } => {
                let by: Vec<PolicyId> = by.iter().cloned().map(PolicyId::Network).collect();
                let words = by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                (by, words)
            }
        };
        let in_audit: Vec<&PolicyId> =
            closers.iter().filter(|name| enforcement(source, name) == Some(Enforcement::Audit)).collect();
        if in_audit.is_empty() {
            notes.push(format!("would be denied by {words}, if the policies in audit were enforced"));
        }
        for name in in_audit {
            would_deny.push(name.to_string());
            let rule = if matches!(name, PolicyId::Cluster(_)) { words.as_str() } else { &name.to_string() };
            notes.push(format!("would deny: {rule} is in audit"));
        }
    }
    would_deny.dedup();
    notes
}

fn enforcement(source: &Source, name: &PolicyId) -> Option<Enforcement> {
    match name {
        PolicyId::Network(name) => source.objects.policies.get(name).map(|policy| policy.enforcement),
        PolicyId::Cluster(name) => source.objects.cluster_policies.get(name).map(|policy| policy.enforcement),
    }
}

/// What is peculiar about a party.
fn note(source: &Source, party: Party<'_>) -> Option<String> {
    let Party::Pod(pod, _) = party else { return None };
    let name = &pod.name;
    if pod.finished {
        return Some(format!(
            "{name} has finished: it has no address any more, sends nothing and answers nothing, and policy does not apply to it"
        ));
    }
    if pod.host_network {
        return Some(format!(
            "{name} uses its node's network: no policy selects it and no pod peer matches it; ipBlock matches the node's address"
        ));
    }
    let taken = |address| Some((address, source.owner(address).filter(|owner| *owner != name)?));
    let (address, owner) = pod.addresses.iter().copied().find_map(taken)?;
    Some(format!("address {address} in the status of {name} is {owner}'s by now"))
}

fn reason(
    source: &Source,
    view: &View,
    way: Way,
    side: &Side,
    (subject, exempt): (Party<'_>, Option<Exempt>),
    port: ResolvedPort,
) -> Reason {
    let plain = |verdict, text| Reason {
        verdict,
        text,
        isolated_by: Vec::new(),
        denied_by: None,
        opened_by: Vec::new(),
        field: None,
        misses: Vec::new(),
    };
    match exempt {
        Some(Exempt::Itself) => {
            return plain(Word::NotSubject, "a pod always reaches itself".to_owned());
        }
        Some(Exempt::FromOwnNode) => {
            return plain(Word::NotSubject, "a pod's own node always reaches it".to_owned());
        }
        Some(Exempt::ToOwnNode) if !of_cluster(side) => {
            let reason = "a pod reaches its own node, unless a ClusterNetworkPolicy denies it";
            return plain(Word::NotSubject, reason.to_owned());
        }
        Some(Exempt::ToOwnNode) | None => {}
    }
    let policies = &source.objects.policies;
    match side {
        Side::NotIsolated if subject.subject().is_none() => {
            let what = match subject {
                Party::Address(_) => "is no pod",
                Party::Pod(pod, _) if pod.finished => "has finished",
                Party::Pod(..) => "uses its node's network",
            };
            plain(Word::NotSubject, format!("{subject} {what}: no policy selects it"))
        }
        Side::NotIsolated => {
            let asked = source.objects.cluster_policies.values().any(|policy| {
                let about = subject.subject().is_some_and(|pod| source.is_subject(policy, pod));
                about && policy.enforcement == Enforcement::Enforce && !way.cluster_rules(policy).is_empty()
            });
            let reason = format!("with {} selects {subject}", words::policy_type(way));
            let reason = if asked {
                format!("no ClusterNetworkPolicy accepts or denies this, and no NetworkPolicy {reason}")
            } else {
                format!("no policy {reason}")
            };
            plain(Word::NotIsolated, reason)
        }
        Side::Allowed { policy: PolicyId::Cluster(policy), rule } => Reason {
            opened_by: vec![PolicyId::Cluster(policy.clone()).to_string()],
            field: Some(format!("spec.{}[{rule}]", words::direction(way))),
            ..plain(Word::Allowed, format!("by {}", cluster_rule(source, policy, way, *rule)))
        },
        Side::Denied { policy, rule } => Reason {
            denied_by: Some(PolicyId::Cluster(policy.clone()).to_string()),
            field: Some(format!("spec.{}[{rule}]", words::direction(way))),
            ..plain(Word::Denied, format!("by {}", cluster_rule(source, policy, way, *rule)))
        },
        Side::Allowed { policy: PolicyId::Network(policy), rule } => {
            let words = policies.get(policy).map(|policy| words::rule_of(policy, way, *rule));
            let opens = |policy: &&PolicyRef| view.opens(policy, way, port);
            Reason {
                opened_by: policies.keys().filter(opens).map(words::named).collect(),
                field: Some(format!("spec.{}[{rule}]", words::direction(way))),
                ..plain(Word::Allowed, format!("by {}", words.unwrap_or_default()))
            }
        }
        Side::Isolated { by } => {
            let names: Vec<String> = by.iter().map(words::named).collect();
            let reason = match names.as_slice() {
                [one] => format!("{subject} is selected by {one}, and no rule of it allows this"),
                several => {
                    format!(
                        "{subject} is selected by {}, and no rule of theirs allows this",
                        several.join(", ")
                    )
                }
            };
            Reason {
                misses: misses(source, view, way, by, port),
                isolated_by: names,
                ..plain(Word::Denied, reason)
            }
        }
    }
}

/// Whether a rule of a ClusterNetworkPolicy decides.
fn of_cluster(side: &Side) -> bool {
    matches!(side, Side::Denied { .. } | Side::Allowed { policy: PolicyId::Cluster(_), .. })
}

fn cluster_rule(source: &Source, policy: &str, way: Way, rule: usize) -> String {
    let policy = source.objects.cluster_policies.get(policy);
    policy.map(|policy| words::cluster_rule_of(policy, way, rule)).unwrap_or_default()
}

/// For each rule of the policies that isolate, what of it does not match.
fn misses(
    source: &Source,
    view: &View,
    way: Way,
    isolated_by: &[PolicyRef],
    port: ResolvedPort,
) -> Vec<String> {
    let mut misses = Vec::new();
    for policy in isolated_by.iter().filter_map(|name| source.objects.policies.get(name)) {
        let rules = way.rules(policy).map_or(0, Vec::len);
        if rules == 0 {
            misses.push(format!("{} has no {} rule", words::named(&policy.name), words::direction(way)));
        }
        for rule in 0..rules {
            let Some(miss) = view.miss(&policy.name, rule, way, port) else { continue };
            let miss = match miss {
                Miss::Peer => "the peer does not match",
                Miss::Port => "the port does not match",
                Miss::Both => "neither peer nor port matches",
            };
            misses.push(format!("{}: {miss}", words::rule_of(policy, way, rule)));
        }
    }
    misses
}

impl Explanation {
    /// The verdict, a line for each side, and what a denied side's rules lack.
    pub(crate) fn text(&self) -> String {
        let word = |allowed| if allowed { "allowed" } else { "denied" };
        let mut lines: Vec<String> = Vec::new();
        for verdict in &self.verdicts {
            let families = if self.verdicts.len() > 1 {
                format!(" over {}", verdict.families.join(" "))
            } else {
                String::new()
            };
            let (from, to, port) = (&self.from, &self.to, &self.port);
            lines.push(format!("{}: {from} to {to} on {port}{families}", word(verdict.allowed)));
            for (side, reason) in [("egress", &verdict.egress), ("ingress", &verdict.ingress)] {
                lines.push(format!("  {side:8} {}", reason.line()));
                for miss in &reason.misses {
                    lines.push(format!("             {miss}"));
                }
            }
        }
        for note in &self.notes {
            lines.push(format!("  note: {note}"));
        }
        lines.join("\n") + "\n"
    }
}

impl Reason {
    fn line(&self) -> String {
        let word = match self.verdict {
            Word::Allowed => "allowed ",
            Word::Denied if self.denied_by.is_some() => "denied ",
            Word::Denied => "denied: ",
            Word::NotIsolated => "not isolated: ",
            Word::NotSubject => "",
        };
        format!("{word}{}", self.text)
    }
}
