//! One transport connection on its way to a session.

use std::time::Duration;

use crate::asn::Asn;
use crate::family::FamilySet;
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;
use crate::wire::AsWidth;

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
}

/// RFC 4271 section 8.2.2 suggests a large hold time while the OPEN is awaited: 4 minutes.
const OPEN_HOLD: Duration = Duration::from_mins(4);

impl Connection {
    pub(super) fn new(now: Duration) -> Self {
        Self { phase: Phase::OpenSent, hold: Some(now + OPEN_HOLD), keepalive: None }
    }

    /// Starts the hold timer again: something was heard.
    pub(super) fn heard(&mut self, now: Duration) {
        self.hold = match self.phase.negotiated() {
            Some(negotiated) => negotiated.hold_time.duration().map(|hold| now + hold),
            None => Some(now + OPEN_HOLD),
        };
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        [self.hold, self.keepalive].into_iter().flatten().min()
    }
}
