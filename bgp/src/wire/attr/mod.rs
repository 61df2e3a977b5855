//! Path attributes: RFC 4271 section 5 and its successors.

mod as_path;
mod decode;
mod encode;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

pub use as_path::{AsPath, Segment, SegmentKind};
pub(super) use decode::{Decoded, decode};
pub(super) use encode::{ClassicNextHop, encode, encode_mp_header};

use crate::asn::Asn;

/// Attribute type codes.
pub(crate) mod code {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MULTI_EXIT_DISC: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITIES: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH_NLRI: u8 = 14;
    pub(crate) const MP_UNREACH_NLRI: u8 = 15;
    pub(crate) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const LARGE_COMMUNITIES: u8 = 32;
}

/// Attribute flag bits.
pub(super) mod flag {
    pub(crate) const OPTIONAL: u8 = 0x80;
    pub(crate) const TRANSITIVE: u8 = 0x40;
    pub(crate) const PARTIAL: u8 = 0x20;
    pub(crate) const EXTENDED_LENGTH: u8 = 0x10;
}

/// Octets of an AS number in `AS_PATH` and AGGREGATOR on one session (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AsWidth {
    /// One of the speakers knows two octets only.
    Two,
    /// Both announced the four-octet capability.
    Four,
}

/// Where the route's information came from; a smaller one is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Interior to the originating AS.
    #[default]
    Igp,
    /// Learned by EGP.
    Egp,
    /// Anything else.
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "igp",
            Self::Egp => "egp",
            Self::Incomplete => "incomplete",
        })
    }
}

/// Where to send packets for a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// This speaker itself: the route was originated here and the address depends on the session.
    #[default]
    Local,
    /// An IPv4 router.
    V4(Ipv4Addr),
    /// An IPv6 router (RFC 2545).
    V6 {
        /// Its global address.
        global: Ipv6Addr,
        /// Its link-local address, when it shares a subnet with us.
        link_local: Option<Ipv6Addr>,
    },
}

/// Who aggregated the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// The aggregating speaker's AS.
    pub asn: Asn,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A community (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// Not to be told to external peers.
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    /// Not to be told to any peer.
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    /// Not to be told outside of a confederation member; without confederations the same as `NO_EXPORT`.
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);
    /// The path is about to go away (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xffff_0000);
    /// On a path of a peer that has been away for long (RFC 9494).
    pub const LLGR_STALE: Community = Community(0xffff_0006);
    /// Not to be kept when its peer is away for long (RFC 9494).
    pub const NO_LLGR: Community = Community(0xffff_0007);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A transitive attribute that is carried on without being understood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpaqueAttribute {
    /// Type code.
    pub code: u8,
    /// Whether a speaker on the way did not understand it, ourselves included.
    pub partial: bool,
    /// The value as received.
    pub value: Box<[u8]>,
}

/// All attributes of a path, in one form whatever the session they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// `AS_PATH`, with four-octet numbers.
    pub as_path: AsPath,
    /// `NEXT_HOP`, or the next hop in `MP_REACH_NLRI`.
    pub next_hop: NextHop,
    /// `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// `LOCAL_PREF`.
    pub local_pref: Option<u32>,
    /// `ATOMIC_AGGREGATE`.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES, in the order received.
    pub communities: Vec<Community>,
    /// `ORIGINATOR_ID` (RFC 4456), the identifier of the router in our AS that brought the route into it.
    pub originator_id: Option<Ipv4Addr>,
    /// `CLUSTER_LIST` (RFC 4456), the clusters passed, the last one first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Other transitive attributes, by type code.
    pub opaque: Vec<OpaqueAttribute>,
}

impl Attributes {
    /// The bandwidth in octets a second that the path is worth (draft-ietf-idr-link-bandwidth): that of the first
    /// community which says one, if it is more than 0.
    pub fn link_bandwidth(&self) -> Option<f32> {
        /// Without the bit that says whether it leaves the AS: some say it to other ASes too.
        const TWO_OCTET_AS: u8 = 0x00;
        const NON_TRANSITIVE: u8 = 0x40;
        const LINK_BANDWIDTH: u8 = 0x04;
        let communities = self.opaque.iter().filter(|attribute| attribute.code == code::EXTENDED_COMMUNITIES);
        communities.flat_map(|attribute| attribute.value.as_chunks::<8>().0).find_map(|community| {
            let [kind, LINK_BANDWIDTH, _, _, bandwidth @ ..] = *community else { return None };
            let bandwidth = f32::from_be_bytes(bandwidth);
            let said = kind & !NON_TRANSITIVE == TWO_OCTET_AS && bandwidth.is_finite() && bandwidth > 0.0;
            said.then_some(bandwidth)
        })
    }

    /// Drops the extended communities that must not leave the AS (RFC 4360 section 6).
    pub fn drop_non_transitive(&mut self) {
        const NON_TRANSITIVE: u8 = 0x40;
        let is_kept = |community: &&[u8]| community.first().is_some_and(|kind| kind & NON_TRANSITIVE == 0);
        self.opaque.retain_mut(|attribute| {
            if attribute.code == code::EXTENDED_COMMUNITIES {
                attribute.value = attribute.value.chunks(8).filter(is_kept).flatten().copied().collect();
            }
            attribute.code != code::EXTENDED_COMMUNITIES || !attribute.value.is_empty()
        });
    }
}

/// What RFC 7606 asks to be done about a faulty attribute that does not cost the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAction {
    /// The routes are kept without the attribute.
    Discard,
    /// All routes of the message count as withdrawn.
    TreatAsWithdraw,
}

/// A faulty attribute that does not cost the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attribute {code}: {reason}")]
pub struct AttributeFault {
    /// Type code.
    pub code: u8,
    /// What was found.
    pub reason: &'static str,
    /// What was done about it.
    pub action: FaultAction,
}
