//! One transport connection on its way to a session.

use std::time::Duration;

use crate::asn::Asn;
use crate::family::{Family, FamilySet};
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;
use crate::wire::{AddPath, AsWidth, GracefulRestart, LongLived};

/// Who opened a connection. It names the connection too: a neighbour has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

/// What both speakers agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS.
    pub asn: Asn,
    /// The peer's identifier.
    pub identifier: BgpIdentifier,
    /// The shorter of both hold times.
    pub hold_time: HoldTime,
    /// Families that both announced.
    pub families: FamilySet,
    /// Octets of an AS number.
    pub as_width: AsWidth,
    /// Whether the peer answers ROUTE-REFRESH.
    pub route_refresh: bool,
    /// Whether both mark the begin and the end of such an answer.
    pub enhanced_route_refresh: bool,
    /// Octets in the longest message.
    pub message_limit: usize,
    /// Whether IPv4 routes may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// Families in which prefixes carry path identifiers.
    pub add_path: AddPath,
    /// What the peer said of graceful restart, if both do it; its families are among those negotiated.
    pub graceful_restart: Option<GracefulRestart>,
    /// What the peer said of long-lived graceful restart, if both do it.
    pub long_lived: LongLived,
}

impl Negotiated {
    /// Whether the peer kept forwarding for this family through the restart that it comes back from.
    pub fn kept_forwarding(&self, family: Family) -> bool {
        self.graceful_restart.is_some_and(|restart| restart.forwarding.contains(family))
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    OpenSent,
    OpenConfirm(Negotiated),
    Established(Negotiated),
}

impl Phase {
    pub(super) fn negotiated(&self) -> Option<Negotiated> {
        match self {
            Self::OpenSent => None,
            Self::OpenConfirm(negotiated) | Self::Established(negotiated) => Some(*negotiated),
        }
    }
}

/// A connection with its two timers, as times at which they fire.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) hold: Option<Duration>,
    pub(super) keepalive: Option<Duration>,
    /// When to give up on a peer that takes nothing of what we send (RFC 9687).
    pub(super) send_hold: Option<Duration>,
}

/// RFC 4271 section 8.2.2 suggests a large hold time while the OPEN is awaited: 4 minutes.
const OPEN_HOLD: Duration = Duration::from_mins(4);

/// RFC 9687 section 3.1: eight minutes or twice the hold time, whichever is more.
const SHORTEST_SEND_HOLD: Duration = Duration::from_mins(8);

impl Connection {
    pub(super) fn new(now: Duration) -> Self {
        Self { phase: Phase::OpenSent, hold: Some(now + OPEN_HOLD), keepalive: None, send_hold: None }
    }

    /// Starts the hold timer again: something was heard.
    pub(super) fn heard(&mut self, now: Duration) {
        self.hold = match self.phase.negotiated() {
            Some(negotiated) => negotiated.hold_time.duration().map(|hold| now + hold),
            None => Some(now + OPEN_HOLD),
        };
    }

    /// Starts or stops the send hold timer: whether messages wait for the peer to take them.
    pub(super) fn blocked(&mut self, blocked: bool, now: Duration) {
        let hold = self.phase.negotiated().and_then(|negotiated| negotiated.hold_time.duration());
        self.send_hold = match (blocked, hold) {
            (true, Some(hold)) => self.send_hold.or(Some(now + (hold * 2).max(SHORTEST_SEND_HOLD))),
            _ => None,
        };
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        [self.hold, self.keepalive, self.send_hold].into_iter().flatten().min()
    }
}
