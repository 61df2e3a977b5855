//! Keeps the speaker configured: a task of its own that follows the wanted configuration.

use std::{
    error::Error as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use margay_bgp::{
    config::Config,
    control::{Client, ControlError, Status},
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use crate::{core::Event, metrics::Metrics, peering::Plan};

/// How often the speaker is asked how it is: it may have restarted and forgotten its configuration.
const POLL: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was last heard of the speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Nothing yet.
    NotYet,
    /// It is so.
    Status(Status),
    /// It cannot be reached, or does not take its configuration.
    Failed(String),
}

/// Follows `wanted` for ever.
pub(crate) async fn run(
    socket: PathBuf,
    mut wanted: watch::Receiver<Option<Plan>>,
    sightings: watch::Sender<Sighting>,
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    let mut given: Option<Arc<Config>> = None;
    let mut last: Option<Result<(), String>> = None;
    loop {
        tokio::select! {
            _ = poll.tick() => {}
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
        }
        let config = wanted.borrow_and_update().as_ref().map(|plan| Arc::clone(&plan.config));
        let Some(config) = config else { continue };
        let outcome = match converse(&socket, &mut connection, &mut given, &config).await {
            Ok(status) => {
                publish(&status, &metrics);
                sightings.send_replace(Sighting::Status(status));
                Ok(())
            }
            Err(error) => {
                (connection, given) = (None, None);
                let error = describe(&error);
                sightings.send_replace(Sighting::Failed(error.clone()));
                Err(error)
            }
        };
        // Said once, not at every attempt.
        if last.as_ref() == Some(&outcome) {
            continue;
        }
        match &outcome {
            Ok(()) => info!("the BGP speaker answers"),
            Err(error) => warn!(%error, "the BGP speaker cannot be configured; trying again"),
        }
        if events.send(Event::Bgp(outcome.clone())).await.is_err() {
            return Ok(());
        }
        last = Some(outcome);
    }
}

#[derive(Debug, thiserror::Error)]
enum TalkError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the BGP speaker did not answer within {PATIENCE:?}")]
    Silent(#[from] tokio::time::error::Elapsed),
}

async fn converse(
    socket: &Path,
    connection: &mut Option<Client>,
    given: &mut Option<Arc<Config>>,
    config: &Arc<Config>,
) -> Result<Status, TalkError> {
    let client = match connection {
        Some(client) => client,
        None => connection.insert(timeout(PATIENCE, Client::connect(socket)).await??),
    };
    let status = timeout(PATIENCE, client.status()).await??;
    if status.configured && given.as_ref() == Some(config) {
        return Ok(status);
    }
    timeout(PATIENCE, client.configure(config)).await??;
    info!(
        neighbors = config.neighbors.len(),
        networks = config.networks.len(),
        "the BGP speaker has its configuration"
    );
    *given = Some(Arc::clone(config));
    Ok(timeout(PATIENCE, client.status()).await??)
}

fn publish(status: &Status, metrics: &Metrics) {
    let established = status.neighbors.iter().filter(|neighbor| neighbor.state == "Established").count();
    metrics.bgp_established.set(i64::try_from(established).unwrap_or(i64::MAX));
    metrics.bgp_neighbors.set(i64::try_from(status.neighbors.len()).unwrap_or(i64::MAX));
}

fn describe(error: &TalkError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
