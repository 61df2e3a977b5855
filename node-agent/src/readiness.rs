//! When the node has been without its network for so long that others must know.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    news::tell,
    notice::{Notices, Reason},
    program::network_condition::Network,
};

/// Follows what the node lacks, and tells it by an Event and by the condition `NetworkUnavailable`.
///
/// A restart of the agent, of the speaker or of the API server is over before: those who schedule pods need not know.
pub(crate) struct Readiness {
    patience: Duration,
    network: watch::Sender<Option<Network>>,
    notices: Notices,
    /// Since when something lacks.
    unready: Option<Instant>,
    /// What was told of that last, and when.
    told: Option<(String, Instant)>,
}

impl Readiness {
    /// Nothing is known yet.
    pub(crate) fn new(patience: Duration, network: watch::Sender<Option<Network>>, notices: Notices) -> Self {
        Self { patience, network, notices, unready: None, told: None }
    }

    /// Takes note of what the node lacks now.
    pub(crate) fn note(&mut self, missing: &[String], now: Instant) {
        if missing.is_empty() {
            self.unready = None;
            if self.told.take().is_some() {
                self.notices.of_node(Reason::READY, "pods can be added again");
            }
            self.set(Network::Up);
            return;
        }
        let since = *self.unready.get_or_insert(now);
        let what = missing.join("; ");
        let (last, is_new) = self.told.as_ref().map_or((since, true), |(told, at)| (*at, *told != what));
        if !is_new || now.duration_since(last) < self.patience {
            return;
        }
        self.told = Some((what.clone(), now));
        self.notices.of_node(Reason::NOT_READY, format!("for {:?}: {what}", self.patience));
        self.set(Network::Down(what));
    }

    fn set(&self, network: Network) {
        tell(&self.network, Some(network));
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{sync::watch, time::Instant};

    use super::Readiness;
    use crate::{metrics::Metrics, notice, program::network_condition::Network};

    #[test]
    fn what_lacks_is_told_after_a_while_and_at_once_when_it_is_there() {
        let (notices, _inbox) = notice::queue(&Arc::new(Metrics::new()));
        let (network, known) = watch::channel(None);
        let mut readiness = Readiness::new(Duration::from_mins(1), network, notices);
        let (start, missing, other) = (Instant::now(), ["bgp: away".to_owned()], ["api: away".to_owned()]);
        for (seconds, missing, wanted) in [
            (0, &missing[..], None),
            (59, &missing[..], None),
            (60, &[], Some(Network::Up)),
            (61, &missing[..], Some(Network::Up)),
            (120, &missing[..], Some(Network::Up)),
            (121, &missing[..], Some(Network::Down("bgp: away".into()))),
            (180, &other[..], Some(Network::Down("bgp: away".into()))),
            (181, &other[..], Some(Network::Down("api: away".into()))),
            (182, &[], Some(Network::Up)),
        ] {
            readiness.note(missing, start + Duration::from_secs(seconds));
            assert_eq!(*known.borrow(), wanted, "{seconds}");
        }
    }
}
