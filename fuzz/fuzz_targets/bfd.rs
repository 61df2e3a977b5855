//! Any datagrams reach a BFD session: the first octet of each says its length and how much time has passed.
#![no_main]

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use margay_bgp::bfd::{Input, Output, Packet, Session, SessionConfig, State, Timers};

fuzz_target!(|input: &[u8]| {
    let milliseconds = |number: u64| Duration::from_millis(number);
    let mut session = Session::new(SessionConfig {
        discriminator: NonZeroU32::new(1).expect("not 0"),
        timers: Timers {
            min_tx: milliseconds(300),
            min_rx: milliseconds(300),
            multiplier: NonZeroU8::new(3).expect("not 0"),
        },
        seed: 1,
    });
    let (mut rest, mut now, mut was_up) = (input, Duration::ZERO, false);
    while let Some((choice, behind)) = rest.split_first() {
        let (datagram, behind) = behind.split_at(behind.len().min(usize::from(choice & 0x1f)));
        rest = behind;
        now += milliseconds(40 << (choice >> 5));
        let mut outputs = Vec::new();
        session.step(now, Input::Tick, &mut outputs);
        if let Ok(packet) = Packet::decode(datagram) {
            assert_eq!(Packet::decode(&packet.encode()), Ok(packet), "said again in other words");
            session.step(now, Input::Packet(packet), &mut outputs);
        }
        assert!(outputs.len() <= 8, "{} outputs", outputs.len());
        for output in outputs {
            match output {
                Output::Send(packet) => {
                    assert_eq!(Packet::decode(&packet.encode()), Ok(packet), "we send what we would drop");
                    assert!(!(packet.poll && packet.finish), "P and F in one packet");
                }
                Output::Changed(state) => was_up |= state == State::Up,
                Output::Lost { .. } => assert!(was_up, "lost without having been up"),
            }
        }
    }
});
