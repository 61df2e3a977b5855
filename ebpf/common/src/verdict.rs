//! What the maps of policy hold.
//!
//! | map | key | value |
//! | --- | --- | --- |
//! | `ADDRESSES`, a hash | [`Address`](crate::address::Address) | its class, where it is not what the ranges say |
//! | `RANGES`, a trie | prefix of an [`Address`](crate::address::Address) | its class |
//! | `PODS`, a trie | prefix of an [`Address`](crate::address::Address) | 0: addresses in it are of pods, and nothing translates them |
//! | `VERDICTS`, a trie | prefix of a [`VerdictKey`] | [`ALLOW`], [`TELL`], [`ISOLATE`], or [`CLUSTER`] with a number |

use core::mem::{align_of, offset_of, size_of};

/// The class of addresses that no policy names.
pub const NO_CLASS: u32 = 0;
/// Stands in `VERDICTS` for the classes of which a policy set says nothing of their own.
pub const ANY_CLASS: u32 = u32::MAX;

/// Packets to the pod.
pub const INGRESS: u8 = 0;
/// Packets from the pod.
pub const EGRESS: u8 = 1;

/// It may pass.
pub const ALLOW: u32 = 1;
/// It may pass, and nftables is to tell of it: flows begin there, and those that have begun go on as they are.
pub const TELL: u32 = 2;
/// It may not pass: nothing that isolates the pods of the set allows it.
pub const ISOLATE: u32 = 3;
/// Together with the number of the cause: it may not pass, as a policy of the cluster says.
pub const CLUSTER: u32 = 1 << 31;

/// What is decided about one class in one direction of a policy set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct VerdictKey {
    /// The policy set's number; never 0.
    pub set: u32,
    /// The class of the address at the other end, or [`ANY_CLASS`].
    pub class: u32,
    /// [`INGRESS`] or [`EGRESS`].
    pub way: u8,
    /// Protocol number (RFC 5237).
    pub protocol: u8,
    /// Destination port, in network order, so that a prefix of it is a range of ports.
    pub port: [u8; 2],
}

impl VerdictKey {
    /// Prefix length of the entry for what no other entry of the class names: all protocols and ports. Every class that a policy
    /// set names has it.
    pub const REST: u32 = 72;
    /// Prefix length of an entry for one port.
    pub const PORT: u32 = 96;
}

const _: () = assert!(size_of::<VerdictKey>() == 12 && align_of::<VerdictKey>() == 4);
const _: () = assert!(offset_of!(VerdictKey, set) == 0 && offset_of!(VerdictKey, class) == 4);
const _: () = assert!(offset_of!(VerdictKey, way) == 8 && offset_of!(VerdictKey, protocol) == 9);
const _: () = assert!(offset_of!(VerdictKey, port) == 10);
const _: () = assert!(VerdictKey::REST as usize == 8 * offset_of!(VerdictKey, protocol));
const _: () = assert!(VerdictKey::PORT as usize == 8 * size_of::<VerdictKey>());

plain!(VerdictKey);
