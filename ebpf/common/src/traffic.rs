//! What the map `TRAFFIC` holds: a per-CPU array with one [`Counter`] for each [`Direction`].

use core::mem::{align_of, offset_of, size_of};

/// Entries of the map.
pub const ENTRIES: u32 = 2;

/// Which way a packet goes, as the kernel sees the interface that the program is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received by the interface.
    Ingress,
    /// Sent by the interface.
    Egress,
}

impl Direction {
    /// Index of the direction's counter in the map.
    pub const fn index(self) -> u32 {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
        }
    }
}

/// What one CPU saw in one direction; the sum over all CPUs is the truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets, in host order.
    pub packets: u64,
    /// Octets of these packets with their link-layer header, in host order.
    pub octets: u64,
}

const _: () = assert!(size_of::<Counter>() == 16 && align_of::<Counter>() == 8);
const _: () = assert!(offset_of!(Counter, packets) == 0 && offset_of!(Counter, octets) == 8);

// SAFETY: `Counter` is `repr(C)` of two integers, without padding, and every bit pattern is a value of it.
#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "a promise about the layout, which only this crate can make")]
unsafe impl aya::Pod for Counter {}
