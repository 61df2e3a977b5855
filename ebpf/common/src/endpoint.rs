//! What the maps of pod links hold: `ENDPOINTS`, a hash from the index of a link's host end to [`Endpoint`], and `LOCAL`, a
//! hash from a pod's [`Address`](crate::address::Address) to that index.
//!
//! `UPLINKS` stands beside them: a hash from the index of each interface that leads to other nodes, those at which the programs
//! for uplinks are attached, to [`FRAMES`] or [`BARE`]. What is for another node goes the short way through these alone: a route may also lead to
//! a pod of this node that may not talk yet, or to somebody else's bridge.
//!
//! Flows have copies of what stands here: who changes an entry of `ENDPOINTS` or `LOCAL`, or takes one away, makes a new
//! [revision](crate::control::Control::revision) of it.

use core::mem::{align_of, offset_of, size_of};

/// The pod's link has no queueing discipline at its host end: packets to the pod may go round it.
pub const PEER: u32 = 1;

/// What `UPLINKS` says of an interface: packets have an Ethernet header there.
pub const FRAMES: u32 = 0;
/// Likewise: they begin with their IP header, and the device sends them to the next hop of the route that they have. One of IP-in-IP.
pub const BARE: u32 = 1;

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
    /// MTU of the link: larger packets to the pod are the stack's, which tells their sender.
    pub mtu: u32,
    /// Link-layer address of the pod's end: the destination of frames to the pod.
    pub mac: [u8; 6],
    /// Link-layer address of the host end: the source of frames to the pod.
    pub host_mac: [u8; 6],
}

const _: () = assert!(size_of::<Endpoint>() == 28 && align_of::<Endpoint>() == 4);
const _: () = assert!(offset_of!(Endpoint, ingress) == 0 && offset_of!(Endpoint, egress) == 4);
const _: () = assert!(offset_of!(Endpoint, flags) == 8 && offset_of!(Endpoint, mtu) == 12);
const _: () = assert!(offset_of!(Endpoint, mac) == 16 && offset_of!(Endpoint, host_mac) == 22);

plain!(Endpoint);
