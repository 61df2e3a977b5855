//! What the maps of flows hold, all of them LRU hashes by [`FlowKey`]:
//!
//! | map | what is in it |
//! | --- | --- |
//! | `FLOWS` | [`Flow`]s that take the short way and of which both ends were heard |
//! | `EMBRYOS` | [`Flow`]s that take the short way and of which only the end that opened them was heard: a flood of these ends none of the others |
//! | `STACKED` | flows that the node's stack has, with [`Stacked`]: all their packets go there, as it may translate them |

use core::mem::{align_of, offset_of, size_of};

use crate::address::Address;

/// The two ends of a flow, the same for both directions: the lower end comes first, by address, then by port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct FlowKey {
    /// Address of the lower end.
    pub low: Address,
    /// Address of the higher end.
    pub high: Address,
    /// Port of the lower end, in network order.
    pub low_port: [u8; 2],
    /// Port of the higher end, in network order.
    pub high_port: [u8; 2],
    /// Protocol number: TCP or UDP.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 3],
}

impl FlowKey {
    /// Address and port, in network order, of the end that opened a flow with this [state](Flow::state), and then of the other.
    pub const fn opened(&self, state: u32) -> [(Address, [u8; 2]); 2] {
        let (low, high) = ((self.low, self.low_port), (self.high, self.high_port));
        if state & OPENED_BY_HIGH == 0 { [low, high] } else { [high, low] }
    }
}

/// A flow that takes the short way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// When its last packet was seen, or a second before: nanoseconds since the start of the machine (`CLOCK_MONOTONIC`).
    pub seen: u64,
    /// The [revision](crate::control::Control::revision) in which policy allowed it.
    pub revision: u32,
    /// Some of the constants below.
    pub state: u32,
    /// The lower end.
    pub low: End,
    /// The higher end.
    pub high: End,
}

/// One end of a flow, with what a packet to it needs: its [`Endpoint`](crate::endpoint::Endpoint) is not looked up again.
/// All zero when the pod is not on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct End {
    /// Index of the pod's link; 0 when that is not on this node.
    pub ifindex: u32,
    /// As [`Endpoint::mtu`](crate::endpoint::Endpoint::mtu).
    pub mtu: u32,
    /// As [`Endpoint::mac`](crate::endpoint::Endpoint::mac). This and the next stand where a program can copy them by words.
    pub mac: [u8; 6],
    /// The low half of [`Endpoint::flags`](crate::endpoint::Endpoint::flags).
    pub flags: u16,
    /// As [`Endpoint::host_mac`](crate::endpoint::Endpoint::host_mac).
    pub host_mac: [u8; 6],
    /// Zero.
    pub padding: [u8; 2],
}

/// What a program leaves in a packet's `tc_index` that takes the short way through another link: the programs at that link
/// know by it that the packet does not come from the stack.
pub const SHORT_MARK: u32 = 0x6d67;

/// The higher end opened the flow.
pub const OPENED_BY_HIGH: u32 = 1;
/// The lower end has sent its FIN.
pub const LOW_FIN: u32 = 2;
/// The higher end has sent its FIN.
pub const HIGH_FIN: u32 = 4;
/// One end has sent RST.
pub const RESET: u32 = 8;

impl Flow {
    /// Nanoseconds after which a flow that was silent is none any more, and its next packet begins one, if it may. Those of
    /// the kernel's connection tracking: a second for each of `nf_conntrack_tcp_timeout_established` and so on.
    pub const fn timeout(protocol: u8, state: u32, is_embryo: bool) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        let is_closing = state & RESET != 0 || state & (LOW_FIN | HIGH_FIN) == LOW_FIN | HIGH_FIN;
        match (protocol, is_embryo) {
            (TCP, _) if is_closing => 120 * SECOND,
            (TCP, true) => 120 * SECOND,
            (TCP, false) => 432_000 * SECOND,
            (_, true) => 30 * SECOND,
            (_, false) => 120 * SECOND,
        }
    }
}

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// A flow that the node's stack has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stacked {
    /// As [`Flow::seen`]. What was silent for longer than the stack itself remembers is forgotten.
    pub seen: u64,
}

/// Nanoseconds after which a silent flow is no longer the stack's: more than connection tracking keeps a flow of UDP.
pub const STACKED_TIMEOUT: u64 = 600 * 1_000_000_000;

/// Which fragments are of one packet (RFC 791 section 3.2, RFC 8200 section 4.5); key of the LRU hash `FRAGMENTS`, whose value
/// is the [`FlowKey`] that the first fragment had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, in network order; that of IPv4 in the first two octets, then zeros.
    pub identification: [u8; 4],
    /// Protocol number.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 3],
}

const _: () = assert!(size_of::<FlowKey>() == 40 && align_of::<FlowKey>() == 1);
const _: () = assert!(offset_of!(FlowKey, low_port) == 32 && offset_of!(FlowKey, protocol) == 36);
const _: () = assert!(size_of::<Flow>() == 64 && align_of::<Flow>() == 8);
const _: () = assert!(offset_of!(Flow, revision) == 8 && offset_of!(Flow, state) == 12);
const _: () = assert!(offset_of!(Flow, low) == 16 && offset_of!(Flow, high) == 40);
const _: () = assert!(size_of::<End>() == 24 && align_of::<End>() == 4);
const _: () =
    assert!(offset_of!(End, mac) == 8 && offset_of!(End, flags) == 14 && offset_of!(End, host_mac) == 16);
const _: () = assert!(size_of::<Stacked>() == 8 && size_of::<FragmentKey>() == 40);

plain!(FlowKey);
plain!(Flow);
plain!(End);
plain!(Stacked);
plain!(FragmentKey);
