//! The message parser takes any bytes: the first octet chooses the session, the rest is the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_bgp::wire::{
    AsWidth, Frame, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, Message, PeerKind, Update, UpdateContext,
};
use margay_bgp::{Family, FamilySet};

fuzz_target!(|input: &[u8]| {
    let Some((choice, mut stream)) = input.split_first() else { return };
    let chosen = |bit: u8| choice & (1 << bit) != 0;
    let all = FamilySet::from_iter(Family::ALL);
    let context = UpdateContext {
        as_width: if chosen(0) { AsWidth::Two } else { AsWidth::Four },
        peer: if chosen(1) { PeerKind::Internal } else { PeerKind::External },
        families: if chosen(2) { FamilySet::from_iter([Family::Ipv4Unicast]) } else { all },
        add_path: if chosen(3) { all } else { FamilySet::EMPTY },
        extended_next_hop: chosen(4),
    };
    let limit = if chosen(5) { MAX_EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN };
    while let Ok(Some(frame)) = Frame::split_within(stream, limit) {
        assert!(frame.length <= limit, "a message above the limit");
        stream = &stream[frame.length..];
        match Message::decode(frame) {
            Ok(Message::Update(body)) => drop(Update::decode(body, context)),
            // What was understood is said again in the same words, but for an OPEN of families unknown to us alone.
            Ok(Message::Open(open)) if !open.capabilities.families.is_empty() => {
                let mut out = Vec::new();
                open.encode(&mut out);
                let frame = Frame::split(&out).expect("framed").expect("whole");
                assert_eq!(Message::decode(frame), Ok(Message::Open(open)));
            }
            Ok(Message::Notification(notification)) => {
                assert!(notification.communication().is_none_or(|text| text.len() <= 3 * 255));
            }
            Ok(Message::Open(_) | Message::Keepalive | Message::RouteRefresh(_)) | Err(_) => {}
        }
    }
});
