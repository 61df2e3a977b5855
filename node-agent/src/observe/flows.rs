//! Flows that begin on the short way, for as long as somebody wants to hear of them.
//!
//! The programs write them to a ring as long as the core has them do so, and wake nobody: the ring is emptied ten times a
//! second. What is more than can be named in that time, or found no room, is told as a number.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use margay_api::monitor::{Begun as Told, Opening};
use margay_ebpf_common::event::Begun;
use margay_policy::{
    Protocol,
    compile::Compiler,
    evaluate::{Flow, Side, evaluate_between},
};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{mpsc, oneshot},
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
    program::ebpf::{Ring, links_of},
};

/// Between two looks at the ring.
const PACE: Duration = Duration::from_millis(100);
/// Flows that the core names at once.
const MOST: usize = 32;

/// Flows whose names are asked for.
#[derive(Debug)]
pub(crate) struct AskedFlows {
    pub(crate) flows: Vec<Begun>,
    pub(crate) answer: oneshot::Sender<Vec<Told>>,
}

/// Serves clients until the core is gone.
pub(crate) async fn run(
    mut ring: Ring,
    mut subscriptions: mpsc::Receiver<Subscription>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let mut clients: Vec<Client> = Vec::new();
    // Ends, one for each client, when it goes.
    let mut leaving: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_lost = Instant::now();
    loop {
        tokio::select! {
            subscription = subscriptions.recv() => {
                let Some(Subscription { filter, events: to, answer }) = subscription else { return Ok(()) };
                let mut outcome = Ok(());
                if clients.len() >= MOST_CLIENTS {
                    outcome = Err(format!("{MOST_CLIENTS} others are told of flows already; end one of them"));
                } else if clients.is_empty() {
                    outcome = switch(&events, true).await;
                    // What is left of those who listened before.
                    ring.read(0);
                }
                let is_accepted = outcome.is_ok();
                // One that has gone meanwhile is seen to be gone below.
                drop(answer.send(outcome));
                if is_accepted {
                    let gone = to.clone();
                    leaving.push(async move { gone.closed().await }.boxed());
                    clients.push(Client::new(filter, to));
                }
            }
            Some(()) = leaving.next() => {
                clients.retain(|client| !client.events.is_closed());
                if clients.is_empty() {
                    // Where it cannot be, the ring fills, and that is all.
                    drop(switch(&events, false).await);
                }
            }
            _ = pace.tick(), if !clients.is_empty() => {
                let read = ring.read(MOST);
                for client in &mut clients {
                    client.lost += read.lost;
                }
                if !read.flows.is_empty() {
                    let (answer, named) = oneshot::channel();
                    let asked = AskedFlows { flows: read.flows, answer };
                    if events.send(Event::Begun(asked)).await.is_err() {
                        return Ok(());
                    }
                    let Ok(named) = named.await else { return Ok(()) };
                    tell(&mut clients, named);
                }
                if told_lost.elapsed() >= TOLD_AFTER {
                    told_lost = Instant::now();
                    for client in &mut clients {
                        client.tell(None);
                    }
                }
            }
        }
    }
}

/// Has the core have the programs tell, or no longer.
async fn switch(events: &mpsc::Sender<Event>, tells: bool) -> Result<(), String> {
    let (answer, done) = oneshot::channel();
    let ended = || "the agent is shutting down".to_owned();
    events.send(Event::Tell { tells, answer }).await.map_err(|_ended| ended())?;
    done.await.map_err(|_ended| ended())?
}

fn tell(clients: &mut [Client], flows: Vec<Told>) {
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
pub(crate) fn named(state: &State, compiler: &Compiler, flows: &[Begun]) -> Vec<Told> {
    let namer = Namer::new(
        state,
        compiler,
        flows.iter().flat_map(|flow| flow.key.opened(flow.state).map(|(address, _)| address.into())),
    );
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).ok();
    flows.iter().map(|flow| event(state, compiler, &namer, flow, now)).collect()
}

fn event(state: &State, compiler: &Compiler, namer: &Namer<'_>, flow: &Begun, now: Option<Duration>) -> Told {
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
    let ago = now.and_then(|now| now.checked_sub(Duration::from_nanos(flow.time)));
    Told {
        time: rfc3339(ago.and_then(before)),
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

/// The time since 1970 that it was so long ago.
fn before(ago: Duration) -> Option<Duration> {
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
