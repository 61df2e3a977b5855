//! What the ring `EVENTS` holds: a [`Begun`] for each flow that begins on the short way while somebody listens, which
//! [`TELLS`](crate::control::TELLS) says.
//!
//! What finds no room is counted in `COUNTERS` ([`UNTOLD`](crate::counter::UNTOLD)), and nobody is woken: who listens looks
//! at times.

use core::mem::{align_of, offset_of, size_of};

use crate::flow::FlowKey;

/// Octets of the ring: 1,820 events.
pub const OCTETS: u32 = 131_072;

/// A flow that begins to take the short way, or begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Begun {
    /// When: nanoseconds since the start of the machine (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// The flow.
    pub key: FlowKey,
    /// Link of its lower end; 0 when that is not on this node.
    pub low_ifindex: u32,
    /// Link of its higher end, likewise.
    pub high_ifindex: u32,
    /// The [revision](crate::control::Control::revision) in which policy allowed it.
    pub revision: u32,
    /// As [`Flow::state`](crate::flow::Flow::state): which end opened it.
    pub state: u32,
}

const _: () = assert!(size_of::<Begun>() == 64 && align_of::<Begun>() == 8);
const _: () = assert!(offset_of!(Begun, key) == 8 && offset_of!(Begun, low_ifindex) == 48);
const _: () = assert!(offset_of!(Begun, revision) == 56 && offset_of!(Begun, state) == 60);

plain!(Begun);
