//! Whoever is told of what is dropped, or of what begins.

use std::{sync::Arc, time::Duration};

use margay_api::monitor::{Begun, Dropped, Filter};
use tokio::sync::{mpsc, oneshot};

/// Clients of a kind at once; each costs what waits for it.
pub(super) const MOST_CLIENTS: usize = 32;
/// How long those who lost events wait to be told when no event comes that could tell them.
pub(super) const TOLD_AFTER: Duration = Duration::from_secs(1);

/// A client that wants to hear.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) filter: Filter,
    /// What waits there is what it may be late by.
    pub(crate) events: mpsc::Sender<Said>,
    /// Why it cannot be, in words for an operator.
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// What a client hears.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Dropped(Arc<Dropped>),
    Begun(Arc<Begun>),
    /// So many were lost before this.
    Lost(u64),
}

/// One that is there.
pub(super) struct Client {
    pub(super) filter: Filter,
    pub(super) events: mpsc::Sender<Said>,
    /// Events that it was not told of yet that they are lost.
    pub(super) lost: u64,
}

impl Client {
    /// One that has lost nothing.
    pub(super) fn new(filter: Filter, events: mpsc::Sender<Said>) -> Self {
        Self { filter, events, lost: 0 }
    }

    /// Tells it, or counts what it loses; nothing when it has all.
    pub(super) fn tell(&mut self, event: Option<Said>) {
        if self.lost > 0 && self.events.try_send(Said::Lost(self.lost)).is_ok() {
            self.lost = 0;
        }
        let Some(event) = event else { return };
        // In order: what comes after a loss waits for the word of the loss.
        if self.lost > 0 || self.events.try_send(event).is_err() {
            self.lost += 1;
        }
    }
}
