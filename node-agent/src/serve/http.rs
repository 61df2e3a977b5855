//! `/livez`, `/readyz`, `/startupz` and `/metrics`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{core::Event, metrics::Metrics};

/// The core comes by at least this often; silence for longer means that it hangs.
const STALE: std::time::Duration = std::time::Duration::from_mins(1);

/// How long a scrape waits for the core.
const COUNTED: std::time::Duration = std::time::Duration::from_secs(1);

/// What the core publishes about itself.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// When the core last came by.
    pub(crate) alive: Instant,
    /// What keeps the node from being ready, in words.
    pub(crate) missing: Vec<String>,
    pub(crate) startup: Startup,
}

/// Whether the kernel has once had all that the API server listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Startup {
    /// Not since the agent was started.
    Waits,
    /// Yes, whatever has come since.
    Done,
}

/// Shared between the core, which writes, and the server, which reads.
#[derive(Clone)]
pub(crate) struct Shared {
    published: Arc<Mutex<Published>>,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<Event>,
}

impl Shared {
    pub(crate) fn new(metrics: Arc<Metrics>, events: mpsc::Sender<Event>) -> Self {
        let missing = vec!["core: the agent is starting".into()];
        let published = Published { alive: Instant::now(), missing, startup: Startup::Waits };
        Self { published: Arc::new(Mutex::new(published)), metrics, events }
    }

    pub(crate) fn publish(&self, missing: Vec<String>, startup: Startup) {
        let published = Published { alive: Instant::now(), missing, startup };
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = published;
    }

    fn read(&self) -> Published {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves until the process ends.
pub(crate) async fn run(address: SocketAddr, shared: Shared) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}; another address can be given with --http-address"))?;
    let router = Router::new()
        .route("/livez", get(livez))
        // What it was called before.
        .route("/healthz", get(livez))
        .route("/startupz", get(startupz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared);
    axum::serve(listener, router).await.context("serve HTTP")
}

async fn livez(State(shared): State<Shared>) -> (StatusCode, String) {
    let silent = shared.read().alive.elapsed();
    if silent > STALE {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("the core has not been heard of for {silent:?}\n"))
    } else {
        (StatusCode::OK, "ok\n".into())
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let missing = shared.read().missing;
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}

/// Until the first complete state is in the kernel, what lacks for it.
async fn startupz(State(shared): State<Shared>) -> (StatusCode, String) {
    let Published { missing, startup, .. } = shared.read();
    match startup {
        Startup::Done => (StatusCode::OK, "ok\n".into()),
        Startup::Waits => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
    }
}

async fn metrics(State(shared): State<Shared>) -> ([(&'static str, &'static str); 1], String) {
    // What the kernel counts is counted up to now, or, of a core that is busy, up to its last look.
    let (counted, done) = oneshot::channel();
    let counting = async {
        if shared.events.send(Event::Count(counted)).await.is_ok() {
            drop(done.await);
        }
    };
    drop(timeout(COUNTED, counting).await);
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([("content-type", form)], shared.metrics.text())
}
