//! Octets of others that the agent reads without a parser of a library: packets that were logged, datagrams that test a way, events of the
//! kernel programs.
#![no_main]
#![allow(dead_code)]

#[path = "../../node-agent/src/ways/message.rs"]
mod message;

use libfuzzer_sys::fuzz_target;
use margay_ebpf_common::{address::Address, event::Told, flow::FlowKey};
use margay_netlink::nflog::{Packet, Transport};

fuzz_target!(|octets: &[u8]| {
    if let Some(packet) = Packet::parse(octets) {
        assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
        // The kernel shows the beginning of a packet alone: less of it says the same, or less.
        for end in 0..octets.len().min(256) {
            let Some(less) = Packet::parse(&octets[..end]) else { continue };
            assert_eq!((less.source, less.destination), (packet.source, packet.destination));
            assert!(less.transport == Transport::Unknown || less == packet, "{less:?} of {packet:?}");
        }
    }
    // No datagram is a question and an answer: two agents would talk for ever.
    assert!(message::asked(octets).is_none() || message::answered(octets).is_none());
    if let Some(number) = message::asked(octets) {
        let answer = message::answer(number);
        assert!(answer.len() <= octets.len(), "more is said than was asked");
        assert_eq!(message::answered(&answer), Some(number));
    }
    if let Some(Told { time, key, low_ifindex, high_ifindex, revision, state, denial }) =
        Told::from_octets(octets)
    {
        let FlowKey { low: Address(low), high: Address(high), low_port, high_port, protocol, .. } = key;
        let numbers = [low_ifindex, high_ifindex, revision, state, denial.by, denial.number]
            .map(u32::to_ne_bytes)
            .concat();
        let flow = [&low[..], &high, &low_port, &high_port, &[protocol]].concat();
        let said = [&time.to_ne_bytes()[..], &flow, &octets[45..48], &numbers].concat();
        assert_eq!(said, octets[..72], "another event than came");
    }
});
