//! The UPDATE message, read in place.

use super::attr::{self, AsWidth, AttributeFault, Attributes, FaultAction, NextHop, code};
use super::nlri::{Nlri, OwnedNlri, PathIds};
use super::notification::Notification;
use super::reader::Reader;
use crate::family::{Family, FamilySet};

/// Whether a peer is in our AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKind {
    /// The same AS: iBGP.
    Internal,
    /// Another AS: eBGP.
    External,
}

/// What was negotiated, without which an UPDATE cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct UpdateContext {
    /// Octets of an AS number.
    pub as_width: AsWidth,
    /// Whether the peer is in our AS.
    pub peer: PeerKind,
    /// Families both sides announced.
    pub families: FamilySet,
    /// Families whose prefixes come with a path identifier (RFC 7911).
    pub add_path: FamilySet,
    /// Whether IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
}

impl UpdateContext {
    /// How prefixes of a family are written.
    pub(super) fn path_ids(self, family: Family) -> PathIds {
        if self.add_path.contains(family) { PathIds::Present } else { PathIds::Absent }
    }
}

/// Prefixes reachable through one next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach<'a> {
    /// Where packets go.
    pub next_hop: NextHop,
    /// The prefixes.
    pub nlri: Nlri<'a>,
}

/// A decoded UPDATE. Prefixes stay in the message; only the attributes are copied.
#[derive(Debug)]
pub struct Update<'a> {
    /// Prefixes no longer reachable, those of routes that RFC 7606 treats as withdrawn included.
    pub withdrawn: Vec<Nlri<'a>>,
    /// Prefixes now reachable.
    pub announced: Vec<Reach<'a>>,
    /// The attributes of all the announced prefixes, without a next hop.
    pub attributes: Attributes,
    /// What was wrong and was survived.
    pub faults: Vec<AttributeFault>,
    /// The family whose initial routes are complete with this message (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
}

impl<'a> Update<'a> {
    /// Decodes the body of an UPDATE.
    ///
    /// # Errors
    /// A fault that costs the session, as the NOTIFICATION to send.
    pub fn decode(body: &'a [u8], context: UpdateContext) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        let withdrawn = reader.long_block().ok_or_else(Notification::malformed_attribute_list)?;
        let attributes = reader.long_block().ok_or_else(Notification::malformed_attribute_list)?;
        let reachable = reader.rest();
        let end_of_rib = end_of_rib(withdrawn, attributes, reachable, context);

        let path_ids = context.path_ids(Family::Ipv4Unicast);
        let classic = |bytes| {
            Nlri::parse(Family::Ipv4Unicast, path_ids, bytes).ok_or_else(Notification::invalid_network_field)
        };
        let (withdrawn, reachable) = (classic(withdrawn)?, classic(reachable)?);
        let mut decoded = attr::decode(attributes, context)?;

        let mut announced = Vec::new();
        let mut unreachable: Vec<Nlri<'a>> = decoded.mp_unreach.into_iter().collect();
        if context.families.contains(Family::Ipv4Unicast) {
            unreachable.insert(0, withdrawn);
            if !reachable.is_empty() {
                // A missing NEXT_HOP is found as an invalid one below.
                let next_hop = decoded.next_hop.map_or(NextHop::Local, NextHop::V4);
                announced.push(Reach { next_hop, nlri: reachable });
            }
        }
        announced.extend(decoded.mp_reach.filter(|reach| !reach.nlri.is_empty()));
        unreachable.retain(|nlri| !nlri.is_empty());

        if !announced.is_empty() {
            check_mandatory(&announced, &mut decoded, context);
        }
        if decoded.faults.iter().any(|fault| fault.action == FaultAction::TreatAsWithdraw) {
            unreachable.extend(announced.drain(..).map(|reach| reach.nlri));
        }
        Ok(Self {
            withdrawn: unreachable,
            announced,
            attributes: decoded.attributes,
            faults: decoded.faults,
            end_of_rib,
        })
    }
}

/// An UPDATE copied out of its message, on its way to the tables.
#[derive(Clone, Debug)]
pub struct OwnedUpdate {
    /// Prefixes no longer reachable.
    pub withdrawn: Vec<OwnedNlri>,
    /// Prefixes now reachable, by next hop.
    pub announced: Vec<(NextHop, OwnedNlri)>,
    /// The attributes of all the announced prefixes, without a next hop.
    pub attributes: Attributes,
    /// The family whose initial routes are complete with this message.
    pub end_of_rib: Option<Family>,
}

impl From<Update<'_>> for OwnedUpdate {
    fn from(update: Update<'_>) -> Self {
        let announced = update.announced.into_iter();
        Self {
            withdrawn: update.withdrawn.into_iter().map(OwnedNlri::from).collect(),
            announced: announced.map(|reach| (reach.next_hop, reach.nlri.into())).collect(),
            attributes: update.attributes,
            end_of_rib: update.end_of_rib,
        }
    }
}

/// RFC 7606 section 3 d, and section 7.3 for what a next hop may be.
fn check_mandatory(announced: &[Reach<'_>], decoded: &mut attr::Decoded<'_>, context: UpdateContext) {
    let mut missing = |code, reason| {
        decoded.faults.push(AttributeFault { code, reason, action: FaultAction::TreatAsWithdraw });
    };
    if !decoded.has_origin {
        missing(code::ORIGIN, "is missing");
    }
    if !decoded.has_as_path {
        missing(code::AS_PATH, "is missing");
    }
    if announced.iter().any(|reach| !is_usable(reach.next_hop)) {
        missing(code::NEXT_HOP, "is missing, or no address of a router");
    }
    if context.peer == PeerKind::Internal && decoded.attributes.local_pref.is_none() {
        missing(code::LOCAL_PREF, "is missing");
    }
}

fn is_usable(next_hop: NextHop) -> bool {
    match next_hop {
        NextHop::Local => false,
        NextHop::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        NextHop::V6 { global, .. } => {
            !global.is_unspecified()
                && !global.is_loopback()
                && !global.is_multicast()
                && global.to_ipv4_mapped().is_none()
        }
    }
}

/// RFC 4724 section 2: an empty UPDATE, or one with nothing but an empty `MP_UNREACH_NLRI`.
fn end_of_rib(
    withdrawn: &[u8],
    attributes: &[u8],
    reachable: &[u8],
    context: UpdateContext,
) -> Option<Family> {
    if !withdrawn.is_empty() || !reachable.is_empty() {
        return None;
    }
    let family = match *attributes {
        [] => Some(Family::Ipv4Unicast),
        [_, code::MP_UNREACH_NLRI, 3, afi_high, afi_low, safi]
        | [_, code::MP_UNREACH_NLRI, 0, 3, afi_high, afi_low, safi] => {
            Family::from_wire(u16::from_be_bytes([afi_high, afi_low]), safi)
        }
        _ => None,
    };
    family.filter(|family| context.families.contains(*family))
}
