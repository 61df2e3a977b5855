//! What `/metrics` shows.

use margay_api::monitor::{Direction, Reason};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::program::leak::Reclaimed;

/// A label: which resource an event was of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Resource {
    pub(crate) resource: &'static str,
}

/// A label: how something ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) outcome: &'static str,
}

/// A label: what had leaked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Leak {
    pub(crate) kind: &'static str,
}

/// Labels: why a packet was dropped, seen from the pod that policy is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub(crate) reason: &'static str,
    pub(crate) direction: &'static str,
}

/// Labels: a policy, likewise.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PolicyLabels {
    pub(crate) kind: &'static str,
    pub(crate) policy: String,
    pub(crate) direction: &'static str,
}

/// A label: what carries and judges packets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DataplaneLabels {
    pub(crate) dataplane: &'static str,
}

/// A label: what the programs of the eBPF dataplane did with a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WayLabels {
    pub(crate) way: &'static str,
}

/// A label: a map of the eBPF dataplane, by its field in the section `ebpf`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MapLabels {
    pub(crate) map: &'static str,
}

/// A label: how ways to other nodes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WayState {
    pub(crate) state: &'static str,
}

/// A label: what the kernel told of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct News {
    pub(crate) of: &'static str,
}

impl News {
    /// Links, routes and neighbours.
    pub(crate) const ROUTES: Self = Self { of: "routes" };
    /// The table of nftables.
    pub(crate) const TABLE: Self = Self { of: "table" };
}

/// Seconds: a transaction takes a few milliseconds; a start with a large state, a second.
const BUCKETS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// All metrics, each with its name in the registry.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) ready: Gauge,
    pub(crate) restart_needed: Gauge,
    pub(crate) endpoints: Gauge,
    pub(crate) policies: Gauge,
    pub(crate) classes: Gauge,
    pub(crate) policy_sets: Gauge,
    pub(crate) api_events: Family<Resource, Counter>,
    pub(crate) unreadable: Family<Resource, Counter>,
    pub(crate) invalid: Family<Resource, Gauge>,
    pub(crate) transactions: Family<Outcome, Counter>,
    pub(crate) table_changes: Counter,
    pub(crate) program_seconds: Histogram,
    pub(crate) reclaimed: Family<Leak, Counter>,
    pub(crate) unrecorded: Gauge,
    pub(crate) repaired: Counter,
    pub(crate) overruns: Family<News, Counter>,
    pub(crate) bgp_established: Gauge,
    pub(crate) bgp_neighbors: Gauge,
    pub(crate) drops: Family<ReasonLabels, Counter>,
    pub(crate) policy_drops: Family<PolicyLabels, Counter>,
    pub(crate) policy_audit: Family<PolicyLabels, Counter>,
    pub(crate) dataplane: Family<DataplaneLabels, Gauge>,
    pub(crate) short_way_open: Gauge,
    pub(crate) ways: Family<WayLabels, Counter>,
    pub(crate) map_entries: Family<MapLabels, Gauge>,
    pub(crate) map_capacity: Family<MapLabels, Gauge>,
    pub(crate) ways_tested: Family<WayState, Gauge>,
    pub(crate) notices_dropped: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            ready: Gauge::default(),
            restart_needed: Gauge::default(),
            endpoints: Gauge::default(),
            policies: Gauge::default(),
            classes: Gauge::default(),
            policy_sets: Gauge::default(),
            api_events: Family::default(),
            unreadable: Family::default(),
            invalid: Family::default(),
            transactions: Family::default(),
            table_changes: Counter::default(),
            program_seconds: Histogram::new(BUCKETS),
            reclaimed: Family::default(),
            unrecorded: Gauge::default(),
            repaired: Counter::default(),
            overruns: Family::default(),
            bgp_established: Gauge::default(),
            bgp_neighbors: Gauge::default(),
            drops: Family::default(),
            policy_drops: Family::default(),
            policy_audit: Family::default(),
            dataplane: Family::default(),
            short_way_open: Gauge::default(),
            ways: Family::default(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            ways_tested: Family::default(),
            notices_dropped: Counter::default(),
            registry: Registry::with_prefix("margay"),
        };
        metrics.register();
        metrics.begin();
        metrics
    }

    /// Gives each its name.
    fn register(&mut self) {
        let (mut registry, metrics) = (std::mem::take(&mut self.registry), &*self);
        let waits = "Whether settings of NetworkConfig count from the next start";
        registry.register("restart_needed", waits, metrics.restart_needed.clone());
        registry.register("ready", "Whether pods can be added, as /readyz says", metrics.ready.clone());
        registry.register("endpoints", "Pod interfaces on this node", metrics.endpoints.clone());
        registry.register("policies", "NetworkPolicies known", metrics.policies.clone());
        registry.register("policy_classes", "Address classes in use on this node", metrics.classes.clone());
        registry.register("policy_sets", "Policy sets in use on this node", metrics.policy_sets.clone());
        registry.register("api_events", "Events received from the API server", metrics.api_events.clone());
        registry.register(
            "unreadable_objects",
            "Objects, or parts of them, that could not be read",
            metrics.unreadable.clone(),
        );
        registry.register(
            "invalid_objects",
            "Objects that cannot be read now, in whole or in part",
            metrics.invalid.clone(),
        );
        registry.register("nft_transactions", "nftables transactions", metrics.transactions.clone());
        registry.register(
            "nft_changes",
            "What they added and deleted: elements, rules, chains, sets and counters",
            metrics.table_changes.clone(),
        );
        registry.register(
            "program_seconds",
            "Seconds from a change to the kernel's acknowledgement",
            metrics.program_seconds.clone(),
        );
        registry.register(
            "ipam_reclaimed",
            "Leaked addresses, links and endpoint records taken back",
            metrics.reclaimed.clone(),
        );
        registry.register(
            "ipam_unrecorded_links",
            "Pod links whose endpoint records are lost, left alone and closed",
            metrics.unrecorded.clone(),
        );
        registry.register("repaired", "Routes and neighbours of pods put back", metrics.repaired.clone());
        registry.register(
            "netlink_overruns",
            "Times that the kernel told of changes faster than they were read, and all was looked at anew",
            metrics.overruns.clone(),
        );
        registry.register(
            "bgp_sessions_established",
            "BGP sessions in state Established",
            metrics.bgp_established.clone(),
        );
        registry.register("bgp_neighbors", "BGP neighbours configured", metrics.bgp_neighbors.clone());
        registry.register("drops", "Packets dropped, by reason", metrics.drops.clone());
        registry.register(
            "policy_drops",
            "Packets dropped by a policy; one that several policies drop counts for each",
            metrics.policy_drops.clone(),
        );
        registry.register(
            "policy_audit",
            "Packets that a policy in audit would drop, likewise",
            metrics.policy_audit.clone(),
        );
        registry.register(
            "ways_to_nodes",
            "Ways to other nodes, by their tests",
            metrics.ways_tested.clone(),
        );
        metrics.register_dataplane(&mut registry);
        registry.register(
            "events_dropped",
            "Kubernetes Events that were too many, or that the API server refused",
            metrics.notices_dropped.clone(),
        );
        self.registry = registry;
    }

    fn register_dataplane(&self, registry: &mut Registry) {
        registry.register("dataplane", "1 for what carries and judges packets", self.dataplane.clone());
        registry.register(
            "short_way_open",
            "Whether the eBPF dataplane takes flows round the stack; 0 when all take the way through it",
            self.short_way_open.clone(),
        );
        registry.register(
            "short_way_packets",
            "Packets between pods that the eBPF dataplane looked at, by the way that they took",
            self.ways.clone(),
        );
        registry.register(
            "ebpf_map_entries",
            "Entries that are wanted in a map of the eBPF dataplane; of flows, those that have not timed out",
            self.map_entries.clone(),
        );
        registry.register("ebpf_map_capacity", "Entries that it has room for", self.map_capacity.clone());
    }

    /// Begins the series whose labels are known: one that comes with its first count has no increase to tell of it.
    fn begin(&self) {
        for of in [News::ROUTES, News::TABLE] {
            drop(self.overruns.get_or_create(&of));
        }
        for outcome in ["applied", "refused"] {
            drop(self.transactions.get_or_create(&Outcome { outcome }));
        }
        for kind in ["record", "link", "address"] {
            drop(self.reclaimed.get_or_create(&Leak { kind }));
        }
        for reason in Reason::ALL {
            for direction in [Direction::Ingress, Direction::Egress] {
                let labels = ReasonLabels { reason: reason.text(), direction: direction.text() };
                drop(self.drops.get_or_create(&labels));
            }
        }
    }

    /// Takes note of what a look for leaks has found.
    pub(crate) fn count_reclaimed(&self, reclaimed: Reclaimed) {
        let Reclaimed { records, links, addresses, unrecorded } = reclaimed;
        for (kind, count) in [("record", records), ("link", links), ("address", addresses)] {
            self.reclaimed.get_or_create(&Leak { kind }).inc_by(count);
        }
        self.unrecorded.set(i64::try_from(unrecorded).unwrap_or(i64::MAX));
    }

    /// The metrics as `OpenMetrics` text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a String does not fail.
            Err(std::fmt::Error) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Outcome};

    #[test]
    fn names_have_the_prefix_and_counters_their_ending() {
        let metrics = Metrics::new();
        assert!(metrics.text().contains("margay_nft_transactions_total{outcome=\"refused\"} 0"));
        metrics.transactions.get_or_create(&Outcome { outcome: "applied" }).inc();
        let text = metrics.text();
        assert!(text.contains("margay_nft_transactions_total{outcome=\"applied\"} 1"), "{text}");
        assert!(text.contains("margay_endpoints 0"), "{text}");
    }

    #[test]
    fn each_metric_is_explained_to_operators() {
        let docs = include_str!("../../docs/operating.md");
        // The text has no metric that nothing has been counted of yet: the source has all.
        let registered = include_str!("metrics.rs").split(concat!("registry", ".register(")).skip(1);
        let names: Vec<&str> = registered.filter_map(|rest| rest.split('"').nth(1)).collect();
        assert!(names.contains(&"ready"), "{names:?}");
        for name in names {
            assert!(
                docs.contains(&format!("`margay_{name}")),
                "docs/operating.md does not name margay_{name}"
            );
        }
    }
}
