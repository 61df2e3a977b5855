//! What the maps of pod links hold: `ENDPOINTS`, a hash from the index of a link's host end to [`Endpoint`], and `LOCAL`, a
//! hash from a pod's [`Address`](crate::address::Address) to that index.

use core::mem::{align_of, offset_of, size_of};

/// The pod's link has no queueing discipline at its host end: packets to the pod may go round it.
pub const PEER: u32 = 1;

/// A pod link that may talk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// The policy set that packets to the pod are judged by, by the number that `VERDICTS` has; 0: none, all may pass.
    pub ingress: u32,
    /// Likewise for packets from the pod.
    pub egress: u32,
    /// [`PEER`], or 0.
    pub flags: u32,
}

const _: () = assert!(size_of::<Endpoint>() == 12 && align_of::<Endpoint>() == 4);
const _: () = assert!(offset_of!(Endpoint, ingress) == 0 && offset_of!(Endpoint, egress) == 4);
const _: () = assert!(offset_of!(Endpoint, flags) == 8);

plain!(Endpoint);
