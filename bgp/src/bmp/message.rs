//! The messages, each appended whole to the caller's buffer.

use std::net::SocketAddr;

use super::peer::{MonitoredPeer, Timestamp, View, encode_ends};
use crate::family::Family;
use crate::fsm;

const VERSION: u8 = 3;
/// Octets of version, length and type.
const HEADER_LEN: usize = 6;

/// Types of messages (RFC 7854 section 4.1).
const ROUTE_MONITORING: u8 = 0;
const STATISTICS_REPORT: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// Information about the speaker (RFC 7854 section 4.4), or about a table (RFC 9069 section 4.4).
const SYS_DESCR: u16 = 1;
const SYS_NAME: u16 = 2;
const TABLE_NAME: u16 = 3;

/// Information about the end of the session with the collector (RFC 7854 section 4.5).
const TERMINATION_REASON: u16 = 1;

/// How the session with a neighbour began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Our end and the neighbour's; `None` of the Loc-RIB.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The OPEN that was sent, whole.
    pub sent: Vec<u8>,
    /// The OPEN that was received, whole.
    pub received: Vec<u8>,
}

/// Why the session with a neighbour ended (RFC 7854 section 4.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// 1: we ended it, with this NOTIFICATION, whole.
    LocalNotification(Vec<u8>),
    /// 3: the neighbour ended it, with this NOTIFICATION, whole.
    RemoteNotification(Vec<u8>),
    /// 4: the connection was lost without a word.
    RemoteLoss,
}

impl From<&fsm::DownReason> for DownReason {
    fn from(reason: &fsm::DownReason) -> Self {
        let whole = |notification: &crate::wire::Notification| {
            let mut message = Vec::new();
            notification.encode(&mut message);
            message
        };
        match reason {
            fsm::DownReason::Sent(notification) => Self::LocalNotification(whole(notification)),
            fsm::DownReason::Received(notification) => Self::RemoteNotification(whole(notification)),
            fsm::DownReason::ConnectionLost => Self::RemoteLoss,
        }
    }
}

/// Why the session with a collector ends (RFC 7854 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminationReason {
    /// 0: the speaker ends, or comes back with other settings.
    Administrative,
    /// 2: what the collector has not taken is more than is kept for it.
    OutOfResources,
    /// 4: the collector is no longer in the configuration.
    ForGood,
}

/// What a statistics report has of a peer (RFC 7854 section 4.8, RFC 8671 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// 7: routes in Adj-RIB-In.
    AdjRibIn(u64),
    /// 8: routes in Loc-RIB.
    LocRib(u64),
    /// 9: routes of a family in Adj-RIB-In.
    AdjRibInOf(Family, u64),
    /// 10: routes of a family in Loc-RIB.
    LocRibOf(Family, u64),
    /// 15: routes in Adj-RIB-Out after the export policy.
    AdjRibOut(u64),
    /// 17: routes of a family in Adj-RIB-Out after the export policy.
    AdjRibOutOf(Family, u64),
}

impl Statistic {
    fn parts(self) -> (u16, Option<Family>, u64) {
        match self {
            Self::AdjRibIn(number) => (7, None, number),
            Self::LocRib(number) => (8, None, number),
            Self::AdjRibInOf(family, number) => (9, Some(family), number),
            Self::LocRibOf(family, number) => (10, Some(family), number),
            Self::AdjRibOut(number) => (15, None, number),
            Self::AdjRibOutOf(family, number) => (17, Some(family), number),
        }
    }
}

/// Appends an Initiation: who the speaker is, in the words of `sysName` and `sysDescr` of RFC 1213.
pub fn initiation(sys_name: &str, sys_descr: &str, out: &mut Vec<u8>) {
    message(INITIATION, out, |out| {
        information(SYS_DESCR, sys_descr.as_bytes(), out);
        information(SYS_NAME, sys_name.as_bytes(), out);
    });
}

/// Appends a Termination.
pub fn termination(reason: TerminationReason, out: &mut Vec<u8>) {
    let code: u16 = match reason {
        TerminationReason::Administrative => 0,
        TerminationReason::OutOfResources => 2,
        TerminationReason::ForGood => 4,
    };
    message(TERMINATION, out, |out| information(TERMINATION_REASON, &code.to_be_bytes(), out));
}

/// Appends a Peer Up. The table's name is that of the Loc-RIB, and is said of that alone.
pub fn peer_up(
    peer: &MonitoredPeer,
    opened: &Opened,
    table_name: Option<&str>,
    time: Timestamp,
    out: &mut Vec<u8>,
) {
    message(PEER_UP, out, |out| {
        peer.encode(View::PrePolicy, time, out);
        encode_ends(opened.ends, out);
        out.extend_from_slice(&opened.sent);
        out.extend_from_slice(&opened.received);
        if let Some(name) = table_name {
            information(TABLE_NAME, name.as_bytes(), out);
        }
    });
}

/// Appends a Peer Down, which withdraws all routes of the peer too.
pub fn peer_down(peer: &MonitoredPeer, reason: &DownReason, time: Timestamp, out: &mut Vec<u8>) {
    let (code, data): (u8, &[u8]) = match reason {
        DownReason::LocalNotification(message) => (1, message),
        DownReason::RemoteNotification(message) => (3, message),
        DownReason::RemoteLoss => (4, &[]),
    };
    message(PEER_DOWN, out, |out| {
        peer.encode(View::PrePolicy, time, out);
        out.push(code);
        out.extend_from_slice(data);
    });
}

/// Appends a Route Monitoring with the UPDATE that is appended by `update`.
pub fn route_monitoring(
    peer: &MonitoredPeer,
    view: View,
    time: Timestamp,
    out: &mut Vec<u8>,
    update: impl FnOnce(&mut Vec<u8>),
) {
    message(ROUTE_MONITORING, out, |out| {
        peer.encode(view, time, out);
        update(out);
    });
}

/// Appends a Statistics Report.
pub fn statistics(peer: &MonitoredPeer, statistics: &[Statistic], time: Timestamp, out: &mut Vec<u8>) {
    message(STATISTICS_REPORT, out, |out| {
        peer.encode(View::PrePolicy, time, out);
        out.extend_from_slice(&u32::try_from(statistics.len()).unwrap_or(u32::MAX).to_be_bytes());
        for statistic in statistics {
            let (kind, family, number) = statistic.parts();
            let mut value = Vec::new();
            if let Some(family) = family {
                value.extend_from_slice(&family.afi().to_be_bytes());
                value.push(family.safi());
            }
            value.extend_from_slice(&number.to_be_bytes());
            information(kind, &value, out);
        }
    });
}

/// How many messages, all of them whole, follow one another here.
pub fn count(mut messages: &[u8]) -> u64 {
    let mut count: u64 = 0;
    while let Some([_version, length @ ..]) = messages.first_chunk::<5>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        messages = messages.get(length.max(HEADER_LEN)..).unwrap_or_default();
        count = count.saturating_add(1);
    }
    count
}

/// Appends the common header (RFC 7854 section 4.1) and what the message has.
fn message(kind: u8, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0, kind]);
    content(out);
    let length = u32::try_from(out.len().saturating_sub(start)).unwrap_or(u32::MAX);
    let field = out.get_mut(start.saturating_add(1)..).and_then(|rest| rest.first_chunk_mut::<4>());
    if let Some(field) = field {
        *field = length.to_be_bytes();
    }
}

/// Appends a type, a length and a value; what does not fit the length is cut off.
fn information(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value.get(..usize::from(length)).unwrap_or_default());
}
