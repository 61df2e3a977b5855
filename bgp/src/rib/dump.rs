//! The tables as records of MRT: `TABLE_DUMP_V2` of RFC 6396, with path identifiers as in RFC 8050.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::intern::AttrId;
use super::peer::PeerId;
use super::state::Rib;
use super::table::{Slot, SlotId};
use crate::family::Family;
use crate::wire::{attr, nlri};

/// How far a dump has come. The tables may change between its parts: each prefix is as it was when its part was made.
#[derive(Clone, Debug)]
pub struct Dump {
    /// Of all records, in seconds since 1970.
    time: u32,
    /// Peers by their numbers in the dump. Paths of one that came later are left out.
    peers: Vec<PeerId>,
    next: usize,
    sequence: u32,
}

const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
/// Types of a peer's entry (RFC 6396 section 4.3.1).
const IPV6_ADDRESS: u8 = 1;
const FOUR_OCTET_AS: u8 = 2;
/// Prefixes in one part.
const PART: usize = 8192;

impl Rib {
    /// Begins a dump at this time, in seconds since 1970, with the record that has the peers.
    pub fn begin_dump(&self, time: u32) -> (Dump, Vec<u8>) {
        // Routes of our own are those of a peer with our numbers and no address.
        let speaker = self.speaker();
        let own = (PeerId::LOCAL, speaker.identifier, IpAddr::V4([0; 4].into()), speaker.asn);
        let others = self.peers.iter().map(|(id, peer)| {
            let info = &peer.info;
            (id, info.identifier, info.address, info.remote_as)
        });
        let most = usize::from(u16::MAX);
        let mut peers = Vec::new();
        let mut entries = Vec::new();
        for (id, identifier, address, asn) in [own].into_iter().chain(others).take(most) {
            peers.push(id);
            entries.push(FOUR_OCTET_AS | if address.is_ipv6() { IPV6_ADDRESS } else { 0 });
            entries.extend_from_slice(&identifier.octets());
            match address {
                IpAddr::V4(address) => entries.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => entries.extend_from_slice(&address.octets()),
            }
            entries.extend_from_slice(&asn.number().to_be_bytes());
        }
        let mut body = speaker.identifier.octets().to_vec();
        // The view has no name.
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&count(peers.len()));
        body.extend_from_slice(&entries);
        let mut records = Vec::new();
        record(time, PEER_INDEX_TABLE, &body, &mut records);
        (Dump { time, peers, next: 0, sequence: 0 }, records)
    }

    /// The next records; `None` when all are told.
    pub fn next_dump(&self, dump: &mut Dump) -> Option<Vec<u8>> {
        let slots: Vec<SlotId> = self.table.all().skip(dump.next).take(PART).collect();
        if slots.is_empty() {
            return None;
        }
        dump.next += slots.len();
        let mut records = Vec::new();
        // What many prefixes have is encoded once.
        let mut encoded = BTreeMap::new();
        for slot in slots {
            self.dump_slot(self.table.slot(slot), dump, &mut encoded, &mut records);
        }
        Some(records)
    }

    fn dump_slot(
        &self,
        slot: &Slot,
        dump: &mut Dump,
        encoded: &mut BTreeMap<(AttrId, Family), Vec<u8>>,
        records: &mut Vec<u8>,
    ) {
        let family = slot.prefix.family();
        let with_ids = slot.paths.as_slice().iter().any(|path| path.remote_id != 0);
        let (mut entries, mut paths) = (Vec::new(), 0);
        for path in slot.paths.as_slice() {
            // They are in ascending order.
            let Ok(index) = dump.peers.binary_search(&path.peer) else { continue };
            let attributes = encoded.entry((path.attr, family)).or_insert_with(|| {
                attr::encode_for_table_dump(family, self.interners.received.attributes(path.attr))
            });
            paths += 1;
            entries.extend_from_slice(&count(index));
            // When the path came is not kept.
            entries.extend_from_slice(&[0; 4]);
            if with_ids {
                entries.extend_from_slice(&path.remote_id.to_be_bytes());
            }
            entries.extend_from_slice(&count(attributes.len()));
            entries.extend_from_slice(attributes);
        }
        if paths == 0 {
            return;
        }
        let mut body = dump.sequence.to_be_bytes().to_vec();
        nlri::encode(None, slot.prefix, &mut body);
        body.extend_from_slice(&count(paths));
        body.extend_from_slice(&entries);
        dump.sequence = dump.sequence.wrapping_add(1);
        // RIB_IPV4_UNICAST and so on; RFC 8050 section 4 for those with path identifiers.
        let subtype = match (family, with_ids) {
            (Family::Ipv4Unicast, false) => 2,
            (Family::Ipv6Unicast, false) => 4,
            (Family::Ipv4Unicast, true) => 8,
            (Family::Ipv6Unicast, true) => 10,
        };
        record(dump.time, subtype, &body, records);
    }
}

/// What is counted is bounded: peers by their table, paths by peers, attributes by the message that they came in.
fn count(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

fn record(time: u32, subtype: u16, body: &[u8], records: &mut Vec<u8>) {
    records.extend_from_slice(&time.to_be_bytes());
    records.extend_from_slice(&TABLE_DUMP_V2.to_be_bytes());
    records.extend_from_slice(&subtype.to_be_bytes());
    records.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    records.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::tests::{announce, id, path, prefix, rib};
    use crate::wire::{Attributes, NextHop};

    /// The subtypes and bodies of all records, whose headers are right.
    fn records(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut records = Vec::new();
        while let Some((header, behind)) = rest.split_first_chunk::<12>() {
            assert_eq!(header[..6], [0, 0, 0, 9, 0, 13]);
            let length = u32::from_be_bytes(header[8..].try_into().unwrap());
            let (body, behind) = behind.split_at(length.try_into().unwrap());
            records.push((u16::from_be_bytes([header[6], header[7]]), body.to_vec()));
            rest = behind;
        }
        assert!(rest.is_empty());
        records
    }

    fn dump(rib: &Rib) -> Vec<(u16, Vec<u8>)> {
        let (mut dump, mut octets) = rib.begin_dump(9);
        while let Some(part) = rib.next_dump(&mut dump) {
            octets.extend(part);
        }
        records(&octets)
    }

    #[test]
    fn a_dump_has_the_peers_then_each_prefix_with_its_paths() {
        let mut rib = rib(&[1]);
        announce(&mut rib, id(1), path(1, &[64501]), [prefix("198.51.100.0/25")]);
        let expected = [
            // Our identifier, no name, two peers: ourselves, and 192.0.2.1 in AS 64501.
            (
                1,
                [
                    &[192, 0, 2, 254, 0, 0, 0, 2][..],
                    &[2, 192, 0, 2, 254, 0, 0, 0, 0, 0, 0, 0xfb, 0xf4],
                    &[2, 192, 0, 2, 1, 192, 0, 2, 1, 0, 0, 0xfb, 0xf5],
                ]
                .concat(),
            ),
            // Number 0, the prefix, one path of peer 1, from nobody knows when, with 20 octets of attributes.
            (
                2,
                [
                    &[0, 0, 0, 0, 25, 198, 51, 100, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 20][..],
                    &[0x40, 1, 1, 0],
                    &[0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf5],
                    &[0x40, 3, 4, 192, 0, 2, 1],
                ]
                .concat(),
            ),
        ];
        assert_eq!(dump(&rib), expected);
    }

    #[test]
    fn an_ipv6_path_has_its_next_hop_alone_and_paths_with_numbers_keep_them() {
        let mut rib = rib(&[1]);
        let next_hop = NextHop::V6 { global: "2001:db8::1".parse().unwrap(), link_local: None };
        let attributes = Attributes { next_hop, ..path(1, &[64501]) };
        rib.announce(id(1), attributes, [(7, prefix("2001:db8:100::/40"))]);
        let [_, (subtype, body)] = &dump(&rib)[..] else { panic!("two records") };
        assert_eq!(*subtype, 10);
        assert_eq!(body[4..10], [40, 0x20, 0x01, 0x0d, 0xb8, 0x01]);
        assert_eq!(body[12..24], [0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 33]);
        let next_hop: Vec<u8> = [&[0x80, 14, 17, 16, 0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[1]].concat();
        assert!(body.windows(next_hop.len()).any(|window| window == next_hop), "{body:?}");
    }

    #[test]
    fn a_dump_goes_over_all_of_a_large_table() {
        let mut rib = rib(&[1]);
        let prefixes =
            (0..20_000_u32).map(|number| crate::Prefix::host(IpAddr::V4((0x0a00_0000 + number).into())));
        announce(&mut rib, id(1), path(1, &[64501]), prefixes);
        let sequence = |body: &[u8]| u32::from_be_bytes(body[..4].try_into().unwrap());
        let numbers: Vec<u32> = dump(&rib).iter().skip(1).map(|(_, body)| sequence(body)).collect();
        assert_eq!(numbers, (0..20_000).collect::<Vec<_>>());
    }
}
