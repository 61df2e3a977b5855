//! Routes for a collector, gathered by what is said of them, so that messages are full.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::intern::{AttrId, Interner};
use super::monitor::Monitored;
use super::peer::PeerId;
use crate::bmp::{self, Timestamp, View};
use crate::family::Family;
use crate::prefix::Prefix;
use crate::wire::encode::{self, Announcement};
use crate::wire::{AsWidth, Attributes, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, NextHop, nlri};

/// What is said of a prefix, of whose table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said {
    pub(super) peer: PeerId,
    pub(super) view: View,
    pub(super) family: Family,
    /// The attributes; `None` where there is no route any more.
    pub(super) attr: Option<AttrId>,
}

#[derive(Debug)]
struct Bundle {
    said: Said,
    /// `None` for withdrawals.
    announcement: Option<Announcement>,
    room: usize,
    prefixes: Vec<u8>,
}

/// Route Monitoring messages under construction.
#[derive(Debug)]
pub(super) struct Bundles<'a> {
    peers: &'a BTreeMap<PeerId, Monitored>,
    received: &'a Interner,
    time: Timestamp,
    list: Vec<Bundle>,
    places: BTreeMap<Said, usize>,
}

impl<'a> Bundles<'a> {
    pub(super) fn new(
        peers: &'a BTreeMap<PeerId, Monitored>,
        received: &'a Interner,
        time: Timestamp,
    ) -> Self {
        Self { peers, received, time, list: Vec::new(), places: BTreeMap::new() }
    }

    /// Adds a route; a message that is full is appended to `out`.
    pub(super) fn add(&mut self, said: Said, path_id: u32, prefix: Prefix, out: &mut Vec<u8>) {
        let Some(monitored) = self.peers.get(&said.peer) else { return };
        let path_id = monitored.path_ids.contains(said.family).then_some(path_id);
        let place = if let Some(place) = self.places.get(&said) {
            *place
        } else {
            let Some(bundle) = Bundle::new(said, self.received) else { return };
            self.list.push(bundle);
            self.places.insert(said, self.list.len() - 1);
            self.list.len() - 1
        };
        let bundle = &mut self.list[place];
        let octets = nlri::encoded_len(prefix) + if path_id.is_some() { 4 } else { 0 };
        if bundle.prefixes.len() + octets > bundle.room {
            bundle.append(&monitored.peer, self.time, out);
        }
        nlri::encode(path_id, prefix, &mut bundle.prefixes);
    }

    /// Appends what is left.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        for mut bundle in self.list {
            if let Some(monitored) = self.peers.get(&bundle.said.peer) {
                bundle.append(&monitored.peer, self.time, out);
            }
        }
    }
}

impl Bundle {
    /// An empty one; `None` if no message can have the attributes.
    fn new(said: Said, received: &Interner) -> Option<Self> {
        let announcement = match said.attr {
            None => None,
            Some(attr) => Some(announcement(said.family, received.attributes(attr))?),
        };
        let room = announcement
            .as_ref()
            .map_or_else(|| encode::withdrawal_room(said.family, MAX_MESSAGE_LEN), Announcement::room);
        Some(Self { said, announcement, room, prefixes: Vec::new() })
    }

    fn append(&mut self, peer: &bmp::MonitoredPeer, time: Timestamp, out: &mut Vec<u8>) {
        bmp::route_monitoring(peer, self.said.view, time, out, |out| match &self.announcement {
            Some(announcement) => announcement.append(&self.prefixes, out),
            None => encode::append_withdrawal(self.said.family, &self.prefixes, out),
        });
        self.prefixes.clear();
    }
}

fn announcement(family: Family, attributes: &Attributes) -> Option<Announcement> {
    let own;
    let attributes = if attributes.next_hop == NextHop::Local {
        // A route of our own has no next hop before it is told.
        let next_hop = match family {
            Family::Ipv4Unicast => NextHop::V4(Ipv4Addr::UNSPECIFIED),
            Family::Ipv6Unicast => NextHop::V6 { global: Ipv6Addr::UNSPECIFIED, link_local: None },
        };
        own = Attributes { next_hop, ..attributes.clone() };
        &own
    } else {
        attributes
    };
    let within = |limit| Announcement::new(family, attributes, AsWidth::Four, limit);
    // What came in an extended message may need one again.
    within(MAX_MESSAGE_LEN)
        .or_else(|_| within(MAX_EXTENDED_MESSAGE_LEN))
        .inspect_err(|error| tracing::error!(%error, "tell a collector"))
        .ok()
}
