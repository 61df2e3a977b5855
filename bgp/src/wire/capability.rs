//! The capabilities in an OPEN message (RFC 5492).

use super::notification::Notification;
use super::reader::Reader;
use crate::family::{Family, FamilySet};

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGES: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;

const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const RESTART_TIME: u16 = 0x0fff;
const FORWARDING: u8 = 0x80;

/// What a speaker can do besides RFC 4271, as far as we know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a capability that is there or not")]
pub struct Capabilities {
    /// Families of the multiprotocol capabilities (RFC 4760); a decoder puts IPv4 unicast alone where a speaker sent
    /// none of them at all.
    pub families: FamilySet,
    /// It reads and writes four-octet AS numbers, of which this is its own (RFC 6793).
    pub four_octet_as: Option<u32>,
    /// It answers ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
    /// It marks the begin and the end of the answer (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// It reads messages of up to 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// It reads IPv4 unicast routes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Several paths to one prefix (RFC 7911).
    pub add_path: AddPath,
    /// What happens to its routes while it restarts (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// How much longer they may be kept (RFC 9494); means nothing without `graceful_restart`.
    pub long_lived: LongLived,
}

/// In which families a speaker reads and writes path identifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// It can receive several paths.
    pub receive: FamilySet,
    /// It can send several paths.
    pub send: FamilySet,
}

impl AddPath {
    /// In which families we receive and send, when `self` is what we offer and `peer` what the other end does.
    #[must_use]
    pub fn negotiate(self, peer: Self) -> Self {
        Self { receive: self.receive.intersection(peer.send), send: self.send.intersection(peer.receive) }
    }
}

/// The graceful restart capability (RFC 4724 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R bit: the speaker has just restarted; nobody should await its End-of-RIB before sending it routes.
    pub restarting: bool,
    /// N bit: a NOTIFICATION other than a hard reset ends a session gracefully too (RFC 8538).
    pub notification: bool,
    /// Seconds within which the speaker means to be back, at most 4095.
    pub restart_time: u16,
    /// Families whose routes may be kept.
    pub families: FamilySet,
    /// F bits: families for which it kept forwarding through its last restart.
    pub forwarding: FamilySet,
}

/// The long-lived graceful restart capability (RFC 9494 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongLived {
    /// Families whose routes may be kept.
    pub families: FamilySet,
    /// F bits: families for which forwarding was kept.
    pub forwarding: FamilySet,
    seconds: [u32; Family::ALL.len()],
}

impl LongLived {
    /// Longest stale time that the wire has room for.
    pub const LONGEST: u32 = 0x00ff_ffff;

    /// Adds a family, whose stale routes may be kept for so many seconds.
    pub fn insert(&mut self, family: Family, seconds: u32) {
        self.families.insert(family);
        for (slot, known) in self.seconds.iter_mut().zip(Family::ALL) {
            if known == family {
                *slot = seconds.min(Self::LONGEST);
            }
        }
    }

    /// Seconds for which the stale routes of a family may be kept; 0 if it is not in the capability.
    pub fn seconds(&self, family: Family) -> u32 {
        Family::ALL
            .into_iter()
            .zip(self.seconds)
            .find(|(known, _)| *known == family)
            .map_or(0, |(_, time)| time)
    }
}

impl Capabilities {
    /// Adds those in the value of one capabilities parameter. What is there twice counts as its last, except
    /// multiprotocol ones, which add up; unknown ones are ignored (RFC 5492 section 4). Gives whether there was a
    /// multiprotocol one, be it of a family that we do not know.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> Result<bool, Notification> {
        let mut names_families = false;
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let code = reader.u8().ok_or_else(Notification::malformed_open)?;
            let mut value = Reader::new(reader.short_block().ok_or_else(Notification::malformed_open)?);
            match code {
                MULTIPROTOCOL => {
                    let (Some(afi), Some(_reserved), Some(safi)) = (value.u16(), value.u8(), value.u8())
                    else {
                        return Err(Notification::malformed_open());
                    };
                    names_families = true;
                    self.families.extend(Family::from_wire(afi, safi));
                }
                ROUTE_REFRESH => self.route_refresh = true,
                EXTENDED_NEXT_HOP => self.extended_next_hop = decode_extended_next_hop(value),
                EXTENDED_MESSAGES => self.extended_messages = true,
                GRACEFUL_RESTART => self.graceful_restart = decode_graceful_restart(value),
                FOUR_OCTET_AS => {
                    self.four_octet_as = Some(value.u32().ok_or_else(Notification::malformed_open)?);
                }
                ADD_PATH => self.add_path = decode_add_path(value),
                ENHANCED_ROUTE_REFRESH => self.enhanced_route_refresh = true,
                LONG_LIVED_GRACEFUL_RESTART => self.long_lived = decode_long_lived(value),
                _ => {}
            }
        }
        Ok(names_families)
    }

    /// Appends all, in ascending order of their codes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&encode_multiprotocol(self.families));
        if self.route_refresh {
            out.extend_from_slice(&[ROUTE_REFRESH, 0]);
        }
        if self.extended_next_hop {
            // IPv4 unicast, with next hops of AFI 2.
            out.extend_from_slice(&[EXTENDED_NEXT_HOP, 6, 0, 1, 0, 1, 0, 2]);
        }
        if self.extended_messages {
            out.extend_from_slice(&[EXTENDED_MESSAGES, 0]);
        }
        if let Some(restart) = self.graceful_restart {
            append(GRACEFUL_RESTART, out, |out| restart.encode(out));
        }
        if let Some(asn) = self.four_octet_as {
            append(FOUR_OCTET_AS, out, |out| out.extend_from_slice(&asn.to_be_bytes()));
        }
        if self.add_path != AddPath::default() {
            append(ADD_PATH, out, |out| {
                for family in Family::ALL {
                    let receive = u8::from(self.add_path.receive.contains(family));
                    let send = u8::from(self.add_path.send.contains(family)) << 1;
                    if receive | send != 0 {
                        encode_family(family, out);
                        out.push(receive | send);
                    }
                }
            });
        }
        if self.enhanced_route_refresh {
            out.extend_from_slice(&[ENHANCED_ROUTE_REFRESH, 0]);
        }
        if !self.long_lived.families.is_empty() {
            append(LONG_LIVED_GRACEFUL_RESTART, out, |out| {
                for family in self.long_lived.families.iter() {
                    encode_family(family, out);
                    out.push(forwarding_bit(self.long_lived.forwarding, family));
                    out.extend(self.long_lived.seconds(family).to_be_bytes().iter().skip(1));
                }
            });
        }
    }
}

impl GracefulRestart {
    fn encode(self, out: &mut Vec<u8>) {
        let mut first = self.restart_time.min(RESTART_TIME);
        if self.restarting {
            first |= RESTARTING;
        }
        if self.notification {
            first |= NOTIFICATION;
        }
        out.extend_from_slice(&first.to_be_bytes());
        for family in self.families.iter() {
            encode_family(family, out);
            out.push(forwarding_bit(self.forwarding, family));
        }
    }
}

/// The multiprotocol capabilities for these families, as in an OPEN and in the data of NOTIFICATION 2/7.
pub fn encode_multiprotocol(families: FamilySet) -> Vec<u8> {
    let mut out = Vec::new();
    for family in families.iter() {
        out.extend_from_slice(&[MULTIPROTOCOL, 4]);
        out.extend_from_slice(&family.afi().to_be_bytes());
        out.extend_from_slice(&[0, family.safi()]);
    }
    out
}

fn append(code: u8, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    value(&mut bytes);
    // Two families of at most seven octets each.
    out.extend_from_slice(&[code, u8::try_from(bytes.len()).unwrap_or(u8::MAX)]);
    out.extend_from_slice(&bytes);
}

fn encode_family(family: Family, out: &mut Vec<u8>) {
    out.extend_from_slice(&family.afi().to_be_bytes());
    out.push(family.safi());
}

fn forwarding_bit(forwarding: FamilySet, family: Family) -> u8 {
    if forwarding.contains(family) { FORWARDING } else { 0 }
}

/// Whether IPv4 unicast with AFI 2 is among the triples (RFC 8950 section 4).
fn decode_extended_next_hop(mut value: Reader<'_>) -> bool {
    let mut found = false;
    while let (Some(afi), Some(safi), Some(next_hop)) = (value.u16(), value.u16(), value.u16()) {
        found |= (afi, safi, next_hop) == (1, 1, 2);
    }
    found
}

fn decode_graceful_restart(mut value: Reader<'_>) -> Option<GracefulRestart> {
    let first = value.u16()?;
    let mut restart = GracefulRestart {
        restarting: first & RESTARTING != 0,
        notification: first & NOTIFICATION != 0,
        restart_time: first & RESTART_TIME,
        ..GracefulRestart::default()
    };
    while let (Some(afi), Some(safi), Some(flags)) = (value.u16(), value.u8(), value.u8()) {
        let Some(family) = Family::from_wire(afi, safi) else { continue };
        restart.families.insert(family);
        if flags & FORWARDING != 0 {
            restart.forwarding.insert(family);
        }
    }
    Some(restart)
}

/// RFC 7911 section 4: a family with another value than 1 to 3 is as if it were not there.
fn decode_add_path(mut value: Reader<'_>) -> AddPath {
    let mut add_path = AddPath::default();
    while let (Some(afi), Some(safi), Some(direction)) = (value.u16(), value.u8(), value.u8()) {
        let Some(family) = Family::from_wire(afi, safi) else { continue };
        if direction == 1 || direction == 3 {
            add_path.receive.insert(family);
        }
        if direction == 2 || direction == 3 {
            add_path.send.insert(family);
        }
    }
    add_path
}

fn decode_long_lived(mut value: Reader<'_>) -> LongLived {
    let mut long_lived = LongLived::default();
    while let (Some(afi), Some(safi), Some(flags), Some([high, middle, low])) =
        (value.u16(), value.u8(), value.u8(), value.array::<3>())
    {
        let Some(family) = Family::from_wire(afi, safi) else { continue };
        long_lived.insert(family, u32::from_be_bytes([0, high, middle, low]));
        if flags & FORWARDING != 0 {
            long_lived.forwarding.insert(family);
        }
    }
    long_lived
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> FamilySet {
        FamilySet::from_iter(Family::ALL)
    }

    fn ipv4() -> FamilySet {
        FamilySet::from_iter([Family::Ipv4Unicast])
    }

    fn decoded(bytes: &[u8]) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.decode(bytes).unwrap();
        capabilities
    }

    fn all() -> Capabilities {
        let mut long_lived = LongLived::default();
        long_lived.insert(Family::Ipv4Unicast, 3600);
        long_lived.forwarding = ipv4();
        long_lived.insert(Family::Ipv6Unicast, LongLived::LONGEST);
        Capabilities {
            families: both(),
            four_octet_as: Some(4_200_000_001),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_messages: true,
            extended_next_hop: true,
            add_path: AddPath { receive: both(), send: ipv4() },
            graceful_restart: Some(GracefulRestart {
                restarting: true,
                notification: true,
                restart_time: 4095,
                families: both(),
                forwarding: ipv4(),
            }),
            long_lived,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        for capabilities in [Capabilities::default(), all()] {
            let mut bytes = Vec::new();
            capabilities.encode(&mut bytes);
            assert_eq!(decoded(&bytes), capabilities);
            assert!(bytes.len() <= 253, "fits one parameter");
        }
    }

    #[test]
    fn each_capability_has_the_octets_of_its_rfc() {
        let cases: [(&[u8], Capabilities); 7] = [
            (
                &[1, 4, 0, 2, 0, 1],
                Capabilities {
                    families: FamilySet::from_iter([Family::Ipv6Unicast]),
                    ..Capabilities::default()
                },
            ),
            (&[5, 6, 0, 1, 0, 1, 0, 2], Capabilities { extended_next_hop: true, ..Capabilities::default() }),
            (&[6, 0], Capabilities { extended_messages: true, ..Capabilities::default() }),
            (
                &[64, 6, 0xc0, 30, 0, 1, 1, 0x80],
                Capabilities {
                    graceful_restart: Some(GracefulRestart {
                        restarting: true,
                        notification: true,
                        restart_time: 30,
                        families: ipv4(),
                        forwarding: ipv4(),
                    }),
                    ..Capabilities::default()
                },
            ),
            (&[65, 4, 0, 1, 0, 0], Capabilities { four_octet_as: Some(65536), ..Capabilities::default() }),
            (
                &[69, 4, 0, 1, 1, 2],
                Capabilities {
                    add_path: AddPath { receive: FamilySet::EMPTY, send: ipv4() },
                    ..Capabilities::default()
                },
            ),
            (&[70, 0], Capabilities { enhanced_route_refresh: true, ..Capabilities::default() }),
        ];
        for (bytes, capabilities) in cases {
            assert_eq!(decoded(bytes), capabilities, "{bytes:?}");
            let mut out = Vec::new();
            capabilities.encode(&mut out);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn unknown_capabilities_families_and_values_are_ignored() {
        let cases: [&[u8]; 5] = [
            &[200, 3, 1, 2, 3],
            // VPNv4 routes with an IPv6 next hop.
            &[5, 6, 0, 1, 0, 128, 0, 2],
            // ADD-PATH with direction 4.
            &[69, 4, 0, 1, 1, 4],
            &[1, 4, 0, 25, 0, 70],
            // Long-lived restart of flow specifications.
            &[71, 7, 0, 1, 133, 0, 0, 0, 60],
        ];
        for bytes in cases {
            assert_eq!(decoded(bytes), Capabilities::default(), "{bytes:?}");
        }
    }

    #[test]
    fn a_capability_may_be_there_twice() {
        let twice = decoded(&[1, 4, 0, 1, 0, 1, 1, 4, 0, 1, 0, 1, 2, 0, 2, 0, 64, 2, 0, 1, 64, 2, 0, 9]);
        assert_eq!(twice.families, ipv4());
        assert!(twice.route_refresh);
        assert_eq!(
            twice.graceful_restart.unwrap().restart_time,
            9,
            "RFC 4724 section 3: the last one counts"
        );
    }

    #[test]
    fn paths_are_identified_where_one_side_sends_and_the_other_receives() {
        let ours = AddPath { receive: both(), send: ipv4() };
        let theirs = AddPath { receive: both(), send: FamilySet::EMPTY };
        assert_eq!(ours.negotiate(theirs), AddPath { receive: FamilySet::EMPTY, send: ipv4() });
        assert_eq!(theirs.negotiate(ours), AddPath { receive: ipv4(), send: FamilySet::EMPTY });
    }
}
