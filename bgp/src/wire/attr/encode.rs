//! Path attributes to bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::as_path::two_octets;
use super::{AsWidth, Attributes, NextHop, Origin, code, flag};
use crate::asn::Asn;
use crate::family::Family;

/// Whether `NEXT_HOP` is among the attributes, which it is not when `MP_REACH_NLRI` brings the next hop.
#[derive(Clone, Copy, Debug)]
pub(in crate::wire) enum ClassicNextHop {
    Present(Ipv4Addr),
    Absent,
}

/// Appends all attributes but `MP_REACH_NLRI`, by ascending type code.
pub(in crate::wire) fn encode(
    attributes: &Attributes,
    next_hop: ClassicNextHop,
    width: AsWidth,
    out: &mut Vec<u8>,
) {
    let origin = match attributes.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    attribute(flag::TRANSITIVE, code::ORIGIN, &[origin], out);
    let mut value = Vec::new();
    attributes.as_path.encode(width, &mut value);
    attribute(flag::TRANSITIVE, code::AS_PATH, &value, out);
    if let ClassicNextHop::Present(address) = next_hop {
        attribute(flag::TRANSITIVE, code::NEXT_HOP, &address.octets(), out);
    }
    if let Some(med) = attributes.med {
        attribute(flag::OPTIONAL, code::MULTI_EXIT_DISC, &med.to_be_bytes(), out);
    }
    if let Some(local_pref) = attributes.local_pref {
        attribute(flag::TRANSITIVE, code::LOCAL_PREF, &local_pref.to_be_bytes(), out);
    }
    if attributes.atomic_aggregate {
        attribute(flag::TRANSITIVE, code::ATOMIC_AGGREGATE, &[], out);
    }
    if let Some(aggregator) = attributes.aggregator {
        value.clear();
        match width {
            AsWidth::Two => value.extend_from_slice(&two_octets(aggregator.asn).to_be_bytes()),
            AsWidth::Four => value.extend_from_slice(&aggregator.asn.number().to_be_bytes()),
        }
        value.extend_from_slice(&aggregator.address.octets());
        attribute(flag::OPTIONAL | flag::TRANSITIVE, code::AGGREGATOR, &value, out);
    }
    if !attributes.communities.is_empty() {
        value.clear();
        for community in &attributes.communities {
            value.extend_from_slice(&community.0.to_be_bytes());
        }
        attribute(flag::OPTIONAL | flag::TRANSITIVE, code::COMMUNITIES, &value, out);
    }
    if let Some(originator) = attributes.originator_id {
        attribute(flag::OPTIONAL, code::ORIGINATOR_ID, &originator.octets(), out);
    }
    if !attributes.cluster_list.is_empty() {
        value.clear();
        for cluster in &attributes.cluster_list {
            value.extend_from_slice(&cluster.octets());
        }
        attribute(flag::OPTIONAL, code::CLUSTER_LIST, &value, out);
    }
    if width == AsWidth::Two {
        encode_four_octet_as(attributes, out);
    }
    for opaque in &attributes.opaque {
        let partial = if opaque.partial { flag::PARTIAL } else { 0 };
        attribute(flag::OPTIONAL | flag::TRANSITIVE | partial, opaque.code, &opaque.value, out);
    }
}

/// All attributes of a path in a dump of tables. Of `MP_REACH_NLRI` there is the next hop alone
/// (RFC 6396 section 4.3.4); that of a route of our own is the unspecified address.
pub(crate) fn encode_for_table_dump(family: Family, attributes: &Attributes) -> Vec<u8> {
    let (next_hop, octets) = match (family, attributes.next_hop) {
        (Family::Ipv4Unicast, NextHop::Local) => (ClassicNextHop::Present(Ipv4Addr::UNSPECIFIED), Vec::new()),
        (Family::Ipv4Unicast, NextHop::V4(address)) => (ClassicNextHop::Present(address), Vec::new()),
        (Family::Ipv6Unicast, NextHop::Local) => {
            (ClassicNextHop::Absent, Ipv6Addr::UNSPECIFIED.octets().to_vec())
        }
        (Family::Ipv6Unicast, NextHop::V4(address)) => (ClassicNextHop::Absent, address.octets().to_vec()),
        (_, NextHop::V6 { global, link_local }) => {
            let mut octets = global.octets().to_vec();
            octets.extend(link_local.iter().flat_map(Ipv6Addr::octets));
            (ClassicNextHop::Absent, octets)
        }
    };
    let mut out = Vec::new();
    encode(attributes, next_hop, AsWidth::Four, &mut out);
    if let Ok(length @ 1..) = u8::try_from(octets.len()) {
        let value = [&[length], octets.as_slice()].concat();
        attribute(flag::OPTIONAL, code::MP_REACH_NLRI, &value, &mut out);
    }
    out
}

/// What a two-octet speaker carries on without understanding it (RFC 6793 section 4.2.2).
fn encode_four_octet_as(attributes: &Attributes, out: &mut Vec<u8>) {
    if attributes.as_path.needs_four_octets() {
        let mut value = Vec::new();
        attributes.as_path.encode(AsWidth::Four, &mut value);
        attribute(flag::OPTIONAL | flag::TRANSITIVE, code::AS4_PATH, &value, out);
    }
    if let Some(aggregator) = attributes.aggregator
        && u16::try_from(aggregator.asn.number()).is_err()
        && aggregator.asn != Asn::TRANS
    {
        let mut value = aggregator.asn.number().to_be_bytes().to_vec();
        value.extend_from_slice(&aggregator.address.octets());
        attribute(flag::OPTIONAL | flag::TRANSITIVE, code::AS4_AGGREGATOR, &value, out);
    }
}

/// Appends the start of an `MP_REACH_NLRI` value up to where its prefixes begin.
pub(in crate::wire) fn encode_mp_header(family: Family, next_hop: NextHop, out: &mut Vec<u8>) {
    out.extend_from_slice(&family.afi().to_be_bytes());
    out.push(family.safi());
    match next_hop {
        NextHop::Local => out.push(0),
        NextHop::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        NextHop::V6 { global, link_local: None } => {
            out.push(16);
            out.extend_from_slice(&global.octets());
        }
        NextHop::V6 { global, link_local: Some(link_local) } => {
            out.push(32);
            out.extend_from_slice(&global.octets());
            out.extend_from_slice(&link_local.octets());
        }
    }
    out.push(0);
}

fn attribute(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) {
    if let Ok(length) = u8::try_from(value.len()) {
        out.extend_from_slice(&[flags, code, length]);
    } else {
        out.extend_from_slice(&[flags | flag::EXTENDED_LENGTH, code]);
        // Received values and AS paths are bounded by the message; the caller refuses what exceeds it.
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    }
    out.extend_from_slice(value);
}
