//! What the ring `EVENTS` holds: a [`Told`] for each flow that begins on the short way, and for each packet that is dropped, while somebody
//! listens to such, which [`TELLS_FLOWS`](crate::control::TELLS_FLOWS) and [`TELLS_DENIALS`](crate::control::TELLS_DENIALS) say.
//!
//! What finds no room is counted in `COUNTERS` ([`UNTOLD`](crate::counter::UNTOLD),
//! [`UNTOLD_DENIALS`](crate::counter::UNTOLD_DENIALS)), and nobody is woken: who listens looks at times.

use core::mem::{align_of, offset_of, size_of};

use crate::{
    address::Address,
    denial::{Denial, NOBODY},
    flow::FlowKey,
};

/// Octets of the ring: 1,638 events.
pub const OCTETS: u32 = 131_072;

/// A flow that begins to take the short way, or begins anew; or a packet that would begin one, or something that the stack has, and is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Told {
    /// When: nanoseconds since the start of the machine (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// The flow.
    pub key: FlowKey,
    /// Link of its lower end; 0 when that is not on this node.
    pub low_ifindex: u32,
    /// Link of its higher end, likewise.
    pub high_ifindex: u32,
    /// The [revision](crate::control::Control::revision) in which it was judged.
    pub revision: u32,
    /// As [`Flow::state`](crate::flow::Flow::state): which end opened it.
    pub state: u32,
    /// Why it is dropped; [`NOBODY`] denies what begins.
    pub denial: Denial,
}

impl Told {
    /// Whether it is dropped.
    pub const fn is_denied(&self) -> bool {
        self.denial.by != NOBODY
    }

    /// As it stands in the ring; `None` when it is shorter.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let (time, rest) = octets.split_first_chunk::<8>()?;
        let (low, rest) = rest.split_first_chunk::<16>()?;
        let (high, rest) = rest.split_first_chunk::<16>()?;
        let (&[a, b, c, d, protocol, ..], rest) = rest.split_first_chunk::<8>()?;
        let (numbers, _) = rest.split_first_chunk::<24>()?;
        let [low_ifindex, high_ifindex, revision, state, by, number] = core::array::from_fn(|index| {
            let octets = numbers.as_chunks::<4>().0.get(index).copied();
            u32::from_ne_bytes(octets.unwrap_or_default())
        });
        let key = FlowKey {
            low: Address(*low),
            high: Address(*high),
            low_port: [a, b],
            high_port: [c, d],
            protocol,
            padding: [0; 3],
        };
        let denial = Denial { by, number };
        Some(Self {
            time: u64::from_ne_bytes(*time),
            key,
            low_ifindex,
            high_ifindex,
            revision,
            state,
            denial,
        })
    }
}

const _: () = assert!(size_of::<Told>() == 72 && align_of::<Told>() == 8);
const _: () = assert!(offset_of!(Told, key) == 8 && offset_of!(Told, low_ifindex) == 48);
const _: () = assert!(offset_of!(Told, revision) == 56 && offset_of!(Told, state) == 60);
const _: () = assert!(offset_of!(Told, denial) == 64);

plain!(Told);

#[cfg(test)]
mod tests {
    use super::Told;
    use crate::{
        address::Address,
        denial::{Denial, EGRESS},
        flow::{FlowKey, OPENED_BY_HIGH, UDP},
    };

    #[test]
    fn an_event_is_read_as_it_stands_in_the_ring() {
        let key = FlowKey {
            low: Address::from_ipv4([192, 0, 2, 1]),
            high: Address::from_ipv4([192, 0, 2, 2]),
            low_port: [1, 2],
            high_port: [3, 4],
            protocol: UDP,
            padding: [0; 3],
        };
        let denial = Denial { by: EGRESS, number: 9 };
        let flow = Told {
            time: 5,
            key,
            low_ifindex: 6,
            high_ifindex: 0,
            revision: 8,
            state: OPENED_BY_HIGH,
            denial,
        };
        let mut octets = [0; size_of::<Told>()];
        let parts: [&[u8]; 10] = [
            &flow.time.to_ne_bytes(),
            &key.low.0,
            &key.high.0,
            &[1, 2, 3, 4, UDP, 0, 0, 0],
            &6_u32.to_ne_bytes(),
            &[0; 4],
            &8_u32.to_ne_bytes(),
            &OPENED_BY_HIGH.to_ne_bytes(),
            &EGRESS.to_ne_bytes(),
            &9_u32.to_ne_bytes(),
        ];
        let all = parts.into_iter().flatten().copied();
        octets.iter_mut().zip(all).for_each(|(place, octet)| *place = octet);
        assert_eq!(Told::from_octets(&octets), Some(flow));
        assert_eq!(Told::from_octets(&octets[1..]), None);
    }
}
