//! Probing pods from the moment their network exists.

use super::case::{Expect, IpFamily, Verdict};
use super::check::failure;
use super::pattern::Endpoint;
use super::report::Failure;
use super::table::{Row, verdict};
use super::world::World;
use crate::pods::Pods;
use crate::station::Station;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often a row is tried, and how long a try waits for its answer.
const PERIOD: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_millis(400);

/// Tries that go on for as long as this lives.
pub(super) struct Startup {
    step: String,
    opened: Arc<Mutex<BTreeSet<Row>>>,
    _tries: JoinSet<()>,
}

impl Startup {
    /// Begins to try the rows of a step that must be denied from the first moment on.
    pub(super) fn begin(world: &World<'_>, step: &str, expect: &Expect, rows: Vec<Row>) -> Self {
        let opened: Arc<Mutex<BTreeSet<Row>>> = Arc::default();
        let mut tries = JoinSet::new();
        let mut settled = BTreeMap::new();
        for row in rows.into_iter().filter(|row| verdict(expect, row) == Verdict::Deny) {
            for end in [&row.from, &row.to] {
                let known = World::party(end).and_then(|party| world.lab.locate(&party));
                if let (false, Ok(known)) = (settled.contains_key(end), known) {
                    settled.insert(end.clone(), known);
                }
            }
            let ends = Ends { pods: world.lab.pods().clone(), settled: settled.clone(), row };
            tries.spawn(ends.keep_trying(Arc::clone(&opened)));
        }
        Self { step: step.to_owned(), opened, _tries: tries }
    }

    /// Ends the tries, and gives the rows that have opened.
    pub(super) fn end(self) -> Vec<Failure> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = "open while the pod was starting";
        opened.iter().map(|row| failure(&self.step, row, Verdict::Deny, seen.into())).collect()
    }
}

struct Ends {
    pods: Pods,
    /// Those who were there before.
    settled: BTreeMap<Endpoint, (Arc<Station>, Vec<IpAddr>)>,
    row: Row,
}

impl Ends {
    async fn keep_trying(self, opened: Arc<Mutex<BTreeSet<Row>>>) {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut tries = JoinSet::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let ready = self.end(&self.row.from).zip(self.end(&self.row.to));
                    let Some(((station, _), (_, addresses))) = ready else { continue };
                    let is_ipv4 = self.row.family == IpFamily::Ipv4;
                    let Some(to) = addresses.into_iter().find(|a| a.is_ipv4() == is_ipv4) else { continue };
                    let port = self.row.port;
                    tries.spawn(async move {
                        station.probe(SocketAddr::new(to, port.number), port.protocol, LIMIT).await.is_open()
                    });
                }
                Some(Ok(true)) = tries.join_next() => {
                    opened.lock().unwrap_or_else(PoisonError::into_inner).insert(self.row.clone());
                }
            }
        }
    }

    fn end(&self, endpoint: &Endpoint) -> Option<(Arc<Station>, Vec<IpAddr>)> {
        if let Endpoint::Pod(key) = endpoint
            && let Some(pod) = self.pods.find(key)
        {
            // The pod's own word, before anyone reports its addresses.
            let addresses = pod.station.addresses().ok()?;
            return Some((pod.station, addresses));
        }
        self.settled.get(endpoint).cloned()
    }
}
