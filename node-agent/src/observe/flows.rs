//! Flows that begin on the short way, and packets that the programs drop, for as long as somebody wants to hear of them.
//!
//! The programs write them to a ring as long as the core has them do so, and wake nobody: the ring is emptied ten times a
//! second. What is more than can be named in that time, or found no room, is told as a number. Packets that are dropped are handed on to the
//! task that tells of those of nftables.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use margay_api::monitor::{Begun, Opening};
use margay_ebpf_common::{
    control::{TELLS_DENIALS, TELLS_FLOWS},
    event::Told,
};
use margay_policy::{
    Protocol,
    compile::Compiler,
    evaluate::{Flow, Side, evaluate_between},
};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    client::{Client, MOST_CLIENTS, Said, Subscription, TOLD_AFTER},
    name::{self, Namer},
    task::rfc3339,
};
use crate::{
    core::Event,
    decide::State,
    program::ebpf::{Part, Ring, links_of},
};

/// Between two looks at the ring.
const PACE: Duration = Duration::from_millis(100);
/// Flows that the core names at once.
const MOST: usize = 32;
/// Batches of packets that were dropped which may wait for the task that tells of them.
const BATCHES: usize = 4;

/// Flows whose names are asked for.
#[derive(Debug)]
pub(crate) struct AskedFlows {
    pub(crate) flows: Vec<Told>,
    pub(crate) answer: oneshot::Sender<Vec<Begun>>,
}

/// The end at which the task of what is dropped hears of packets that the programs drop.
pub(crate) struct Denials {
    /// Whether it wants to.
    wanted: mpsc::Receiver<Wanted>,
    told: mpsc::Sender<Part>,
}

/// The other end.
pub(crate) struct Listening {
    wanted: mpsc::Sender<Wanted>,
    pub(super) told: mpsc::Receiver<Part>,
}

struct Wanted {
    is_wanted: bool,
    answer: oneshot::Sender<Result<(), String>>,
}

/// Both ends.
pub(crate) fn denials() -> (Denials, Listening) {
    let (wanted, asked) = mpsc::channel(1);
    let (told, heard) = mpsc::channel(BATCHES);
    (Denials { wanted: asked, told }, Listening { wanted, told: heard })
}

impl Listening {
    /// Wants to hear, or no longer; answers once none is missed any more. Where no programs are, there is nothing to hear.
    pub(super) async fn want(&self, is_wanted: bool) -> Result<(), String> {
        let (answer, done) = oneshot::channel();
        if self.wanted.send(Wanted { is_wanted, answer }).await.is_err() {
            return Ok(());
        }
        done.await.unwrap_or(Ok(()))
    }
}

/// Serves clients until the core is gone.
pub(crate) async fn run(
    ring: Ring,
    mut subscriptions: mpsc::Receiver<Subscription>,
    Denials { mut wanted, told: denied }: Denials,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let mut hearing =
        Hearing { ring, clients: Vec::new(), wants_denials: false, is_listening: false, events };
    // Ends, one for each client, when it goes.
    let mut leaving: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_lost = Instant::now();
    let mut late = 0;
    loop {
        tokio::select! {
            subscription = subscriptions.recv() => {
                let Some(Subscription { filter, events: to, answer }) = subscription else { return Ok(()) };
                let outcome = hearing.subscribe(Client::new(filter, to.clone())).await;
                if outcome.is_ok() {
                    leaving.push(async move { to.closed().await }.boxed());
                }
                // One that has gone meanwhile is seen to be gone below.
                drop(answer.send(outcome));
            }
            Some(()) = leaving.next() => {
                hearing.clients.retain(|client| !client.events.is_closed());
                // Where it cannot be, the ring fills, and that is all.
                drop(hearing.switch().await);
            }
            Some(Wanted { is_wanted, answer }) = wanted.recv() => {
                let before = std::mem::replace(&mut hearing.wants_denials, is_wanted);
                let outcome = hearing.switch().await;
                if outcome.is_err() {
                    hearing.wants_denials = before;
                }
                late = 0;
                drop(answer.send(outcome));
            }
            _ = pace.tick(), if hearing.flags() != 0 => {
                let mut news = hearing.ring.read(MOST);
                news.denials.lost += std::mem::take(&mut late);
                // What there is no place for, the next batch says to be lost.
                if !news.denials.is_empty() && let Err(TrySendError::Full(refused)) = denied.try_send(news.denials) {
                    late = refused.count();
                }
                if !hearing.tell(news.flows).await {
                    return Ok(());
                }
                if told_lost.elapsed() >= TOLD_AFTER {
                    told_lost = Instant::now();
                    for client in &mut hearing.clients {
                        client.tell(None);
                    }
                }
            }
        }
    }
}

/// Who hears of what.
struct Hearing {
    ring: Ring,
    clients: Vec<Client>,
    /// Whether the task of what is dropped does.
    wants_denials: bool,
    /// Whether either was so when the programs were last told.
    is_listening: bool,
    events: mpsc::Sender<Event>,
}

impl Hearing {
    /// What the programs are to tell of.
    fn flags(&self) -> u32 {
        let flows = if self.clients.is_empty() { 0 } else { TELLS_FLOWS };
        if self.wants_denials { flows | TELLS_DENIALS } else { flows }
    }

    async fn subscribe(&mut self, client: Client) -> Result<(), String> {
        if self.clients.len() >= MOST_CLIENTS {
            return Err(format!("{MOST_CLIENTS} others are told of flows already; end one of them"));
        }
        let is_first = self.clients.is_empty();
        self.clients.push(client);
        if is_first && let Err(error) = self.switch().await {
            self.clients.clear();
            return Err(error);
        }
        Ok(())
    }

    /// Has the core have the programs tell of what is wanted.
    async fn switch(&mut self) -> Result<(), String> {
        let (answer, done) = oneshot::channel();
        let ended = || "the agent is shutting down".to_owned();
        self.events.send(Event::Tell { flags: self.flags(), answer }).await.map_err(|_ended| ended())?;
        done.await.map_err(|_ended| ended())??;
        let is_listening = self.flags() != 0;
        if !std::mem::replace(&mut self.is_listening, is_listening) {
            // What is left of what others wanted to hear.
            self.ring.read(0);
        }
        Ok(())
    }

    /// Tells the clients; false when the core is gone.
    async fn tell(&mut self, flows: Part) -> bool {
        for client in &mut self.clients {
            client.lost += flows.lost;
        }
        if flows.told.is_empty() || self.clients.is_empty() {
            return true;
        }
        let (answer, named) = oneshot::channel();
        if self.events.send(Event::Begun(AskedFlows { flows: flows.told, answer })).await.is_err() {
            return false;
        }
        let Ok(named) = named.await else { return false };
        tell(&mut self.clients, named);
        true
    }
}

fn tell(clients: &mut [Client], flows: Vec<Begun>) {
    for flow in flows {
        let flow = Arc::new(flow);
        for client in &mut *clients {
            if client.filter.is_about([&flow.source, &flow.destination]) {
                client.tell(Some(Said::Begun(Arc::clone(&flow))));
            }
        }
    }
}

/// Gives flows their names, and says which policies open them now.
pub(crate) fn named(state: &State, compiler: &Compiler, flows: &[Told]) -> Vec<Begun> {
    let namer = Namer::new(
        state,
        compiler,
        flows.iter().flat_map(|flow| flow.key.opened(flow.state).map(|(address, _)| address.into())),
    );
    flows.iter().map(|flow| event(state, compiler, &namer, flow)).collect()
}

fn event(state: &State, compiler: &Compiler, namer: &Namer<'_>, flow: &Told) -> Begun {
    let [(source, source_port), (destination, destination_port)] = flow.key.opened(flow.state);
    let [source_port, destination_port] = [source_port, destination_port].map(u16::from_be_bytes);
    let [source, destination] = [source, destination].map(Into::into);
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == flow.key.protocol);
    let pod = |address| state.objects().pods.get(compiler.pod_at(address)?).map(AsRef::as_ref);
    let [from_here, to_here] = links_of(flow).map(|link| link.is_some());
    let (egress, ingress) = match protocol {
        Some(protocol) => {
            let asked = Flow { source, destination, protocol, port: destination_port };
            let said = evaluate_between(state.objects(), &asked, pod(source), pod(destination));
            (from_here.then(|| opening(said.egress)), to_here.then(|| opening(said.ingress)))
        }
        None => (None, None),
    };
    Begun {
        time: rfc3339(at(flow)),
        node: state.node_name().to_owned(),
        source: namer.party(source),
        destination: namer.party(destination),
        protocol: name::protocol(flow.key.protocol),
        source_port,
        destination_port,
        egress,
        ingress,
    }
}

/// The time since 1970 of an event.
pub(super) fn at(event: &Told) -> Option<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).ok()?;
    let ago = now.checked_sub(Duration::from_nanos(event.time))?;
    let now = Duration::try_from(jiff::Timestamp::now().duration_since(jiff::Timestamp::UNIX_EPOCH)).ok()?;
    now.checked_sub(ago)
}

fn opening(side: Side) -> Opening {
    match side {
        Side::NotIsolated => Opening::Nobody,
        Side::Allowed { policy, rule } => Opening::Rule { policy: name::policy(policy), rule: rule + 1 },
        Side::Denied { .. } | Side::Isolated { .. } => Opening::Before,
    }
}
