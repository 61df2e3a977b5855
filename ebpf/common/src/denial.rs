//! What the map `DENIALS` holds: a per-CPU hash of numbers, `u64`: the packets that the programs have dropped, by [`Denial`].

use core::mem::{align_of, offset_of, size_of};

use crate::verdict;

/// Packets that go to a pod are denied by its isolation.
pub const INGRESS: u32 = verdict::INGRESS as u32;
/// Packets that come from one, likewise.
pub const EGRESS: u32 = verdict::EGRESS as u32;
/// A policy of the cluster denies them.
pub const CLUSTER: u32 = 2;
/// Nobody denies them.
pub const NOBODY: u32 = 3;

/// Why policy denies a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Denial {
    /// One of the constants above.
    pub by: u32,
    /// The number of the policy set that isolates, as in [`VerdictKey::set`](crate::verdict::VerdictKey::set); or of the cause, as in
    /// [`CLUSTER`](crate::verdict::CLUSTER).
    pub number: u32,
}

const _: () = assert!(size_of::<Denial>() == 8 && align_of::<Denial>() == 4);
const _: () = assert!(offset_of!(Denial, by) == 0 && offset_of!(Denial, number) == 4);

plain!(Denial);
