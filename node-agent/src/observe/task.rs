//! The task that listens to what the kernel drops, nftables and the programs, for as long as somebody wants to hear of it.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use margay_api::monitor::{Dropped, Verdict};
use margay_ebpf_common::event::Told;
use margay_netlink::nflog::{Listener, Logged, Packet, Transport};
use nix::net::if_::if_indextoname;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    client::{Client, MOST_CLIENTS, Said, Subscription, TOLD_AFTER},
    flows::{self, Denials, Listening, at},
    name::{ICMP, ICMPV6, Seen},
    throttle::Throttle,
};
use crate::{
    core::Event,
    program::{
        ebpf::{Part, links_of, origin_of},
        nft::{Cause, LOG_GROUP, LOG_SNAPLEN, Origin},
    },
    watch::drift::watched,
};

/// How long until the group is asked for again that somebody else listens to.
const RETRY: Duration = Duration::from_secs(10);

/// Packets whose names are asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) seen: Vec<Seen>,
    pub(crate) answer: oneshot::Sender<Vec<Dropped>>,
}

/// Who asks to be told waits in a queue of this length.
const QUEUE: usize = 16;

/// Where the task hears of what it is to do.
pub(crate) struct Observing {
    /// Clients.
    pub(crate) monitors: mpsc::Sender<Subscription>,
    /// The namespaces of which the log is to tell.
    pub(crate) logging: watch::Sender<BTreeSet<String>>,
    /// What the programs drop.
    pub(crate) denials: Denials,
}

/// Starts it.
pub(crate) fn start(tasks: &mut JoinSet<anyhow::Result<()>>, events: &mpsc::Sender<Event>) -> Observing {
    let (monitors, subscriptions) = mpsc::channel(QUEUE);
    let (logging, asked) = watch::channel(BTreeSet::new());
    let (denials, listening) = flows::denials();
    tasks.spawn(run(subscriptions, asked, listening, events.clone()));
    Observing { monitors, logging, denials }
}

/// Serves clients and the log until the core is gone.
async fn run(
    mut subscriptions: mpsc::Receiver<Subscription>,
    mut logging: watch::Receiver<BTreeSet<String>>,
    mut programs: Listening,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let mut observer = Observer::default();
    let mut logged = Vec::new();
    loop {
        let next = observer.next();
        tokio::select! {
            subscription = subscriptions.recv() => match subscription {
                Some(subscription) => observer.subscribe(subscription, &programs).await,
                None => return Ok(()),
            },
            changed = logging.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                observer.logging.clone_from(&logging.borrow_and_update());
            }
            Some(()) = observer.leaving.next() => {
                observer.clients.retain(|client| !client.events.is_closed());
            }
            read = read(&mut observer.listener, &mut logged) => match read {
                Ok(lost) => {
                    observer.lose(lost);
                    let seen = logged.drain(..).filter_map(seen).collect();
                    let Some(named) = named(&events, seen).await else { return Ok(()) };
                    observer.tell(named);
                }
                Err(error) => {
                    warn!(%error, "dropped packets cannot be told of; trying again");
                    observer.listener = None;
                    observer.retry = Some(Instant::now() + RETRY);
                }
            },
            Some(Part { told, lost }) = programs.told.recv() => {
                observer.lose(lost);
                let seen = told.iter().filter_map(denied).collect();
                let Some(named) = named(&events, seen).await else { return Ok(()) };
                observer.tell(named);
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => observer.catch_up(),
        }
        observer.listen_as_needed(&programs).await;
    }
}

/// Has the core give packets their names; `None` when it is gone.
async fn named(events: &mpsc::Sender<Event>, seen: Vec<Seen>) -> Option<Vec<Dropped>> {
    let (answer, named) = oneshot::channel();
    events.send(Event::Observed(Asked { seen, answer })).await.ok()?;
    named.await.ok()
}

#[derive(Default)]
struct Observer {
    /// Only while somebody wants to hear.
    listener: Option<AsyncFd<Listener>>,
    /// Whether the programs tell, too.
    hears_programs: bool,
    retry: Option<Instant>,
    clients: Vec<Client>,
    /// Ends, one for each client, when it goes.
    leaving: FuturesUnordered<BoxFuture<'static, ()>>,
    logging: BTreeSet<String>,
    throttle: Throttle,
    /// When those who lost events are told at the latest.
    tell_lost: Option<Instant>,
}

impl Observer {
    async fn subscribe(&mut self, subscription: Subscription, programs: &Listening) {
        let Subscription { filter, events, answer } = subscription;
        let outcome = if self.clients.len() >= MOST_CLIENTS {
            Err(format!("{MOST_CLIENTS} others are told of dropped packets already; end one of them"))
        } else {
            self.listen(programs).await
        };
        let is_accepted = outcome.is_ok();
        // One that has gone meanwhile is seen to be gone below.
        drop(answer.send(outcome));
        if is_accepted {
            let leaving = events.clone();
            self.leaving.push(async move { leaving.closed().await }.boxed());
            self.clients.push(Client::new(filter, events));
        }
    }

    async fn listen(&mut self, programs: &Listening) -> Result<(), String> {
        if self.listener.is_none() {
            let listener = Listener::open(LOG_GROUP, LOG_SNAPLEN).map_err(|error| {
                format!("{error}; does another program listen to it, such as tcpdump -i nflog:{LOG_GROUP}?")
            })?;
            let listener = watched(listener).map_err(|error| error.to_string())?;
            programs.want(true).await?;
            self.hears_programs = true;
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// Listens if somebody wants to hear, and else does not.
    async fn listen_as_needed(&mut self, programs: &Listening) {
        if self.clients.is_empty() && self.logging.is_empty() {
            self.listener = None;
            if std::mem::take(&mut self.hears_programs) {
                // Where it cannot be, the ring fills, and that is all.
                drop(programs.want(false).await);
            }
            self.retry = None;
        } else if self.listener.is_none() && self.retry.is_none_or(|retry| retry <= Instant::now()) {
            match self.listen(programs).await {
                Ok(()) => self.retry = None,
                Err(reason) => {
                    // Once, not at every attempt.
                    if self.retry.is_none() {
                        warn!("dropped packets cannot be told of: {reason}");
                    }
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    /// When there is something to do without an event.
    fn next(&self) -> Option<Instant> {
        [self.retry, self.throttle.next(), self.tell_lost].into_iter().flatten().min()
    }

    /// Does it.
    fn catch_up(&mut self) {
        for (namespace, more) in self.throttle.take(&self.logging, Instant::now()) {
            info!(namespace, "{more} more drops not logged");
        }
        self.clients.iter_mut().for_each(|client| client.tell(None));
        self.tell_lost = None;
        self.note_lost();
    }

    /// What the kernel had no room for.
    fn lose(&mut self, lost: u64) {
        if lost > 0 {
            self.clients.iter_mut().for_each(|client| client.lost += lost);
            for namespace in &self.logging {
                self.throttle.miss(namespace, lost, Instant::now());
            }
        }
    }

    fn tell(&mut self, events: Vec<Dropped>) {
        for event in events {
            self.log(&event);
            let event = Arc::new(event);
            for client in &mut self.clients {
                if client.filter.passes(&event) {
                    client.tell(Some(Said::Dropped(Arc::clone(&event))));
                }
            }
        }
        self.note_lost();
    }

    fn note_lost(&mut self) {
        if self.clients.iter().any(|client| client.lost > 0) {
            self.tell_lost.get_or_insert_with(|| Instant::now() + TOLD_AFTER);
        }
    }

    /// Logs an event that is of a namespace of which that is asked.
    fn log(&mut self, event: &Dropped) {
        let pods = [&event.source, &event.destination].into_iter().filter_map(|party| party.pod.as_ref());
        let Some(pod) = pods.into_iter().find(|pod| self.logging.contains(&pod.namespace)) else { return };
        if !self.throttle.admits(&pod.namespace, Instant::now()) {
            return;
        }
        let policies: Vec<String> = event.policies.iter().map(ToString::to_string).collect();
        info!(
            namespace = pod.namespace,
            verdict = if event.verdict == Verdict::Drop { "drop" } else { "audit" },
            direction = event.direction.text(),
            reason = event.reason.text(),
            source = %event.source.address,
            source_pod = event.source.pod.as_ref().map(tracing::field::display),
            source_port = event.source_port,
            destination = %event.destination.address,
            destination_pod = event.destination.pod.as_ref().map(tracing::field::display),
            destination_port = event.destination_port,
            protocol = event.protocol,
            policies = policies.join(", "),
            "{event}"
        );
    }
}

/// Waits for packets, as long as there is a listener, and says how many were lost before them.
async fn read(listener: &mut Option<AsyncFd<Listener>>, into: &mut Vec<Logged>) -> io::Result<u64> {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let mut ready = listener.readable_mut().await?;
        if let Ok(read) = ready.try_io(|listener| listener.get_mut().read(into)) {
            return read;
        }
    }
}

/// What is ours, and can be read.
fn seen(logged: Logged) -> Option<Seen> {
    let Logged { prefix, payload, in_link, out_link, time } = logged;
    let (origin, cause) = Origin::parse(&prefix)?;
    Some(Seen {
        time: rfc3339(time),
        origin,
        cause,
        packet: Packet::parse(&payload)?,
        in_link: name_of(in_link),
        out_link: name_of(out_link),
    })
}

/// What the programs dropped, and say why.
fn denied(event: &Told) -> Option<Seen> {
    let [(source, source_port), (destination, destination_port)] = event.key.opened(event.state);
    // Of ICMP the programs drop nothing but requests for an echo.
    let transport = match event.key.protocol {
        ICMP => Transport::Icmp { kind: 8, code: 0 },
        ICMPV6 => Transport::Icmp { kind: 128, code: 0 },
        _ => Transport::Ports {
            source: u16::from_be_bytes(source_port),
            destination: u16::from_be_bytes(destination_port),
        },
    };
    let [in_link, out_link] = links_of(event).map(name_of);
    Some(Seen {
        time: rfc3339(at(event)),
        origin: origin_of(event.denial)?,
        cause: Cause::Drop,
        packet: Packet {
            source: source.into(),
            destination: destination.into(),
            protocol: event.key.protocol,
            transport,
        },
        in_link,
        out_link,
    })
}

/// The name of a link.
fn name_of(index: Option<u32>) -> Option<String> {
    if_indextoname(index?).ok()?.into_string().ok()
}

/// The kernel gives no time to what the node itself sends on: then it is now.
pub(super) fn rfc3339(time: Option<Duration>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::try_from(UNIX_EPOCH + time).ok());
    format!("{:.6}", time.unwrap_or_else(jiff::Timestamp::now))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use margay_api::monitor::{Direction, Dropped, Filter, Party, Reason, Verdict};
    use tokio::sync::mpsc;

    use super::{Client, Observer, Said};

    fn event(direction: Direction) -> Dropped {
        let party = || Party { address: [192, 0, 2, 1].into(), pod: None, node: None };
        Dropped {
            time: String::new(),
            node: "n1".into(),
            verdict: Verdict::Drop,
            direction,
            reason: Reason::Spoof,
            source: party(),
            destination: party(),
            protocol: "TCP".into(),
            source_port: None,
            destination_port: None,
            icmp_type: None,
            icmp_code: None,
            policies: Vec::new(),
            more_policies: 0,
            interface: None,
        }
    }

    fn told(inbox: &mut mpsc::Receiver<Said>) -> Vec<Result<Arc<Dropped>, u64>> {
        let said = std::iter::from_fn(|| inbox.try_recv().ok());
        said.map(|said| match said {
            Said::Dropped(event) => Ok(event),
            Said::Begun(event) => panic!("{event}"),
            Said::Lost(lost) => Err(lost),
        })
        .collect()
    }

    #[tokio::test]
    async fn a_slow_client_loses_events_is_told_how_many_and_holds_up_nobody() {
        let mut observer = Observer::default();
        let mut client = |filter, room| {
            let (events, inbox) = mpsc::channel(room);
            observer.clients.push(Client::new(filter, events));
            inbox
        };
        let mut slow = client(Filter::default(), 2);
        let only = Filter { direction: Some(Direction::Egress), ..Filter::default() };
        let mut choosy = client(only, 8);
        let [ingress, egress] = [Direction::Ingress, Direction::Egress].map(event);
        observer.tell(vec![ingress.clone(), egress.clone(), ingress.clone(), ingress.clone()]);
        assert_eq!(told(&mut choosy), [Ok(Arc::new(egress.clone()))]);
        assert_eq!(told(&mut slow), [Ok(Arc::new(ingress)), Ok(Arc::new(egress.clone()))]);
        // Nothing comes any more: after a while it is told all the same.
        assert!(observer.next().is_some());
        observer.catch_up();
        assert_eq!((told(&mut slow), observer.next()), (vec![Err(2)], None));
        // What the kernel had no room for, all lose; the word of it comes before what comes after it.
        observer.lose(5);
        observer.tell(vec![egress.clone()]);
        assert_eq!(told(&mut choosy), [Err(5), Ok(Arc::new(egress.clone()))]);
        assert_eq!(told(&mut slow), [Err(5), Ok(Arc::new(egress))]);
    }
}
