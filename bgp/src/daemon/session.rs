//! The task of one neighbour: its sockets, its timers, its place between the wire and the tables.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::bfd::BfdStatus;
use super::clock;
use super::convergence::Marks;
use super::interfaces::local_view;
use super::rib_task::{Beginning, RibInput, SessionOutlet, Updates};
use super::sender::Sent;
use super::timer::until;
use super::transport::{self, Amount, Transport};
use crate::FamilySet;
use crate::bmp::Opened;
use crate::config::CheckedNeighbor;
use crate::fsm::{
    Direction, Helper, Input, Negotiated, Order, Output, Received, Session, SessionConfig, State,
};
use crate::rib::{AddPath, ExportView, LimitReached, PeerId, PeerInfo};
use crate::wire::{
    Frame, MAX_MESSAGE_LEN, Message, MessageKind, Notification, RefreshKind, RouteRefresh, Update,
    UpdateContext, header,
};

/// What the supervisor tells a session.
#[derive(Debug)]
pub(super) enum Command {
    /// The neighbour dialled us.
    Accepted(TcpStream),
    /// Ask the neighbour for all its routes again; the answer is why not, if it cannot be asked.
    Refresh(oneshot::Sender<Result<(), String>>),
    /// End, and say this to the neighbour.
    Stop(Notification),
    /// End to begin again: say this to the neighbour only if it does not keep our routes meanwhile.
    Restart(Notification),
}

/// What a session shows.
#[derive(Clone, Debug)]
pub(super) struct SessionStatus {
    pub(super) state: State,
    pub(super) since: Instant,
    pub(super) last_error: Option<String>,
    /// While it is Established.
    pub(super) negotiated: Option<Negotiated>,
    pub(super) tally: Tally,
}

/// What a session counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) up: u64,
    pub(super) down: u64,
    /// Messages of all kinds.
    pub(super) received: u64,
    /// Faulty attributes that did not cost the session.
    pub(super) faults: u64,
}

/// A running session task.
#[derive(Debug)]
pub(super) struct SessionHandle {
    pub(super) peer: PeerId,
    pub(super) neighbor: CheckedNeighbor,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<SessionStatus>,
    /// Messages of all kinds, handed to the socket or about to be.
    pub(super) sent: Sent,
    /// What BFD shows of the path to the neighbour.
    pub(super) bfd: watch::Sender<BfdStatus>,
    pub(super) task: JoinHandle<()>,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

type Dial = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

struct SessionTask {
    peer: PeerId,
    neighbor: CheckedNeighbor,
    machine: Session,
    helper: Helper,
    /// What was negotiated for the session that is up.
    session: Option<Negotiated>,
    epoch: Instant,
    dial: Option<Dial>,
    outgoing: Option<Transport>,
    incoming: Option<Transport>,
    closing: JoinSet<()>,
    rib: mpsc::Sender<RibInput>,
    /// What the rib task must still get; reading stops while there is any.
    pending: VecDeque<RibInput>,
    /// Brings the word that the peer announces more than it may.
    limits: Option<mpsc::Receiver<LimitReached>>,
    /// Whether the rib task knows that a KEEPALIVE came.
    keepalive_told: bool,
    sent: Sent,
    status: watch::Sender<SessionStatus>,
    bfd: watch::Receiver<BfdStatus>,
    restart: Option<Restart>,
    /// How often BFD has found the path broken so far.
    losses: u64,
}

/// The restart that the speaker came back from.
#[derive(Clone, Debug)]
pub(super) struct Restart {
    /// How long neighbours are told of it at most.
    pub(super) time: Duration,
    /// Whether the tables have ended it.
    pub(super) over: Arc<AtomicBool>,
}

/// Starts the task of a neighbour.
pub(super) fn start(
    peer: PeerId,
    neighbor: CheckedNeighbor,
    rib: mpsc::Sender<RibInput>,
    bfd: watch::Sender<BfdStatus>,
    restart: Option<Restart>,
    kept: FamilySet,
) -> SessionHandle {
    let (commands, receiver) = mpsc::channel(16);
    let epoch = Instant::now();
    let initial = SessionStatus {
        state: State::Idle,
        since: epoch,
        last_error: None,
        negotiated: None,
        tally: Tally::default(),
    };
    let (status, watched) = watch::channel(initial);
    let sent = Sent::default();
    let machine = Session::new(SessionConfig {
        local_as: neighbor.local_as,
        local_identifier: neighbor.router_id,
        remote_as: neighbor.remote_as,
        hold_time: neighbor.hold_time,
        connect_retry: neighbor.connect_retry,
        passive: neighbor.passive,
        capabilities: neighbor.capabilities(),
        // A session of the first configuration is one that comes back.
        restarting_until: restart.as_ref().map(|restart| restart.time),
        kept,
        seed: seed(&neighbor),
    });
    let task = SessionTask {
        peer,
        neighbor: neighbor.clone(),
        machine,
        helper: Helper::default(),
        session: None,
        epoch,
        dial: None,
        outgoing: None,
        incoming: None,
        closing: JoinSet::new(),
        rib,
        pending: VecDeque::new(),
        limits: None,
        keepalive_told: false,
        sent: Sent::clone(&sent),
        status,
        bfd: bfd.subscribe(),
        restart,
        losses: 0,
    };
    let task = tokio::spawn(task.run(receiver));
    SessionHandle { peer, neighbor, commands, status: watched, sent, bfd, task }
}

/// Differs between the two ends of a session, and between runs.
fn seed(neighbor: &CheckedNeighbor) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one((neighbor.router_id, neighbor.address))
}

impl SessionTask {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        // A permit must not borrow from the state that the other branches change.
        let rib = self.rib.clone();
        self.step(Input::Start);
        loop {
            self.watch_sending();
            let deadlines = [self.machine.next_deadline(), self.helper.next_deadline()];
            let deadline = deadlines.into_iter().flatten().min().map(|at| self.epoch + at);
            let reading = self.pending.is_empty();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Accepted(stream)) => self.accepted(stream).await,
                    Some(Command::Refresh(answer)) => {
                        // Whoever asked may have gone away.
                        drop(answer.send(self.request_refresh().map_err(str::to_owned)));
                    }
                    Some(Command::Stop(notification)) => return self.stop(Input::Stop(notification)).await,
                    Some(Command::Restart(notification)) => {
                        return self.stop(Input::Restart(notification)).await;
                    }
                    None => return self.stop(Input::Stop(Notification::administrative_shutdown())).await,
                },
                dialled = ready_dial(&mut self.dial) => self.dialled(dialled).await,
                ready = ready(self.outgoing.as_ref(), reading) => self.io(Direction::Outgoing, ready),
                ready = ready(self.incoming.as_ref(), reading) => self.io(Direction::Incoming, ready),
                permit = rib.reserve(), if !self.pending.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(input) = self.pending.pop_front() {
                            permit.send(input);
                        }
                    }
                    Err(_) => return self.stop(Input::Stop(Notification::administrative_shutdown())).await,
                },
                Some(reached) = next_limit(&mut self.limits) => self.limit_reached(reached),
                Ok(()) = self.bfd.changed() => self.path_changed(),
                () = until(deadline) => self.tick(),
            }
        }
    }

    fn request_refresh(&mut self) -> Result<(), &'static str> {
        let (direction, session) = self.machine.established().ok_or("the session is not Established")?;
        if !session.route_refresh {
            return Err("the neighbour does not know ROUTE-REFRESH (RFC 2918); reset the session instead");
        }
        for family in session.families.iter() {
            self.send(direction, |out| RouteRefresh::encode(family, RefreshKind::Request, out));
        }
        Ok(())
    }

    /// Ends the session when BFD says that the path is broken.
    fn path_changed(&mut self) {
        let BfdStatus { losses, independent, .. } = *self.bfd.borrow_and_update();
        if std::mem::replace(&mut self.losses, losses) == losses {
            return;
        }
        if !independent && !self.helper.stale().is_empty() {
            // RFC 5882 section 4.3: the neighbour's BFD went with what restarts.
            return;
        }
        for direction in [Direction::Outgoing, Direction::Incoming] {
            if self.slot(direction).is_some() {
                self.step(Input::Malformed(direction, Notification::bfd_down()));
                // In the NOTIFICATION that was sent it may be wrapped in a hard reset.
                self.note_error("BFD found the path broken".to_owned());
            }
        }
        if independent {
            let mut orders = Vec::new();
            self.helper.path_broken(&mut orders);
            self.order(orders);
        }
    }

    fn slot(&mut self, direction: Direction) -> &mut Option<Transport> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    async fn accepted(&mut self, stream: TcpStream) {
        if self.incoming.is_some() {
            // The machine knows one incoming connection at a time.
            if !self.machine.make_room() {
                self.closing.spawn(transport::refuse(stream));
                return;
            }
            self.outgoing = self.incoming.take();
        }
        self.attach(Direction::Incoming, stream).await;
    }

    async fn dialled(&mut self, result: io::Result<TcpStream>) {
        self.dial = None;
        match result {
            Ok(stream) => self.attach(Direction::Outgoing, stream).await,
            Err(error) => {
                self.note_error(format!("dial: {error}"));
                self.step(Input::DialFailed);
            }
        }
    }

    async fn attach(&mut self, direction: Direction, stream: TcpStream) {
        let local = stream.local_addr().and_then(|local| {
            transport::adopt(&stream, &self.neighbor)?;
            Ok(local.ip())
        });
        match local {
            Ok(local) => {
                let transport = Transport::new(stream, Sent::clone(&self.sent), local_view(local).await);
                *self.slot(direction) = Some(transport);
                if self.restart.take_if(|restart| restart.over.load(Ordering::SeqCst)).is_some() {
                    self.machine.restart_is_over();
                }
                self.step(Input::Connected(direction));
            }
            Err(error) => {
                self.note_error(format!("set up the connection: {error}"));
                if direction == Direction::Outgoing {
                    self.step(Input::DialFailed);
                }
            }
        }
    }

    async fn stop(mut self, input: Input) {
        self.step(input);
        // Nobody is left to end what is kept of a neighbour.
        self.pending.push_back(RibInput::Down { peer: self.peer, retain: None });
        for input in self.pending {
            if self.rib.send(input).await.is_err() {
                break;
            }
        }
        while self.closing.join_next().await.is_some() {}
    }

    fn io(&mut self, direction: Direction, ready: io::Result<tokio::io::Ready>) {
        let result = ready.and_then(|ready| {
            if ready.is_writable() {
                self.write(direction)?;
            }
            if ready.is_readable() || ready.is_error() || ready.is_read_closed() {
                self.read(direction)?;
            }
            Ok(())
        });
        if let Err(error) = result {
            self.lost(direction, &error);
        }
    }

    fn lost(&mut self, direction: Direction, error: &io::Error) {
        if self.slot(direction).take().is_some() {
            self.step(Input::Lost(direction));
            self.note_error(format!("connection: {error}"));
        }
    }

    fn write(&mut self, direction: Direction) -> io::Result<()> {
        if let Some(transport) = self.slot(direction)
            && transport.sender.write()?
        {
            self.pending.push_back(RibInput::Written);
        }
        Ok(())
    }

    /// Reads until nothing is there or the rib task must catch up.
    fn read(&mut self, direction: Direction) -> io::Result<()> {
        // One for all sessions of a thread: an idle session has none.
        BUFFER.with_borrow_mut(|buffer| {
            while self.pending.is_empty() {
                let Some(transport) = self.slot(direction) else { return Ok(()) };
                let Amount::Read { octets, more } = transport.read(buffer)? else { return Ok(()) };
                self.messages(direction, buffer.get(..octets).unwrap_or_default());
                match self.pending.back_mut() {
                    Some(RibInput::Updates(updates)) => updates.more = more,
                    // What is there is read, and the next read would say so.
                    _ if !more => return Ok(()),
                    _ => {}
                }
            }
            Ok(())
        })
    }

    /// Takes all whole messages out of what was received.
    fn messages(&mut self, direction: Direction, received: &[u8]) {
        let mut rest = received;
        let mut count = 0;
        // A fault closes the connection, and what follows it means nothing.
        while self.slot(direction).is_some() {
            let limit = self.negotiated(direction).map_or(MAX_MESSAGE_LEN, |session| session.message_limit);
            match Frame::split_within(rest, limit) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let whole = rest.get(..frame.length).unwrap_or_default();
                    rest = rest.get(frame.length..).unwrap_or_default();
                    count += 1;
                    if frame.kind == MessageKind::Open
                        && let Some(transport) = self.slot(direction)
                    {
                        transport.opens.received = whole.to_vec();
                    }
                    match Message::decode(frame) {
                        Ok(message) => self.message(direction, message),
                        Err(notification) => self.step(Input::Malformed(direction, notification)),
                    }
                }
                Err(notification) => self.step(Input::Malformed(direction, notification)),
            }
        }
        self.status.send_modify(|status| status.tally.received += count);
        if let Some(transport) = self.slot(direction) {
            transport.received = rest.to_vec();
        }
    }

    fn message(&mut self, direction: Direction, message: Message<'_>) {
        let peer = self.peer;
        match message {
            Message::Open(open) => self.step(Input::Message(direction, Received::Open(open))),
            Message::Notification(notification) => {
                self.step(Input::Message(direction, Received::Notification(notification)));
            }
            Message::Keepalive => {
                let was_up = self.negotiated(direction).is_some();
                self.step(Input::Message(direction, Received::Keepalive));
                // The tables want to know whether, not how often.
                if was_up && !std::mem::replace(&mut self.keepalive_told, true) {
                    self.pending.push_back(RibInput::Keepalive { peer });
                }
            }
            Message::RouteRefresh(refresh) => {
                self.step(Input::Message(direction, Received::RouteRefresh));
                let Some(session) = self.negotiated(direction) else { return };
                // RFC 7313 section 4: marks that were not negotiated are ignored.
                match refresh.content {
                    // RFC 2918 section 4: so is the request of a family that was not.
                    Some((family, RefreshKind::Request)) if session.families.contains(family) => {
                        let request = if session.enhanced_route_refresh {
                            RibInput::EnhancedRefresh { peer, family }
                        } else {
                            RibInput::Refresh { peer, family }
                        };
                        self.pending.push_back(request);
                    }
                    Some((family, RefreshKind::Begin)) if session.enhanced_route_refresh => {
                        self.pending.push_back(RibInput::RefreshBegins { peer, family });
                    }
                    Some((family, RefreshKind::End)) if session.enhanced_route_refresh => {
                        self.pending.push_back(RibInput::RefreshEnds { peer, family });
                    }
                    _ => {}
                }
            }
            Message::Update(body) => {
                self.step(Input::Message(direction, Received::Update));
                if let Some(negotiated) = self.negotiated(direction) {
                    self.update(direction, body, &negotiated);
                }
            }
        }
    }

    fn negotiated(&self, direction: Direction) -> Option<Negotiated> {
        self.machine.established().filter(|(up, _)| *up == direction).map(|(_, negotiated)| negotiated)
    }

    fn update(&mut self, direction: Direction, body: &[u8], negotiated: &Negotiated) {
        let context = UpdateContext {
            as_width: negotiated.as_width,
            peer: self.neighbor.kind(),
            families: negotiated.families,
            add_path: negotiated.add_path.receive,
            extended_next_hop: negotiated.extended_next_hop,
        };
        match Update::decode(body, context) {
            Ok(update) => {
                for fault in &update.faults {
                    self.status.send_modify(|status| status.tally.faults += 1);
                    tracing::warn!(neighbor = %self.neighbor.address, action = ?fault.action, "UPDATE: {fault}");
                }
                if let Some(family) = update.end_of_rib {
                    self.helper.end_of_rib(family);
                }
                // Those of one read travel together.
                if let Some(RibInput::Updates(updates)) = self.pending.back_mut() {
                    updates.messages.push(update.into());
                } else {
                    let updates = Updates { peer: self.peer, messages: vec![update.into()], more: false };
                    self.pending.push_back(RibInput::Updates(updates));
                }
            }
            Err(notification) => self.step(Input::Malformed(direction, notification)),
        }
    }

    fn limit_reached(&mut self, LimitReached { received, limit, .. }: LimitReached) {
        let Some((direction, _)) = self.machine.established() else { return };
        let penalty = self.neighbor.penalty;
        self.step(Input::Exceeded(direction, penalty));
        self.note_error(format!("{received} prefixes, {} allowed: {penalty}", limit.maximum));
    }

    fn tick(&mut self) {
        for direction in [Direction::Outgoing, Direction::Incoming] {
            if self.slot(direction).is_none() {
                continue;
            }
            // What lies in the socket proves that the peer lives, be it that nobody had time to read it.
            if let Err(error) = self.read(direction) {
                self.lost(direction, &error);
            }
            if !self.pending.is_empty() {
                self.step(Input::Backlogged(direction));
            }
        }
        self.step(Input::Tick);
        let mut orders = Vec::new();
        self.helper.tick(self.now(), &mut orders);
        self.order(orders);
    }

    /// Hands on what is to become of the neighbour's stale routes.
    fn order(&mut self, orders: Vec<Order>) {
        let peer = self.peer;
        self.pending.extend(orders.into_iter().map(|order| match order {
            Order::Sweep(families) => RibInput::Sweep { peer, families },
            Order::Down(families) => {
                RibInput::Down { peer, retain: Some(families).filter(|set| !set.is_empty()) }
            }
            Order::LongLived(families) => RibInput::LongLived { peer, families },
        }));
    }

    /// Tells the machine whether the neighbour takes what is sent.
    fn watch_sending(&mut self) {
        for direction in [Direction::Outgoing, Direction::Incoming] {
            if let Some(sending) =
                self.slot(direction).as_ref().and_then(|transport| transport.sender.sending())
            {
                self.step(Input::Sending(direction, sending));
            }
        }
    }

    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.machine.step(self.now(), input, &mut outputs);
        for output in outputs {
            self.perform(output);
        }
        let state = self.machine.state();
        self.status.send_if_modified(|status| {
            let changed = status.state != state;
            if changed {
                status.state = state;
                status.since = Instant::now();
            }
            changed
        });
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Dial => self.dial = Some(Box::pin(transport::dial(self.neighbor.clone()))),
            Output::AbortDial => self.dial = None,
            Output::SendOpen(direction, open) => {
                self.send(direction, |out| open.encode(out));
                if let Some(transport) = self.slot(direction) {
                    open.encode(&mut transport.opens.sent);
                }
            }
            Output::SendKeepalive(direction) => self.send(direction, header::encode_keepalive),
            Output::SendNotification(direction, notification) => {
                if let Some(transport) = self.slot(direction) {
                    transport.sender.end();
                }
                self.send(direction, |out| notification.encode(out));
            }
            Output::Close(direction) => {
                if let Some(transport) = self.slot(direction).take() {
                    self.closing.spawn(transport.close());
                }
                // Reap those that are done.
                while self.closing.try_join_next().is_some() {}
            }
            Output::Up(direction, negotiated) => self.up(direction, &negotiated),
            Output::Down(reason) => {
                tracing::warn!(neighbor = %self.neighbor.address, %reason, "session down");
                self.note_error(reason.to_string());
                self.status.send_modify(|status| {
                    status.tally.down += 1;
                    status.negotiated = None;
                });
                self.pending.push_back(RibInput::Ended {
                    peer: self.peer,
                    reason: (&reason).into(),
                    time: clock::timestamp(),
                });
                self.limits = None;
                let mut orders = Vec::new();
                match self.session.take() {
                    Some(session) => self.helper.down(self.now(), &session, &reason, &mut orders),
                    None => orders.push(Order::Down(FamilySet::EMPTY)),
                }
                self.order(orders);
            }
            Output::Failed(reason) => {
                tracing::info!(neighbor = %self.neighbor.address, %reason, "session not established");
                self.note_error(reason.to_string());
            }
        }
    }

    /// Queues a message and writes at once what the socket takes; a failure shows again when the socket is polled.
    fn send(&mut self, direction: Direction, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::new();
        encode(&mut message);
        if let Some(transport) = self.slot(direction) {
            transport.sender.queue(message);
        }
        if let Err(error) = self.write(direction) {
            tracing::debug!(neighbor = %self.neighbor.address, %error, "write");
        }
    }

    fn up(&mut self, direction: Direction, negotiated: &Negotiated) {
        let transport = self.slot(direction).as_ref();
        let local = transport.map(|transport| transport.local).unwrap_or_default();
        let ends = transport.and_then(Transport::ends);
        let opens = transport.map(|transport| transport.opens.clone()).unwrap_or_default();
        let opened = Opened { ends, sent: opens.sent, received: opens.received };
        let neighbor = &self.neighbor;
        let view = ExportView {
            kind: neighbor.kind(),
            local_as: neighbor.local_as,
            as_width: negotiated.as_width,
            next_hop_ipv4: neighbor.next_hop_ipv4.or(local.ipv4),
            next_hop_ipv6: neighbor.next_hop_ipv6.or(local.ipv6),
        };
        tracing::info!(
            neighbor = %neighbor.address, asn = %negotiated.asn, identifier = %negotiated.identifier,
            hold_time = negotiated.hold_time.seconds(), "session established"
        );
        let info = PeerInfo {
            identifier: negotiated.identifier,
            remote_as: negotiated.asn,
            address: neighbor.address,
            families: negotiated.families,
            view,
            ifindex: local.ifindex,
            add_path: AddPath {
                receive: negotiated.add_path.receive,
                send: negotiated.add_path.send,
                send_limit: neighbor.add_path_limit,
            },
            message_limit: negotiated.message_limit,
            extended_next_hop: negotiated.extended_next_hop,
            route_reflector_client: neighbor.route_reflector_client,
            long_lived: !negotiated.long_lived.families.is_empty(),
            policy: neighbor.policy.clone(),
            prefix_limit: neighbor.prefix_limit,
        };
        let mut orders = Vec::new();
        self.helper.up(self.now(), negotiated, &mut orders);
        self.order(orders);
        self.session = Some(*negotiated);
        self.status.send_modify(|status| {
            status.tally.up += 1;
            status.negotiated = Some(*negotiated);
        });
        let (limits, receiver) = mpsc::channel(1);
        self.limits = Some(receiver);
        self.keepalive_told = false;
        let sender = self.slot(direction).as_ref().map(|transport| Arc::clone(&transport.sender));
        if let Some(sender) = &sender {
            sender.begin();
        }
        let sender = sender.as_ref().map(Arc::downgrade).unwrap_or_default();
        let outlet = SessionOutlet { sender, limits };
        let marks = match negotiated.graceful_restart {
            Some(restart) if !restart.restarting => Marks::Sends,
            _ => Marks::MaySend,
        };
        let beginning = Box::new(Beginning { opened, time: clock::timestamp() });
        let (peer, info) = (self.peer, Box::new(info));
        self.pending.push_back(RibInput::Up { peer, info, marks, outlet, beginning });
    }

    fn note_error(&mut self, error: String) {
        self.status.send_modify(|status| status.last_error = Some(error));
    }
}

async fn ready(transport: Option<&Transport>, reading: bool) -> io::Result<tokio::io::Ready> {
    match transport {
        Some(transport) => transport.ready(reading).await,
        None => std::future::pending().await,
    }
}

async fn ready_dial(dial: &mut Option<Dial>) -> io::Result<TcpStream> {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

async fn next_limit(limits: &mut Option<mpsc::Receiver<LimitReached>>) -> Option<LimitReached> {
    match limits {
        Some(limits) => limits.recv().await,
        None => std::future::pending().await,
    }
}
