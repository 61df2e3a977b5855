//! Path attributes from their bytes, with the error handling of RFC 7606.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Aggregator, AsPath, AsWidth, AttributeFault, Attributes, Community, FaultAction, NextHop,
    OpaqueAttribute, Origin, code, flag,
};
use crate::asn::Asn;
use crate::family::Family;
use crate::wire::nlri::Nlri;
use crate::wire::notification::Notification;
use crate::wire::reader::Reader;
use crate::wire::update::{PeerKind, Reach, UpdateContext};

/// Everything found in the attributes field of one UPDATE.
#[derive(Debug, Default)]
pub(in crate::wire) struct Decoded<'a> {
    pub(in crate::wire) attributes: Attributes,
    pub(in crate::wire) has_origin: bool,
    pub(in crate::wire) has_as_path: bool,
    pub(in crate::wire) next_hop: Option<Ipv4Addr>,
    pub(in crate::wire) mp_reach: Option<Reach<'a>>,
    pub(in crate::wire) mp_unreach: Option<Nlri<'a>>,
    pub(in crate::wire) faults: Vec<AttributeFault>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

struct Raw<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// The attribute from its flags on, for the data of a NOTIFICATION.
    whole: &'a [u8],
}

/// Reads the attributes field.
pub(in crate::wire) fn decode(bytes: &[u8], context: UpdateContext) -> Result<Decoded<'_>, Notification> {
    let mut decoded = Decoded::default();
    let mut seen = [false; 256];
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        let Some(raw) = next_attribute(&mut reader) else {
            // RFC 7606 section 4: an attribute that overruns the field; where the prefixes are is still known.
            decoded.fault(0, "runs over the end of the attributes", FaultAction::TreatAsWithdraw);
            break;
        };
        if let Some(slot) = seen.get_mut(usize::from(raw.code)) {
            let duplicate = std::mem::replace(slot, true);
            if duplicate && matches!(raw.code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI) {
                return Err(Notification::malformed_attribute_list());
            }
            if duplicate {
                decoded.fault(raw.code, "is there twice", FaultAction::Discard);
                continue;
            }
        }
        decoded.attribute(&raw, context)?;
    }
    decoded.attributes.opaque.sort();
    decoded.merge_four_octet_as(context.as_width);
    Ok(decoded)
}

fn next_attribute<'a>(reader: &mut Reader<'a>) -> Option<Raw<'a>> {
    let start = reader.rest();
    let flags = reader.u8()?;
    let code = reader.u8()?;
    let value =
        if flags & flag::EXTENDED_LENGTH == 0 { reader.short_block()? } else { reader.long_block()? };
    let whole = start.get(..start.len().checked_sub(reader.rest().len())?)?;
    Some(Raw { flags, code, value, whole })
}

/// The Optional and Transitive bits that an attribute of this type must have; `None` for types we do not know.
fn specified_flags(code: u8) -> Option<u8> {
    Some(match code {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
            flag::TRANSITIVE
        }
        code::MULTI_EXIT_DISC
        | code::ORIGINATOR_ID
        | code::CLUSTER_LIST
        | code::MP_REACH_NLRI
        | code::MP_UNREACH_NLRI => flag::OPTIONAL,
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::LARGE_COMMUNITIES => flag::OPTIONAL | flag::TRANSITIVE,
        _ => return None,
    })
}

impl<'a> Decoded<'a> {
    fn fault(&mut self, code: u8, reason: &'static str, action: FaultAction) {
        self.faults.push(AttributeFault { code, reason, action });
    }

    fn withdraw(&mut self, code: u8, reason: &'static str) {
        self.fault(code, reason, FaultAction::TreatAsWithdraw);
    }

    fn discard(&mut self, code: u8, reason: &'static str) {
        self.fault(code, reason, FaultAction::Discard);
    }

    fn attribute(&mut self, raw: &Raw<'a>, context: UpdateContext) -> Result<(), Notification> {
        match specified_flags(raw.code) {
            Some(specified) if raw.flags & (flag::OPTIONAL | flag::TRANSITIVE) != specified => {
                self.withdraw(raw.code, "has wrong flags");
            }
            Some(_) => {}
            None if raw.flags & flag::OPTIONAL == 0 => {
                return Err(Notification::unrecognized_well_known(raw.whole));
            }
            None => {
                if raw.flags & flag::TRANSITIVE != 0 {
                    self.keep_opaque(raw, true);
                }
                return Ok(());
            }
        }
        match raw.code {
            code::ORIGIN => self.origin(raw.value),
            code::AS_PATH => match AsPath::decode(raw.value, context.as_width) {
                Some(path) => {
                    self.has_as_path = true;
                    self.attributes.as_path = path;
                }
                None => self.withdraw(raw.code, "is malformed"),
            },
            code::NEXT_HOP => match Reader::new(raw.value).u32() {
                Some(address) if raw.value.len() == 4 => self.next_hop = Some(Ipv4Addr::from_bits(address)),
                _ => self.withdraw(raw.code, "is not 4 octets long"),
            },
            code::MULTI_EXIT_DISC => match exactly_u32(raw.value) {
                Some(med) => self.attributes.med = Some(med),
                None => self.withdraw(raw.code, "is not 4 octets long"),
            },
            code::LOCAL_PREF => match (context.peer, exactly_u32(raw.value)) {
                (PeerKind::External, _) => self.discard(raw.code, "came from an external peer"),
                (PeerKind::Internal, Some(value)) => self.attributes.local_pref = Some(value),
                (PeerKind::Internal, None) => self.withdraw(raw.code, "is not 4 octets long"),
            },
            code::ATOMIC_AGGREGATE if raw.value.is_empty() => self.attributes.atomic_aggregate = true,
            code::ATOMIC_AGGREGATE => self.discard(raw.code, "is not empty"),
            code::AGGREGATOR => match decode_aggregator(raw.value, context.as_width) {
                Some(aggregator) => self.attributes.aggregator = Some(aggregator),
                None => self.discard(raw.code, "is malformed"),
            },
            code::COMMUNITIES => self.communities(raw.value),
            code::ORIGINATOR_ID => match (context.peer, exactly_u32(raw.value)) {
                (PeerKind::External, _) => self.discard(raw.code, "came from an external peer"),
                (PeerKind::Internal, Some(value)) => {
                    self.attributes.originator_id = Some(Ipv4Addr::from_bits(value));
                }
                (PeerKind::Internal, None) => self.withdraw(raw.code, "is not 4 octets long"),
            },
            code::CLUSTER_LIST => match context.peer {
                PeerKind::External => self.discard(raw.code, "came from an external peer"),
                PeerKind::Internal if is_list_of(raw.value, 4) => {
                    let mut reader = Reader::new(raw.value);
                    while let Some(cluster) = reader.u32() {
                        self.attributes.cluster_list.push(Ipv4Addr::from_bits(cluster));
                    }
                }
                PeerKind::Internal => self.withdraw(raw.code, "is not a list of 4 octets each"),
            },
            code::MP_REACH_NLRI => self.mp_reach(raw, context)?,
            code::MP_UNREACH_NLRI => self.mp_unreach(raw, context)?,
            code::EXTENDED_COMMUNITIES if is_list_of(raw.value, 8) => self.keep_opaque(raw, false),
            code::EXTENDED_COMMUNITIES => self.withdraw(raw.code, "is not a list of 8 octets each"),
            code::LARGE_COMMUNITIES if is_list_of(raw.value, 12) => self.keep_opaque(raw, false),
            code::LARGE_COMMUNITIES => self.withdraw(raw.code, "is not a list of 12 octets each"),
            // RFC 6793 section 6: malformed or not expected here, both are discarded.
            code::AS4_PATH => match AsPath::decode(raw.value, AsWidth::Four) {
                Some(path) if context.as_width == AsWidth::Two => self.as4_path = Some(path),
                _ => self.discard(raw.code, "is malformed, or came from a four-octet AS speaker"),
            },
            code::AS4_AGGREGATOR => match decode_aggregator(raw.value, AsWidth::Four) {
                Some(aggregator) if context.as_width == AsWidth::Two => {
                    self.as4_aggregator = Some(aggregator);
                }
                _ => self.discard(raw.code, "is malformed, or came from a four-octet AS speaker"),
            },
            _ => {}
        }
        Ok(())
    }

    fn keep_opaque(&mut self, raw: &Raw<'_>, not_understood: bool) {
        self.attributes.opaque.push(OpaqueAttribute {
            code: raw.code,
            partial: not_understood || raw.flags & flag::PARTIAL != 0,
            value: raw.value.into(),
        });
    }

    fn origin(&mut self, value: &[u8]) {
        let origin = match value {
            [0] => Origin::Igp,
            [1] => Origin::Egp,
            [2] => Origin::Incomplete,
            _ => return self.withdraw(code::ORIGIN, "is neither IGP, EGP nor INCOMPLETE"),
        };
        self.has_origin = true;
        self.attributes.origin = origin;
    }

    fn communities(&mut self, value: &[u8]) {
        if !is_list_of(value, 4) {
            return self.withdraw(code::COMMUNITIES, "is not a list of 4 octets each");
        }
        let mut reader = Reader::new(value);
        while let Some(community) = reader.u32() {
            self.attributes.communities.push(Community(community));
        }
    }

    fn mp_reach(&mut self, raw: &Raw<'a>, context: UpdateContext) -> Result<(), Notification> {
        let malformed = || Notification::optional_attribute_error(raw.whole);
        let mut reader = Reader::new(raw.value);
        let afi = reader.u16().ok_or_else(malformed)?;
        let safi = reader.u8().ok_or_else(malformed)?;
        let next_hop = reader.short_block().ok_or_else(malformed)?;
        let _reserved = reader.u8().ok_or_else(malformed)?;
        // A family that was not negotiated is ignored (RFC 7606 section 7.11 leaves it to us).
        let Some(family) = Family::from_wire(afi, safi).filter(|family| context.families.contains(*family))
        else {
            return Ok(());
        };
        let next_hop =
            decode_mp_next_hop(family, context.extended_next_hop, next_hop).ok_or_else(malformed)?;
        let nlri = Nlri::parse(family, context.path_ids(family), reader.rest()).ok_or_else(malformed)?;
        self.mp_reach = Some(Reach { next_hop, nlri });
        Ok(())
    }

    fn mp_unreach(&mut self, raw: &Raw<'a>, context: UpdateContext) -> Result<(), Notification> {
        let malformed = || Notification::optional_attribute_error(raw.whole);
        let mut reader = Reader::new(raw.value);
        let afi = reader.u16().ok_or_else(malformed)?;
        let safi = reader.u8().ok_or_else(malformed)?;
        if let Some(family) = Family::from_wire(afi, safi).filter(|family| context.families.contains(*family))
        {
            self.mp_unreach =
                Some(Nlri::parse(family, context.path_ids(family), reader.rest()).ok_or_else(malformed)?);
        }
        Ok(())
    }

    /// RFC 6793 section 4.2.3.
    fn merge_four_octet_as(&mut self, width: AsWidth) {
        if width == AsWidth::Four {
            return;
        }
        if self.attributes.aggregator.is_some_and(|aggregator| aggregator.asn != Asn::TRANS) {
            return;
        }
        if self.attributes.aggregator.is_some() && self.as4_aggregator.is_some() {
            self.attributes.aggregator = self.as4_aggregator;
        }
        if let Some(as4_path) = &self.as4_path {
            self.attributes.as_path = self.attributes.as_path.merged(as4_path);
        }
    }
}

fn exactly_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn is_list_of(value: &[u8], octets: usize) -> bool {
    !value.is_empty() && value.len().is_multiple_of(octets)
}

fn decode_aggregator(value: &[u8], width: AsWidth) -> Option<Aggregator> {
    let mut reader = Reader::new(value);
    let number = match width {
        AsWidth::Two => reader.u16()?.into(),
        AsWidth::Four => reader.u32()?,
    };
    let address = Ipv4Addr::from_bits(reader.u32()?);
    // RFC 7607: AS 0 makes the attribute malformed.
    reader.is_empty().then_some(Aggregator { asn: Asn::new(number)?, address })
}

/// The length decides the form; a length that the family does not have is `None` (RFC 7606 section 7.11).
fn decode_mp_next_hop(family: Family, extended: bool, bytes: &[u8]) -> Option<NextHop> {
    let mut reader = Reader::new(bytes);
    match (family, bytes.len()) {
        (Family::Ipv4Unicast, 4) => reader.array().map(|octets: [u8; 4]| NextHop::V4(octets.into())),
        (Family::Ipv4Unicast, 16 | 32) if !extended => None,
        (_, 16 | 32) => {
            let global = Ipv6Addr::from(reader.array::<16>()?);
            let link_local = reader.array::<16>().map(Ipv6Addr::from).filter(Ipv6Addr::is_unicast_link_local);
            // Without a global address some send `::` before the link-local one, others the latter twice.
            let global = link_local.filter(|_| global.is_unspecified()).unwrap_or(global);
            Some(NextHop::V6 { global, link_local })
        }
        _ => None,
    }
}
