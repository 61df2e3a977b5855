//! From what is known to what the kernel has.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use margay_netlink::conntrack::Connection;
use margay_policy::{
    PolicyId,
    compile::{Changes, Tightened},
};
use tokio::{sync::mpsc::error::TrySendError, time::Instant};
use tracing::{error, info, warn};

use super::{Changed, Core, RETRY};
use crate::{
    config::Settings,
    decide::{Decision, State, Wanted},
    metrics::Outcome,
    news::tell,
    notice::Reason,
    observe::Tally,
    program::connections::{self, Found},
};

/// Counters that are asked for one by one; of more, all are listed at once.
const MOST_ASKED_BY_NAME: usize = 32;

impl Core {
    /// Decides, and has the drivers make it so.
    pub(super) fn program(&mut self) {
        self.changed = Changed::No;
        self.retry = None;
        let started = Instant::now();
        let Some(Decision { wanted, changes }) = self.decide() else {
            return;
        };
        self.doubtful.extend(doubtful(&changes.tightened, &self.state));
        let wanted = Arc::new(wanted);
        let is_replaced = self.nft.replaces();
        // What goes now takes its counters with it.
        if is_replaced {
            self.count_drops();
        } else {
            self.count_last_drops(&changes);
        }
        self.short_way.prepare(&wanted, self.decider.compiler(), &changes);
        match self.nft.apply(&wanted, self.decider.compiler(), &changes) {
            Ok(0) => {}
            Ok(changes) => {
                self.pace.wrote(Instant::now());
                self.metrics.table_changes.inc_by(u64::try_from(changes).unwrap_or(u64::MAX));
                self.metrics.transactions.get_or_create(&Outcome { outcome: "applied" }).inc();
                self.metrics.program_seconds.observe(started.elapsed().as_secs_f64());
            }
            Err(error) => {
                self.metrics.transactions.get_or_create(&Outcome { outcome: "refused" }).inc();
                let error = error.to_string();
                if self.last_error.as_ref() != Some(&error) {
                    error!(error, "the policy is not in the kernel; trying again each second");
                }
                let note = format!("the kernel refuses the table inet margay; what was there stays: {error}");
                self.notices.of_node(Reason::POLICY_NOT_PROGRAMMED, note);
                self.short_way.resume();
                self.last_error = Some(error);
                self.retry = Some(Instant::now() + RETRY);
                return;
            }
        }
        self.doubtful.extend(self.short_way.write());
        let compiler = self.decider.compiler();
        if is_replaced {
            self.tally.restart(compiler);
        } else {
            self.tally.note(compiler, &changes);
        }
        if self.last_error.take().is_some() {
            info!("the policy is in the kernel");
        }
        self.count(&wanted);
        self.programmed = Some(Arc::clone(&wanted));
        self.doubt();
        if wanted.bgp.is_some() {
            tell(&self.topology, wanted.bgp.clone());
        }
        // A tunnel listens on another port when the table guards that one.
        self.followed.send_if_modified(|told| {
            let now = &self.settings;
            let differs = (told.mtu, &told.traffic, &told.node_address, told.self_test)
                != (now.mtu, &now.traffic, &now.node_address, now.self_test);
            if differs {
                told.clone_from(now);
            }
            differs
        });
        if wanted.paths.is_some() {
            tell(&self.paths, wanted.paths.clone());
        }
        if wanted.peers.is_some() {
            tell(&self.peers, wanted.peers.clone());
        }
        // The rest of the time a look at each reconcile is enough: not at each pod that is added.
        if self.node.changed {
            self.configure_node(&wanted.blocks);
        }
    }

    fn decide(&mut self) -> Option<Decision> {
        let Settings { bgp, traffic, .. } = &self.settings;
        self.decider.decide(&mut self.state, bgp, traffic)
    }

    /// Has the connections looked at that may be forbidden now, once the kernel lets no new ones like them begin.
    pub(super) fn doubt(&mut self) {
        if !self.doubtful.is_empty() && !self.nft.replaces() {
            match self.connections.try_send(std::mem::take(&mut self.doubtful)) {
                Ok(()) => {}
                // There are looks enough under way; the reconcile comes back to it.
                Err(TrySendError::Full(addresses) | TrySendError::Closed(addresses)) => {
                    self.doubtful = addresses;
                }
            }
        }
    }

    /// Of some connections, those that the policy in the kernel forbids; they go on being doubtful while it is not there.
    pub(super) fn forbidden(&mut self, found: Vec<Found>) -> Vec<Connection> {
        if self.nft.replaces() {
            let ends = found.iter().map(|found| &found.connection);
            self.doubtful.extend(ends.flat_map(|connection| [connection.source, connection.destination]));
            return Vec::new();
        }
        let compiler = self.decider.compiler();
        let forbidden = found.into_iter().filter(|found| connections::is_forbidden(compiler, found));
        forbidden.map(|found| found.connection).collect()
    }

    /// Counts what the kernel has counted since the last look.
    pub(super) fn count_drops(&mut self) {
        // Before, the table is another agent's.
        if self.programmed.is_none() {
            return;
        }
        match self.nft.counters() {
            Ok(counters) => {
                let objects = self.state.objects();
                self.tally.take(&counters, Instant::now(), |policy| match policy {
                    PolicyId::Network(name) => objects.policies.contains_key(name),
                    PolicyId::Cluster(name) => objects.cluster_policies.contains_key(name),
                });
            }
            Err(error) => warn!(%error, "the counters of dropped packets cannot be read"),
        }
        self.count_denials();
        self.short_way.keep_denials(|name| self.tally.is_charged(name));
    }

    /// Likewise of the programs.
    fn count_denials(&mut self) {
        if let Some(denials) = self.short_way.denials() {
            self.tally.take_denials(&denials);
        }
    }

    /// Reads the counters that go with these changes, or count for others from then on.
    fn count_last_drops(&mut self, changes: &Changes) {
        if self.programmed.is_none() {
            return;
        }
        let names: Vec<String> = Tally::concerned(changes).collect();
        if names.is_empty() {
            return;
        }
        if names.len() > MOST_ASKED_BY_NAME {
            return self.count_drops();
        }
        for name in names {
            match self.nft.counter(&name) {
                Ok(count) => self.tally.take_one(&name, count),
                Err(error) => warn!(%error, "a counter of dropped packets cannot be read"),
            }
        }
        self.count_denials();
    }

    fn count(&self, wanted: &Wanted) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.endpoints.set(gauge(wanted.endpoints.len()));
        self.metrics.policies.set(gauge(self.state.objects().policies.len()));
        let compiler = self.decider.compiler();
        self.metrics.policy_sets.set(gauge(compiler.sets().count()));
        self.metrics.classes.set(gauge(compiler.classes()));
    }
}

/// The addresses of whatever has connections that may be forbidden now.
fn doubtful(tightened: &Tightened, state: &State) -> BTreeSet<IpAddr> {
    let pods = tightened.pods.iter().filter_map(|name| state.objects().pods.get(name));
    pods.flat_map(|pod| &pod.addresses).chain(&tightened.addresses).copied().collect()
}
