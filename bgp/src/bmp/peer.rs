//! The header that says whose routes a message is about.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::identifier::BgpIdentifier;

/// Which of the tables a route is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// Adj-RIB-In, as the peer said it.
    PrePolicy,
    /// Adj-RIB-In, as the import policy left it.
    PostPolicy,
    /// The best path of each prefix (RFC 9069).
    LocRib,
}

/// What a message is about: a neighbour's routes, or the speaker's choice among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// The neighbour with this address.
    Neighbor(IpAddr),
    /// The Loc-RIB (RFC 9069).
    LocRib,
}

/// Whose routes a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitoredPeer {
    /// The neighbour, or the speaker itself.
    pub instance: Instance,
    /// The AS of the neighbour, or of the speaker.
    pub asn: Asn,
    /// The identifier of the neighbour, or of the speaker.
    pub identifier: BgpIdentifier,
}

/// Time since 1970, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    seconds: u32,
    microseconds: u32,
}

impl Timestamp {
    /// Nobody knows when.
    pub const UNKNOWN: Timestamp = Timestamp { seconds: 0, microseconds: 0 };

    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seconds.to_be_bytes());
        out.extend_from_slice(&self.microseconds.to_be_bytes());
    }
}

impl From<Duration> for Timestamp {
    /// So long after the begin of 1970.
    fn from(since: Duration) -> Self {
        Self {
            seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
            microseconds: since.subsec_micros(),
        }
    }
}

/// Peer types (RFC 7854 section 4.2, RFC 9069 section 4.1).
const GLOBAL_INSTANCE: u8 = 0;
const LOC_RIB_INSTANCE: u8 = 3;

/// The neighbour's address is one of IPv6.
const IPV6: u8 = 0x80;
/// The routes are those that the import policy left.
const POST_POLICY: u8 = 0x40;

impl MonitoredPeer {
    /// Appends the per-peer header (RFC 7854 section 4.2). The A flag is never set: AS numbers of AS paths have four
    /// octets, whatever the session has.
    pub(super) fn encode(&self, view: View, time: Timestamp, out: &mut Vec<u8>) {
        let (kind, address, family_flag) = match self.instance {
            Instance::Neighbor(address @ IpAddr::V4(_)) => (GLOBAL_INSTANCE, Some(address), 0),
            Instance::Neighbor(address @ IpAddr::V6(_)) => (GLOBAL_INSTANCE, Some(address), IPV6),
            // All of it is told, so that the F flag is not set (RFC 9069 section 4.2).
            Instance::LocRib => (LOC_RIB_INSTANCE, None, 0),
        };
        let policy_flag = if view == View::PostPolicy { POST_POLICY } else { 0 };
        out.extend_from_slice(&[kind, family_flag | policy_flag]);
        // The distinguisher: there is one instance.
        out.extend_from_slice(&[0; 8]);
        encode_address(address, out);
        out.extend_from_slice(&self.asn.number().to_be_bytes());
        out.extend_from_slice(&self.identifier.octets());
        time.encode(out);
    }
}

/// Appends an address in 16 octets, one of IPv4 in the last four of them.
fn encode_address(address: Option<IpAddr>, out: &mut Vec<u8>) {
    match address {
        None => out.extend_from_slice(&[0; 16]),
        Some(IpAddr::V4(address)) => {
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => out.extend_from_slice(&address.octets()),
    }
}

/// Appends both ends of a session, as Peer Up has them: our address, our port, the neighbour's port.
pub(super) fn encode_ends(ends: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    let (local, remote) = (ends.map(|(local, _)| local), ends.map(|(_, remote)| remote));
    encode_address(local.map(|local| local.ip()), out);
    for end in [local, remote] {
        out.extend_from_slice(&end.map_or(0, |end| end.port()).to_be_bytes());
    }
}
