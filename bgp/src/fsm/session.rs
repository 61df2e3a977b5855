//! The machine that decides which connections live and when the session is up.

use std::time::Duration;

use super::backoff::{IdleHold, Jitter};
use super::connection::{Connection, Direction, Negotiated, Phase};
use crate::asn::Asn;
use crate::family::FamilySet;
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;
use crate::wire::{
    AddPath, AsWidth, Capabilities, GracefulRestart, LongLived, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN,
    MessageKind, Notification, Open, PeerKind,
};

/// What the machine has to know about both ends.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Our AS.
    pub local_as: Asn,
    /// Our identifier.
    pub local_identifier: BgpIdentifier,
    /// The AS that the neighbour must be in.
    pub remote_as: Asn,
    /// The hold time to propose.
    pub hold_time: HoldTime,
    /// Time from a failed dial to the next.
    pub connect_retry: Duration,
    /// Never dial, only accept.
    pub passive: bool,
    /// What to offer. The families of `graceful_restart` are offered as restarted while `restarting_until` is not
    /// reached.
    pub capabilities: Capabilities,
    /// When the restart that this speaker comes back from is over.
    pub restarting_until: Option<Duration>,
    /// Families for which packets were forwarded while the speaker was away, as if it had not been; others lose
    /// their F bit until the session has been up.
    pub kept: FamilySet,
    /// Seed of the jitter on timers.
    pub seed: u64,
}

impl SessionConfig {
    /// Whether the neighbour is in our AS.
    pub fn peer_kind(&self) -> PeerKind {
        if self.local_as == self.remote_as { PeerKind::Internal } else { PeerKind::External }
    }
}

/// The states of RFC 4271 section 8.2.2; of two connections, the one further on counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Stopped, or left alone after a failure.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting to dial again, or to be dialled.
    Active,
    /// Waiting for the peer's OPEN.
    OpenSent,
    /// Waiting for the peer's first KEEPALIVE.
    OpenConfirm,
    /// Exchanging routes.
    Established,
}

impl State {
    /// The name in RFC 4271.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

/// A message, as much of it as the machine cares about.
#[derive(Clone, Debug)]
pub enum Received {
    /// An OPEN.
    Open(Open),
    /// An UPDATE; its content is the caller's business.
    Update,
    /// A KEEPALIVE.
    Keepalive,
    /// A NOTIFICATION.
    Notification(Notification),
    /// A ROUTE-REFRESH; its content is the caller's business.
    RouteRefresh,
}

impl Received {
    fn kind(&self) -> MessageKind {
        match self {
            Self::Open(_) => MessageKind::Open,
            Self::Update => MessageKind::Update,
            Self::Keepalive => MessageKind::Keepalive,
            Self::Notification(_) => MessageKind::Notification,
            Self::RouteRefresh => MessageKind::RouteRefresh,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The operator wants the session (event 1).
    Start,
    /// The operator wants it no longer; the NOTIFICATION says why (event 2).
    Stop(Notification),
    /// The speaker ends to begin again: peers that keep its routes meanwhile are left in silence, as a NOTIFICATION
    /// would cost the routes (RFC 4724 section 4); others are told this.
    Restart(Notification),
    /// A connection is there: our dial succeeded, or the peer's was accepted (events 16, 17).
    Connected(Direction),
    /// The dial that [`Output::Dial`] asked for failed (event 18).
    DialFailed,
    /// A connection broke or was closed by the peer (event 18).
    Lost(Direction),
    /// A message arrived (events 19, 24 to 27).
    Message(Direction, Received),
    /// The bytes of a message call for a NOTIFICATION (events 21, 22, 28).
    Malformed(Direction, Notification),
    /// The peer announces more than it may: the session ends, and the penalty says when there may be another.
    Exceeded(Direction, Penalty),
    /// Messages lie unread for our own reasons, so silence proves nothing: the hold timer starts again.
    Backlogged(Direction),
    /// Messages wait since now for the peer to take them, or the socket has taken all (RFC 9687).
    Sending(Direction, Sending),
    /// Time has passed; timers that are due fire (events 9 to 11, 13).
    Tick,
}

/// How long a peer is left alone that announced more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Penalty {
    /// As after any failure.
    BackOff,
    /// For so long, whoever dials.
    For(Duration),
    /// Until the machine gives way to another.
    UntilReset,
}

impl std::fmt::Display for Penalty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BackOff => f.write_str("the session begins again"),
            Self::For(time) => write!(f, "idle for {} s", time.as_secs()),
            Self::UntilReset => f.write_str("idle until it is reset"),
        }
    }
}

/// Whether the peer takes what we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Some of it waits, and none was taken since this was first said.
    Blocked,
    /// Some or all of it was taken.
    Progress,
}

/// Why a session or an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// We sent this.
    Sent(Notification),
    /// The peer sent this.
    Received(Notification),
    /// The connection broke.
    ConnectionLost,
}

impl std::fmt::Display for DownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "sent NOTIFICATION: {notification}"),
            Self::Received(notification) => write!(f, "received NOTIFICATION: {notification}"),
            Self::ConnectionLost => f.write_str("the connection was lost"),
        }
    }
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a connection to the neighbour; answer with `Connected(Outgoing)` or `DialFailed`.
    Dial,
    /// Give up the dial that is under way.
    AbortDial,
    /// Send our OPEN.
    SendOpen(Direction, Open),
    /// Send a KEEPALIVE.
    SendKeepalive(Direction),
    /// Send a NOTIFICATION.
    SendNotification(Direction, Notification),
    /// Close the connection once all is sent.
    Close(Direction),
    /// The session is up on this connection.
    Up(Direction, Negotiated),
    /// The session is no longer up.
    Down(DownReason),
    /// An attempt ended without having been up.
    Failed(DownReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialler {
    /// Not started.
    Stopped,
    /// Left alone until then after a failure.
    IdleHold(Duration),
    /// Left alone until then, and refused if it dials.
    Barred(Duration),
    /// A dial is under way.
    Dialling,
    /// The next dial is due then; never, if only the peer dials.
    Waiting(Option<Duration>),
}

/// What a peer hears at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    Notification,
    /// Nothing, if it keeps our routes until we are back.
    SilenceToHelpers,
}

/// A session that stayed up for so long proves that the neighbour works.
const STABLE: Duration = Duration::from_secs(30);

/// A connection that both ends opened at the same time has come within this time of the one that won.
const COLLISION: Duration = Duration::from_secs(10);

/// The machine of one neighbour. Times are durations since any fixed moment that the caller chose.
#[derive(Clone, Debug)]
pub struct Session {
    config: SessionConfig,
    dialler: Dialler,
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    jitter: Jitter,
    idle_hold: IdleHold,
    up_since: Option<Duration>,
    /// Whether the session has ever been up: then it is only the session that was lost, not what forwards.
    was_up: bool,
}

impl Session {
    /// A machine in state Idle.
    pub fn new(config: SessionConfig) -> Self {
        let jitter = Jitter::new(config.seed);
        Self {
            config,
            dialler: Dialler::Stopped,
            outgoing: None,
            incoming: None,
            jitter,
            idle_hold: IdleHold::default(),
            up_since: None,
            was_up: false,
        }
    }

    /// The state to show.
    pub fn state(&self) -> State {
        let furthest = [&self.outgoing, &self.incoming]
            .into_iter()
            .flatten()
            .map(|connection| match connection.phase {
                Phase::OpenSent => State::OpenSent,
                Phase::OpenConfirm(_) => State::OpenConfirm,
                Phase::Established(_) => State::Established,
            })
            .max();
        furthest.unwrap_or(match self.dialler {
            Dialler::Stopped | Dialler::IdleHold(_) | Dialler::Barred(_) => State::Idle,
            Dialler::Dialling => State::Connect,
            Dialler::Waiting(_) => State::Active,
        })
    }

    /// The restart that this speaker came back from is over before its time.
    pub fn restart_is_over(&mut self) {
        self.config.restarting_until = None;
    }

    /// The connection that carries the session, if it is up.
    pub fn established(&self) -> Option<(Direction, Negotiated)> {
        [Direction::Outgoing, Direction::Incoming].into_iter().find_map(|direction| {
            match self.connection(direction)?.phase {
                Phase::Established(negotiated) => Some((direction, negotiated)),
                Phase::OpenSent | Phase::OpenConfirm(_) => None,
            }
        })
    }

    /// Makes room for a connection that the peer dialled although an earlier one of its carries the session: a peer
    /// that restarted comes back before we notice that it was gone (RFC 4724 section 5). The earlier one counts as
    /// outgoing from now on. Whether there is room.
    pub fn make_room(&mut self) -> bool {
        let restarts = match self.established() {
            Some((Direction::Incoming, session)) => session.graceful_restart.is_some(),
            _ => false,
        };
        let room = restarts && self.outgoing.is_none();
        if room {
            self.outgoing = self.incoming.take();
        }
        room
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        let dialler = match self.dialler {
            Dialler::IdleHold(at) | Dialler::Barred(at) | Dialler::Waiting(Some(at)) => Some(at),
            Dialler::Stopped | Dialler::Dialling | Dialler::Waiting(None) => None,
        };
        let connections = [&self.outgoing, &self.incoming].into_iter().flatten();
        connections.filter_map(Connection::next_deadline).chain(dialler).min()
    }

    /// Takes one input at a time that never goes back; appends what follows from it.
    pub fn step(&mut self, now: Duration, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Start => {
                if self.dialler == Dialler::Stopped {
                    self.dial(out);
                }
            }
            Input::Stop(notification) => self.stop(&notification, Farewell::Notification, out),
            Input::Restart(notification) => self.stop(&notification, Farewell::SilenceToHelpers, out),
            Input::Connected(direction) => self.connected(direction, now, out),
            Input::DialFailed => {
                if self.dialler == Dialler::Dialling {
                    self.wait_for_retry(now);
                }
            }
            Input::Lost(direction) => {
                if self.connection(direction).is_some() {
                    self.drop_connection(direction, DownReason::ConnectionLost, now, out);
                }
            }
            Input::Message(direction, received) => self.received(direction, received, now, out),
            Input::Malformed(direction, notification) => {
                if self.connection(direction).is_some() {
                    self.fail(direction, notification, now, out);
                }
            }
            Input::Exceeded(direction, penalty) => {
                if self.connection(direction).is_some() {
                    self.fail(direction, Notification::maximum_prefixes_reached(), now, out);
                    self.punish(penalty, now, out);
                }
            }
            Input::Backlogged(direction) => {
                if let Some(connection) = self.slot(direction) {
                    connection.heard(now);
                }
            }
            Input::Sending(direction, sending) => {
                if let Some(connection) = self.slot(direction) {
                    connection.blocked(sending == Sending::Blocked, now);
                }
            }
            Input::Tick => self.tick(now, out),
        }
    }

    fn connection(&self, direction: Direction) -> Option<&Connection> {
        match direction {
            Direction::Outgoing => self.outgoing.as_ref(),
            Direction::Incoming => self.incoming.as_ref(),
        }
    }

    fn slot(&mut self, direction: Direction) -> &mut Option<Connection> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }

    fn dial(&mut self, out: &mut Vec<Output>) {
        if self.config.passive {
            self.dialler = Dialler::Waiting(None);
        } else {
            self.dialler = Dialler::Dialling;
            out.push(Output::Dial);
        }
    }

    fn wait_for_retry(&mut self, now: Duration) {
        let at = (!self.config.passive).then(|| now + self.jitter.apply(self.config.connect_retry));
        self.dialler = Dialler::Waiting(at);
    }

    fn stop(&mut self, notification: &Notification, farewell: Farewell, out: &mut Vec<Output>) {
        self.abort_dial(out);
        self.dialler = Dialler::Stopped;
        let mut reason = DownReason::ConnectionLost;
        for direction in [Direction::Outgoing, Direction::Incoming] {
            let Some(connection) = self.slot(direction).take() else { continue };
            let helper = connection.phase.negotiated().and_then(|negotiated| negotiated.graceful_restart);
            if farewell == Farewell::Notification || helper.is_none() {
                let notification = for_good(notification.clone(), connection.phase);
                out.push(Output::SendNotification(direction, notification.clone()));
                if matches!(connection.phase, Phase::Established(_)) {
                    reason = DownReason::Sent(notification);
                }
            }
            out.push(Output::Close(direction));
        }
        if self.up_since.take().is_some() {
            out.push(Output::Down(reason));
        }
    }

    /// Leaves a peer alone that announced too much.
    fn punish(&mut self, penalty: Penalty, now: Duration, out: &mut Vec<Output>) {
        let dialler = match penalty {
            Penalty::BackOff => return,
            Penalty::For(time) => Dialler::Barred(now + time),
            Penalty::UntilReset => Dialler::Stopped,
        };
        self.abort_dial(out);
        for direction in [Direction::Outgoing, Direction::Incoming] {
            if self.slot(direction).take().is_some() {
                out.push(Output::SendNotification(direction, Notification::connection_rejected()));
                out.push(Output::Close(direction));
            }
        }
        self.dialler = dialler;
    }

    fn abort_dial(&mut self, out: &mut Vec<Output>) {
        if self.dialler == Dialler::Dialling {
            self.dialler = Dialler::Waiting(None);
            out.push(Output::AbortDial);
        }
    }

    fn connected(&mut self, direction: Direction, now: Duration, out: &mut Vec<Output>) {
        let refused = match direction {
            Direction::Outgoing => self.dialler != Dialler::Dialling,
            // RFC 4271 refuses in the idle-hold time too. We do not: two speakers that back off at different times
            // would refuse each other for ever. The peer's own back-off bounds how often it comes.
            Direction::Incoming => {
                matches!(self.dialler, Dialler::Stopped | Dialler::Barred(_)) || self.incoming.is_some()
            }
        };
        if refused {
            // A slot that is taken belongs to another connection, which `Close` must not end.
            if self.connection(direction).is_none() {
                out.push(Output::SendNotification(direction, Notification::connection_rejected()));
                out.push(Output::Close(direction));
            }
            return;
        }
        if direction == Direction::Outgoing {
            self.dialler = Dialler::Waiting(None);
        }
        *self.slot(direction) = Some(Connection::new(now));
        let restarting = self.config.restarting_until.is_some_and(|until| now < until);
        let mut capabilities = self.config.capabilities;
        if let Some(restart) = &mut capabilities.graceful_restart {
            restart.restarting = restarting;
            if !self.was_up {
                restart.forwarding = restart.forwarding.intersection(self.config.kept);
            }
        }
        if !self.was_up {
            let forwarding = &mut capabilities.long_lived.forwarding;
            *forwarding = forwarding.intersection(self.config.kept);
        }
        let open = Open {
            asn: self.config.local_as,
            hold_time: self.config.hold_time,
            identifier: self.config.local_identifier,
            capabilities,
        };
        out.push(Output::SendOpen(direction, open));
    }

    fn received(&mut self, direction: Direction, received: Received, now: Duration, out: &mut Vec<Output>) {
        let Some(connection) = self.slot(direction) else { return };
        let phase = connection.phase;
        match (phase, received) {
            (_, Received::Notification(notification)) => {
                self.drop_connection(direction, DownReason::Received(notification), now, out);
            }
            (Phase::OpenSent, Received::Open(open)) => self.opened(direction, &open, now, out),
            (Phase::OpenConfirm(negotiated), Received::Keepalive) => {
                connection.phase = Phase::Established(negotiated);
                connection.heard(now);
                self.up_since = Some(now);
                self.was_up = true;
                self.abort_dial(out);
                // The session's end says when there is another attempt.
                self.dialler = Dialler::Waiting(None);
                // Section 6.8: the connection that is not yet up loses to the one that is.
                if self.slot(direction.other()).take().is_some() {
                    let collision = Notification::connection_collision();
                    out.push(Output::SendNotification(direction.other(), collision));
                    out.push(Output::Close(direction.other()));
                }
                out.push(Output::Up(direction, negotiated));
            }
            (Phase::Established(_), Received::Update | Received::Keepalive | Received::RouteRefresh) => {
                connection.heard(now);
            }
            (Phase::OpenSent, other) => {
                self.fail(direction, Notification::unexpected_in_open_sent(other.kind()), now, out);
            }
            (Phase::OpenConfirm(_), other) => {
                self.fail(direction, Notification::unexpected_in_open_confirm(other.kind()), now, out);
            }
            (Phase::Established(_), other) => {
                self.fail(direction, Notification::unexpected_in_established(other.kind()), now, out);
            }
        }
    }

    fn opened(&mut self, direction: Direction, open: &Open, now: Duration, out: &mut Vec<Output>) {
        let negotiated = match negotiate(&self.config, open) {
            Ok(negotiated) => negotiated,
            Err(notification) => return self.fail(direction, notification, now, out),
        };
        if self.is_replaced(direction.other(), now) {
            // RFC 4724 section 5: a NOTIFICATION would be for a peer that is no more.
            out.push(Output::Close(direction.other()));
            self.drop_connection(direction.other(), DownReason::ConnectionLost, now, out);
        } else if let Some(loser) = self.collision_loser(direction, open.identifier) {
            let collision = Notification::connection_collision();
            *self.slot(loser) = None;
            out.push(Output::SendNotification(loser, collision));
            out.push(Output::Close(loser));
            if loser == direction {
                return;
            }
        }
        let keepalive = negotiated.hold_time.keepalive().map(|interval| now + self.jitter.apply(interval));
        if let Some(connection) = self.slot(direction) {
            connection.phase = Phase::OpenConfirm(negotiated);
            connection.heard(now);
            connection.keepalive = keepalive;
        }
        out.push(Output::SendKeepalive(direction));
    }

    /// Whether the OPEN on another connection means that the peer has lost this one in a restart.
    fn is_replaced(&self, direction: Direction, now: Duration) -> bool {
        let Some(Phase::Established(session)) = self.connection(direction).map(|connection| connection.phase)
        else {
            return false;
        };
        session.graceful_restart.is_some()
            && self.up_since.is_some_and(|since| now.saturating_sub(since) >= COLLISION)
    }

    /// RFC 4271 section 6.8: which of two connections goes, now that the OPEN on `direction` told the identifier.
    fn collision_loser(&self, direction: Direction, remote: BgpIdentifier) -> Option<Direction> {
        match self.connection(direction.other())?.phase {
            Phase::OpenSent => None,
            Phase::Established(_) => Some(direction),
            // RFC 6286: with equal identifiers, which only differing ASes may have, the larger AS wins.
            Phase::OpenConfirm(_) => {
                let local = (self.config.local_identifier, self.config.local_as);
                if local < (remote, self.config.remote_as) {
                    Some(Direction::Outgoing)
                } else {
                    Some(Direction::Incoming)
                }
            }
        }
    }

    /// Sends a NOTIFICATION and ends the connection.
    fn fail(
        &mut self,
        direction: Direction,
        notification: Notification,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let notification = match self.connection(direction) {
            Some(connection) => for_good(notification, connection.phase),
            None => notification,
        };
        out.push(Output::SendNotification(direction, notification.clone()));
        self.drop_connection(direction, DownReason::Sent(notification), now, out);
    }

    /// Ends a connection, and with the last one the attempt.
    fn drop_connection(
        &mut self,
        direction: Direction,
        reason: DownReason,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let Some(connection) = self.slot(direction).take() else { return };
        if reason != DownReason::ConnectionLost {
            out.push(Output::Close(direction));
        }
        let was_up = matches!(connection.phase, Phase::Established(_));
        if was_up {
            if self.up_since.take().is_some_and(|since| now.saturating_sub(since) >= STABLE) {
                self.idle_hold.held();
            }
            out.push(Output::Down(reason));
        } else {
            out.push(Output::Failed(reason));
        }
        if self.connection(direction.other()).is_some() || self.dialler == Dialler::Dialling {
            return;
        }
        let hold = self.idle_hold.failed();
        self.dialler = Dialler::IdleHold(now + self.jitter.apply(hold));
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        for direction in [Direction::Outgoing, Direction::Incoming] {
            let Some(connection) = self.slot(direction) else { continue };
            if connection.hold.is_some_and(|at| at <= now) {
                self.fail(direction, Notification::hold_timer_expired(), now, out);
                continue;
            }
            if connection.send_hold.is_some_and(|at| at <= now) {
                self.fail(direction, Notification::send_hold_timer_expired(), now, out);
                continue;
            }
            if connection.keepalive.is_some_and(|at| at <= now) {
                let interval =
                    connection.phase.negotiated().and_then(|negotiated| negotiated.hold_time.keepalive());
                let next = interval.map(|interval| now + self.jitter.apply(interval));
                if let Some(connection) = self.slot(direction) {
                    connection.keepalive = next;
                }
                out.push(Output::SendKeepalive(direction));
            }
        }
        let due = match self.dialler {
            Dialler::IdleHold(at) | Dialler::Barred(at) | Dialler::Waiting(Some(at)) => at <= now,
            Dialler::Stopped | Dialler::Dialling | Dialler::Waiting(None) => false,
        };
        if due && self.outgoing.is_none() {
            let busy = self.incoming.is_some();
            if busy {
                // The peer dialled first; its connection decides what comes next.
                self.dialler = Dialler::Waiting(None);
            } else {
                self.dial(out);
            }
        }
    }
}

/// The NOTIFICATION in the form in which it costs the routes: where the peer would keep them, a hard reset for what
/// means that they are not wanted, or no longer true (RFC 8538 section 4.1).
fn for_good(notification: Notification, phase: Phase) -> Notification {
    let helper = match phase {
        Phase::Established(negotiated) => negotiated.graceful_restart,
        Phase::OpenSent | Phase::OpenConfirm(_) => None,
    };
    let ends_for_good = matches!((notification.code, notification.subcode), (6, 1..=3 | 10));
    if ends_for_good && helper.is_some_and(|restart| restart.notification) {
        Notification::hard_reset(&notification)
    } else {
        notification
    }
}

/// RFC 4271 section 6.2 and RFC 5492: checks an OPEN against the configuration.
fn negotiate(config: &SessionConfig, open: &Open) -> Result<Negotiated, Notification> {
    if open.asn != config.remote_as {
        return Err(Notification::bad_peer_as());
    }
    if config.peer_kind() == PeerKind::Internal && open.identifier == config.local_identifier {
        return Err(Notification::bad_bgp_identifier());
    }
    let (ours, theirs) = (&config.capabilities, &open.capabilities);
    let families = ours.families.intersection(theirs.families);
    if families.is_empty() {
        let missed = crate::wire::capability::encode_multiprotocol(ours.families);
        return Err(Notification::unsupported_capability(missed));
    }
    let add_path = ours.add_path.negotiate(theirs.add_path);
    let graceful_restart = ours.graceful_restart.zip(theirs.graceful_restart).map(|(ours, theirs)| {
        let families = theirs.families.intersection(families);
        GracefulRestart { families, notification: ours.notification && theirs.notification, ..theirs }
    });
    let mut long_lived = LongLived::default();
    for family in
        ours.long_lived.families.intersection(theirs.long_lived.families).intersection(families).iter()
    {
        // RFC 9494 section 4.2: a locally configured time bounds the peer's.
        long_lived.insert(family, ours.long_lived.seconds(family).min(theirs.long_lived.seconds(family)));
    }
    long_lived.forwarding = theirs.long_lived.forwarding.intersection(long_lived.families);
    let extended_messages = ours.extended_messages && theirs.extended_messages;
    Ok(Negotiated {
        asn: open.asn,
        identifier: open.identifier,
        hold_time: shorter(config.hold_time, open.hold_time),
        families,
        as_width: if theirs.four_octet_as.is_some() { AsWidth::Four } else { AsWidth::Two },
        route_refresh: theirs.route_refresh,
        enhanced_route_refresh: ours.enhanced_route_refresh && theirs.enhanced_route_refresh,
        message_limit: if extended_messages { MAX_EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN },
        extended_next_hop: ours.extended_next_hop && theirs.extended_next_hop,
        add_path: AddPath {
            receive: add_path.receive.intersection(families),
            send: add_path.send.intersection(families),
        },
        graceful_restart,
        long_lived: if graceful_restart.is_some() { long_lived } else { LongLived::default() },
    })
}

/// The smaller of both; zero from either side means that no timer runs (RFC 4271 section 4.2).
fn shorter(ours: HoldTime, theirs: HoldTime) -> HoldTime {
    ours.min(theirs)
}
