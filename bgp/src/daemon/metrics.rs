//! What `/metrics` shows.
//!
//! Nothing is counted for it beside what the tasks know anyway: a scrape asks them.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::bfd::BfdStatus;
use super::bmp::CollectorState;
use super::session::Tally;
use crate::bfd;
use crate::rib::{Counts, Sizes};

/// Labels: which neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Neighbor {
    neighbor: String,
}

/// Labels: which neighbour, and in which state its session is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    neighbor: String,
    state: &'static str,
}

/// Labels: which collector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCollector {
    collector: String,
}

/// Labels: which neighbour and family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    neighbor: String,
    family: FamilyName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "they are shown as they are written")]
enum FamilyName {
    ipv4_unicast,
    ipv6_unicast,
}

/// What a scrape finds of one neighbour.
#[derive(Debug)]
pub(super) struct Scraped {
    pub(super) neighbor: String,
    pub(super) state: &'static str,
    pub(super) established: bool,
    pub(super) tally: Tally,
    /// Messages of all kinds, handed to the socket or about to be.
    pub(super) sent: u64,
    pub(super) bfd: BfdStatus,
    pub(super) counts: Vec<(crate::Family, Counts)>,
}

/// Everything that a scrape finds.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    pub(super) neighbors: Vec<Scraped>,
    pub(super) collectors: Vec<(SocketAddr, CollectorState)>,
    pub(super) sizes: Sizes,
}

/// Where scrapes are answered.
pub(super) type Scrapes = mpsc::Sender<oneshot::Sender<Scrape>>;

/// A server that ends when it is dropped.
#[derive(Debug)]
pub(super) struct MetricsServer {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MetricsServer {
    /// Serves `/metrics`.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(super) fn open(address: SocketAddr, scrapes: Scrapes) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let router = Router::new().route("/metrics", get(metrics)).with_state(scrapes);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "serve metrics");
            }
        });
        Ok(Self { address, task })
    }
}

async fn metrics(State(scrapes): State<Scrapes>) -> (StatusCode, String) {
    let (answer, answered) = oneshot::channel();
    // Gone only when the speaker ends.
    drop(scrapes.send(answer).await);
    match answered.await {
        Ok(scrape) => (StatusCode::OK, text(scrape)),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the speaker ends\n".to_owned()),
    }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn text(scrape: Scrape) -> String {
    let mut registry = Registry::with_prefix("margay_bgp");
    let states = Family::<InState, Gauge>::default();
    let up = Family::<Neighbor, Counter>::default();
    let down = Family::<Neighbor, Counter>::default();
    let messages = Family::<Neighbor, Counter>::default();
    let sent = Family::<Neighbor, Counter>::default();
    let faults = Family::<Neighbor, Counter>::default();
    let paths = Family::<InState, Gauge>::default();
    let losses = Family::<Neighbor, Counter>::default();
    let prefixes: [Family<OfFamily, Gauge>; 5] = Default::default();
    for Scraped { neighbor, state, established, tally, sent: messages_sent, bfd, counts } in scrape.neighbors
    {
        let label = || Neighbor { neighbor: neighbor.clone() };
        states.get_or_create(&InState { neighbor: neighbor.clone(), state }).set(i64::from(established));
        up.get_or_create(&label()).inc_by(tally.up);
        down.get_or_create(&label()).inc_by(tally.down);
        messages.get_or_create(&label()).inc_by(tally.received);
        sent.get_or_create(&label()).inc_by(messages_sent);
        faults.get_or_create(&label()).inc_by(tally.faults);
        if let Some(view) = bfd.view {
            let label = InState { neighbor: neighbor.clone(), state: view.state.name() };
            paths.get_or_create(&label).set(i64::from(view.state == bfd::State::Up));
            losses.get_or_create(&Neighbor { neighbor: neighbor.clone() }).inc_by(bfd.losses);
        }
        for (family, counts) in counts {
            let family = match family {
                crate::Family::Ipv4Unicast => FamilyName::ipv4_unicast,
                crate::Family::Ipv6Unicast => FamilyName::ipv6_unicast,
            };
            let label = OfFamily { neighbor: neighbor.clone(), family };
            let Counts { received, accepted, advertised, export_rejected } = counts;
            let rejected = received.saturating_sub(accepted);
            let numbers = [received, accepted, rejected, advertised, export_rejected];
            for (prefixes, number) in prefixes.iter().zip(numbers) {
                prefixes.get_or_create(&label).set(gauge(number));
            }
        }
    }
    registry.register("session_established", "1 if the session is Established, by its state", states);
    registry.register("session_up", "Times a session became Established", up);
    registry.register("session_down", "Times a session was lost", down);
    registry.register("messages_received", "Messages received", messages);
    registry.register("messages_sent", "Messages sent", sent);
    registry.register("update_faults", "Faulty attributes that did not cost the session (RFC 7606)", faults);
    registry.register("bfd_up", "1 if BFD hears the neighbour and is heard, by its state", paths);
    registry.register("bfd_losses", "Times BFD found the path to the neighbour broken", losses);
    let [received, accepted, rejected, advertised, export_rejected] = prefixes;
    registry.register("prefixes_received", "Paths that the neighbour announces", received);
    registry.register("prefixes_accepted", "Those that the import policy accepts", accepted);
    registry.register("prefixes_rejected", "Those that the import policy rejects", rejected);
    registry.register("prefixes_advertised", "Paths that the neighbour is told", advertised);
    registry.register(
        "prefixes_export_rejected",
        "Paths that it would be told, did the export policy not reject them",
        export_rejected,
    );
    register_collectors(&scrape.collectors, &mut registry);
    let Sizes { prefixes, attributes, told } = scrape.sizes;
    for (name, help, number) in [
        ("rib_prefixes", "Prefixes in the tables", prefixes),
        ("rib_attributes", "Sets of attributes in the tables", attributes),
        ("rib_told_attributes", "Sets of attributes that neighbours are told", told),
    ] {
        let size = Gauge::<i64>::default();
        size.set(gauge(number));
        registry.register(name, help, size);
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        // Writing to a String does not fail.
        Err(error) => error.to_string(),
    }
}

fn register_collectors(collectors: &[(SocketAddr, CollectorState)], registry: &mut Registry) {
    let connected = Family::<OfCollector, Gauge>::default();
    let waiting = Family::<OfCollector, Gauge>::default();
    let [sessions, lagged, messages, octets]: [Family<OfCollector, Counter>; 4] = Default::default();
    for (address, state) in collectors {
        let label = OfCollector { collector: address.to_string() };
        connected.get_or_create(&label).set(i64::from(state.connected));
        waiting.get_or_create(&label).set(gauge(state.waiting()));
        sessions.get_or_create(&label).inc_by(state.sessions);
        lagged.get_or_create(&label).inc_by(state.lagged);
        messages.get_or_create(&label).inc_by(state.messages);
        octets.get_or_create(&label).inc_by(state.octets);
    }
    registry.register("bmp_connected", "1 if the session with the collector is up", connected);
    registry.register("bmp_waiting_routes", "Changed routes that wait for the collector", waiting);
    registry.register("bmp_sessions", "Times a session with the collector began", sessions);
    registry.register(
        "bmp_lagged",
        "Sessions that ended as the collector did not take what there was",
        lagged,
    );
    registry.register("bmp_messages_sent", "Messages sent to the collector", messages);
    registry.register("bmp_sent_bytes", "Octets sent to the collector", octets);
}
