//! Counts of causes, to counts of policies.
//!
//! The kernel counts by policy set or rule's policy, and forgets a counter with its chain, and all with the table. So the
//! core has the counters read before it takes away what they count, or replaces the table, and the differences are added
//! up here. The programs of the short way count in a map of their own, whose entries outlive what they count for. What can be missed: packets between that look and the transaction, microseconds later; and what was counted
//! since the last look when somebody else takes the table away, at most 10 s.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use margay_api::monitor::Reason;
use margay_netlink::nftables::Count;
use margay_policy::{
    PolicyId,
    compile::{Changes, Compiler, Way},
};
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::time::Instant;

use super::name::{Charge, direction};
use crate::{
    metrics::{Metrics, PolicyLabels, ReasonLabels},
    program::nft::{Cause, Origin, cause_names, cluster_cause_names},
};

/// Policies and directions that a metric has series of; those of more are counted together.
const MOST_SERIES: usize = 256;
/// The name of those.
const OTHER: &str = "(other)";
/// Stands before the name of what the programs count, as they count beside nftables.
const OF_PROGRAMS: &str = "programs ";
/// How long the series of a policy that is gone stay, so that the last scrape before is not the last word.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Adds up what the kernel counts.
pub(crate) struct Tally {
    /// The packets of each counter when it was last read.
    last: BTreeMap<String, u64>,
    /// Who is to blame for what each counts.
    charges: BTreeMap<String, Charge>,
    reasons: Family<ReasonLabels, Counter>,
    drops: Series,
    audits: Series,
}

impl Tally {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            last: BTreeMap::new(),
            charges: BTreeMap::new(),
            reasons: metrics.drops.clone(),
            drops: Series { family: metrics.policy_drops.clone(), held: BTreeMap::new() },
            audits: Series { family: metrics.policy_audit.clone(), held: BTreeMap::new() },
        }
    }

    /// The counters that go with these changes, or count for others from then on, or begin.
    pub(crate) fn concerned(changes: &Changes) -> impl Iterator<Item = String> {
        let ways = changes.sets.iter().flat_map(|(id, set)| Way::ALL.map(|way| (*id, way, set.way(way))));
        let sets = ways.filter(|(_, _, change)| change.any).map(|(id, way, _)| cause_names(id, way));
        let causes = changes.causes.iter().map(|id| cluster_cause_names(*id));
        sets.chain(causes).flatten()
    }

    /// Takes note of who is to blame from now on, once the kernel has the changes.
    pub(crate) fn note(&mut self, compiler: &Compiler, changes: &Changes) {
        for name in Self::concerned(changes) {
            let origin = Origin::parse(&name);
            match origin.and_then(|(origin, cause)| Charge::of(compiler, origin, cause)) {
                Some(charge) => drop(self.charges.insert(name, charge)),
                None => drop(self.charges.remove(&name)),
            }
        }
    }

    /// All counters of nftables begin anew, with who is to blame now.
    pub(crate) fn restart(&mut self, compiler: &Compiler) {
        self.last.retain(|name, _| name.starts_with(OF_PROGRAMS));
        self.charges.clear();
        self.note(compiler, &compiler.everything());
    }

    /// Takes what the counters of nftables say now. `known` says whether a policy is still there.
    pub(crate) fn take(
        &mut self,
        counters: &BTreeMap<String, Count>,
        now: Instant,
        known: impl Fn(&PolicyId) -> bool,
    ) {
        self.last.retain(|name, _| name.starts_with(OF_PROGRAMS) || counters.contains_key(name));
        for (name, count) in counters {
            self.take_one(name, Some(*count));
        }
        self.drops.forget(now, &known);
        self.audits.forget(now, &known);
    }

    /// Takes what the programs say now.
    pub(crate) fn take_denials(&mut self, denials: &BTreeMap<String, u64>) {
        self.last
            .retain(|name, _| name.strip_prefix(OF_PROGRAMS).is_none_or(|name| denials.contains_key(name)));
        for (name, packets) in denials {
            self.take_packets(&format!("{OF_PROGRAMS}{name}"), *packets);
        }
    }

    /// Whether somebody is to blame for what a counter of policy counts.
    pub(crate) fn is_charged(&self, name: &str) -> bool {
        self.charges.contains_key(name)
    }

    /// Takes what one counter of nftables says now; `None` when it is not there.
    pub(crate) fn take_one(&mut self, name: &str, count: Option<Count>) {
        match count {
            Some(Count { packets, .. }) => self.take_packets(name, packets),
            None => drop(self.last.remove(name)),
        }
    }

    fn take_packets(&mut self, name: &str, packets: u64) {
        let last = self.last.get(name).copied();
        // One that went and came again since begins at nothing.
        let more = packets.checked_sub(last.unwrap_or_default()).unwrap_or(packets);
        if more > 0 || last.is_none() {
            self.last.insert(name.to_owned(), packets);
        }
        if more > 0 {
            self.add(name, more);
        }
    }

    fn add(&mut self, name: &str, more: u64) {
        let name = name.strip_prefix(OF_PROGRAMS).unwrap_or(name);
        let Some((origin, cause)) = Origin::parse(name) else { return };
        let charge = self.charges.get(name);
        let (way, reason) = match origin {
            Origin::Isolation(_, way) => (Some(way), Reason::Isolation),
            Origin::Cluster(_) => (charge.map(|charge| charge.way), Reason::Cluster),
            Origin::Midstream(way) => (Some(way), Reason::Midstream),
            Origin::Unknown(way) => (Some(way), Reason::Unknown),
            Origin::Tunnel(way) => (Some(way), Reason::Tunnel),
            Origin::Spoof => (Some(Way::Egress), Reason::Spoof),
        };
        // The direction of a cause is known from before its counter is there.
        let Some(way) = way else { return };
        if cause == Cause::Drop {
            let labels = ReasonLabels { reason: reason.text(), direction: direction(way).text() };
            self.reasons.get_or_create(&labels).inc_by(more);
        }
        let series = match cause {
            Cause::Drop => &mut self.drops,
            Cause::Audit => &mut self.audits,
        };
        for policy in charge.into_iter().flat_map(|charge| &charge.policies) {
            series.add(policy, way, more);
        }
    }
}

/// The series of a metric.
struct Series {
    family: Family<PolicyLabels, Counter>,
    /// Those of policies, each with when it was seen first that the policy is gone.
    held: BTreeMap<(PolicyId, Way), Option<Instant>>,
}

impl Series {
    fn add(&mut self, policy: &PolicyId, way: Way, more: u64) {
        let key = (policy.clone(), way);
        let labels = if self.held.contains_key(&key) || self.held.len() < MOST_SERIES {
            self.held.entry(key).or_insert(None);
            labels(policy, way)
        } else {
            PolicyLabels { policy: OTHER.into(), ..labels(policy, way) }
        };
        self.family.get_or_create(&labels).inc_by(more);
    }

    /// Forgets policies that are gone for long.
    fn forget(&mut self, now: Instant, known: impl Fn(&PolicyId) -> bool) {
        let mut old = BTreeSet::new();
        for ((policy, way), gone) in &mut self.held {
            if known(policy) {
                *gone = None;
            } else if now.duration_since(*gone.get_or_insert(now)) >= REMEMBERED {
                old.insert((policy.clone(), *way));
            }
        }
        for (policy, way) in old {
            self.family.remove(&labels(&policy, way));
            self.held.remove(&(policy, way));
        }
    }
}

fn labels(policy: &PolicyId, way: Way) -> PolicyLabels {
    let (kind, policy) = match policy {
        PolicyId::Network(name) => ("NetworkPolicy", name.to_string()),
        PolicyId::Cluster(name) => ("ClusterNetworkPolicy", name.clone()),
    };
    PolicyLabels { kind, policy, direction: direction(way).text() }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use margay_netlink::nftables::Count;
    use margay_policy::{
        Objects, PodName, PolicyId,
        compile::{Changes, Compiler, Touched},
        convert, convert_cluster, convert_pod,
    };
    use tokio::time::Instant;

    use super::{MOST_SERIES, REMEMBERED, Tally};
    use crate::metrics::Metrics;

    struct World {
        metrics: Metrics,
        tally: Tally,
        objects: Objects,
        compiler: Compiler,
        start: Instant,
    }

    /// The pods p0, p1, ... of namespace `x`, which their policies can tell by the label `pod`.
    impl World {
        fn new(pods: usize) -> Self {
            let mut objects = Objects::default();
            for number in 0..pods {
                let text = format!(
                    "{{metadata: {{namespace: x, name: p{number}, labels: {{pod: p{number}}}}}, spec: {{containers: []}},\
                     status: {{podIPs: [{{ip: '2001:db8::{number:x}'}}]}}}}"
                );
                let (pod, _) = convert_pod(&serde_saphyr::from_str(&text).unwrap());
                objects.pods.insert(PodName::new("x", format!("p{number}")), Arc::new(pod));
            }
            let metrics = Metrics::new();
            let tally = Tally::new(&metrics);
            #[expect(clippy::disallowed_methods, reason = "tokio has no other beginning of time")]
            let start = Instant::from_std(std::time::Instant::now());
            Self { metrics, tally, objects, compiler: Compiler::default(), start }
        }

        fn put(&mut self, name: &str, rest: &str) {
            let text = format!(
                "{{metadata: {{namespace: x, name: {name}}}, spec: {{policyTypes: [Ingress], {rest}}}}}"
            );
            let policy = convert(&serde_saphyr::from_str(&text).unwrap()).0.unwrap();
            self.objects.policies.insert(policy.name.clone(), policy);
        }

        fn decide(&mut self) -> Changes {
            let touched = Touched::everything(&self.objects);
            let changes = self.compiler.update(&self.objects, |_| true, &touched);
            self.tally.note(&self.compiler, &changes);
            changes
        }

        fn count(&mut self, counters: &[(&str, u64)], after: Duration) {
            self.count_all(counters, &[], after);
        }

        fn count_all(&mut self, counters: &[(&str, u64)], denials: &[(&str, u64)], after: Duration) {
            let denials = denials.iter().map(|(name, packets)| ((*name).to_owned(), *packets)).collect();
            let counters: BTreeMap<String, Count> = counters
                .iter()
                .map(|(name, packets)| ((*name).to_owned(), Count { packets: *packets, octets: 0 }))
                .collect();
            let policies = &self.objects.policies;
            self.tally.take_denials(&denials);
            self.tally.take(
                &counters,
                self.start + after,
                |policy| matches!(policy, PolicyId::Network(name) if policies.contains_key(name)),
            );
        }

        fn value(&self, line: &str) -> Option<u64> {
            let text = self.metrics.text();
            let rest = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '))?;
            Some(rest.parse().unwrap())
        }

        fn of_policy(&self, metric: &str, name: &str) -> Option<u64> {
            let labels = format!("kind=\"NetworkPolicy\",policy=\"{name}\",direction=\"ingress\"");
            self.value(&format!("margay_policy_{metric}_total{{{labels}}}"))
        }

        fn isolation(&self) -> Option<u64> {
            self.value("margay_drops_total{reason=\"isolation\",direction=\"ingress\"}")
        }
    }

    #[test]
    fn a_packet_counts_once_for_its_reason_and_once_for_each_policy_that_isolates() {
        let mut world = World::new(1);
        world.put("a", "podSelector: {}");
        world.put("b", "podSelector: {}");
        world.decide();
        world.count(&[("s1_in_drop", 3), ("s1_out_drop", 0), ("spoof", 1)], Duration::ZERO);
        world.count(&[("s1_in_drop", 5), ("s1_out_drop", 0), ("spoof", 1), ("nonsense", 9)], Duration::ZERO);
        assert_eq!(world.isolation(), Some(5));
        assert_eq!(world.value("margay_drops_total{reason=\"spoof\",direction=\"egress\"}"), Some(1));
        assert_eq!([world.of_policy("drops", "x/a"), world.of_policy("drops", "x/b")], [Some(5); 2]);
        assert_eq!(world.of_policy("audit", "x/a"), None);
    }

    #[test]
    fn what_a_policy_of_the_cluster_denies_is_counted_with_its_name_and_direction() {
        let mut world = World::new(1);
        let text = "{metadata: {name: c}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: ['::/0']}]}]}}";
        let policy = convert_cluster(&serde_saphyr::from_str(text).unwrap()).0.unwrap();
        world.objects.cluster_policies.insert("c".into(), policy);
        world.decide();
        world.count(&[("c1_drop", 2), ("c1_audit", 1)], Duration::ZERO);
        let labels = "kind=\"ClusterNetworkPolicy\",policy=\"c\",direction=\"egress\"";
        assert_eq!(world.value(&format!("margay_policy_drops_total{{{labels}}}")), Some(2));
        assert_eq!(world.value(&format!("margay_policy_audit_total{{{labels}}}")), Some(1));
        assert_eq!(world.value("margay_drops_total{reason=\"cluster\",direction=\"egress\"}"), Some(2));
    }

    #[test]
    fn counters_that_begin_anew_add_to_what_was_counted_before() {
        let mut world = World::new(1);
        world.put("a", "podSelector: {}");
        world.decide();
        world.count(&[("s1_in_drop", 3)], Duration::ZERO);
        // Less than before; gone and back; and, after a replacement that is known, more than before.
        world.count(&[("s1_in_drop", 2)], Duration::ZERO);
        world.count(&[], Duration::ZERO);
        world.count(&[("s1_in_drop", 4)], Duration::ZERO);
        world.tally.restart(&world.compiler);
        world.count(&[("s1_in_drop", 5)], Duration::ZERO);
        assert_eq!((world.isolation(), world.of_policy("drops", "x/a")), (Some(14), Some(14)));
    }

    #[test]
    fn what_the_programs_drop_adds_to_what_nftables_does_and_does_not_begin_anew_with_its_table() {
        let mut world = World::new(1);
        world.put("a", "podSelector: {}");
        world.decide();
        world.count_all(&[("s1_in_drop", 3)], &[("s1_in_drop", 10)], Duration::ZERO);
        world.count_all(&[("s1_in_drop", 4)], &[("s1_in_drop", 12)], Duration::ZERO);
        assert_eq!((world.isolation(), world.of_policy("drops", "x/a")), (Some(16), Some(16)));
        world.tally.restart(&world.compiler);
        world.count_all(&[("s1_in_drop", 1)], &[("s1_in_drop", 12)], Duration::ZERO);
        assert_eq!(world.isolation(), Some(17));
        // Taken away, and counted from nothing.
        world.count_all(&[("s1_in_drop", 1)], &[], Duration::ZERO);
        world.count_all(&[("s1_in_drop", 1)], &[("s1_in_drop", 2)], Duration::ZERO);
        assert_eq!((world.isolation(), world.of_policy("drops", "x/a")), (Some(19), Some(19)));
        assert!(world.tally.is_charged("s1_in_drop") && !world.tally.is_charged("s9_in_drop"));
    }

    #[test]
    fn what_was_dropped_before_a_policy_goes_is_its_own_and_its_series_stays_for_a_while() {
        let mut world = World::new(1);
        world.put("a", "podSelector: {}");
        world.put("b", "podSelector: {}");
        world.decide();
        world.count(&[("s1_in_drop", 1)], Duration::ZERO);
        world.objects.policies.retain(|name, _| name.name == "b");
        let name = margay_policy::PolicyRef { namespace: "x".into(), name: "a".into() };
        let mut touched = Touched::everything(&world.objects);
        touched.policies.insert(PolicyId::Network(name));
        let changes = world.compiler.update(&world.objects, |_| true, &touched);
        assert!(Tally::concerned(&changes).any(|name| name == "s1_in_drop"));
        // The look before the transaction, which is why there is one.
        world.count(&[("s1_in_drop", 3)], Duration::ZERO);
        world.tally.note(&world.compiler, &changes);
        let set = world.compiler.sets().next().unwrap().0.0;
        let counter = format!("s{set}_in_drop");
        let begun = if set == 1 { 3 } else { 0 };
        world.count(&[(&counter, begun + 4)], Duration::from_secs(1));
        assert_eq!([world.of_policy("drops", "x/a"), world.of_policy("drops", "x/b")], [Some(3), Some(7)]);
        world.count(&[(&counter, begun + 4)], REMEMBERED);
        assert_eq!(world.of_policy("drops", "x/a"), None);
        assert_eq!((world.of_policy("drops", "x/b"), world.isolation()), (Some(7), Some(7)));
    }

    #[test]
    fn as_long_as_the_kernel_refuses_changes_its_counters_are_of_those_that_it_has() {
        let mut world = World::new(1);
        world.put("a", "podSelector: {}");
        world.decide();
        world.put("b", "podSelector: {}");
        let touched = Touched::everything(&world.objects);
        world.compiler.update(&world.objects, |_| true, &touched);
        world.count(&[("s1_in_drop", 3)], Duration::ZERO);
        assert_eq!([world.of_policy("drops", "x/a"), world.of_policy("drops", "x/b")], [Some(3), None]);
        world.tally.restart(&world.compiler);
        let set = world.compiler.sets().next().unwrap().0.0;
        world.count(&[(&format!("s{set}_in_drop"), 1)], Duration::ZERO);
        assert_eq!([world.of_policy("drops", "x/a"), world.of_policy("drops", "x/b")], [Some(4), Some(1)]);
    }

    #[test]
    fn more_policies_than_a_metric_has_series_of_are_counted_together() {
        let mut world = World::new(MOST_SERIES + 2);
        for number in 0..MOST_SERIES + 2 {
            world.put(&format!("a{number}"), &format!("podSelector: {{matchLabels: {{pod: p{number}}}}}"));
        }
        world.decide();
        let names: Vec<String> = world.compiler.sets().map(|(id, _)| format!("s{}_in_drop", id.0)).collect();
        assert_eq!(names.len(), MOST_SERIES + 2);
        // Those that drop nothing take no place.
        world.count(&[(&names[0], 0)], Duration::ZERO);
        assert_eq!(world.metrics.text().matches("margay_policy_drops_total{").count(), 0);
        let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        world.count(&all, Duration::ZERO);
        assert_eq!(world.metrics.text().matches("margay_policy_drops_total{").count(), MOST_SERIES + 1);
        assert_eq!((world.of_policy("drops", "(other)"), world.isolation()), (Some(2), Some(258)));
    }
}
