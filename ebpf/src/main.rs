//! The eBPF dataplane: a short way round the node's stack for packets between pods that policy plainly allows.
//!
//! The programs translate nothing, and drop what asks a pod of this node for something that policy denies. All else that does not take the
//! short way goes on to the stack, where nftables judges by the same policy. `docs/ebpf.md` draws it.
//!
//! | program | attached at | does |
//! | --- | --- | --- |
//! | `from_pod` | ingress of the host end of a pod's link | [`way`] |
//! | `from_uplink` | ingress of what leads to other nodes | [`way`] |
//! | `from_tunnel` | likewise, of packets without a link-layer header | [`way`] |
//! | `to_pod` | egress of the host end of a pod's link | [`note`] |
//! | `to_uplink` | egress of what leads to other nodes | [`note`] |
//! | `to_tunnel` | likewise, of packets without a link-layer header | [`note`] |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_pass_by_value, reason = "the macro hands the context over")]
#![expect(
    clippy::inline_always,
    reason = "a packet's pointers and the verifier's knowledge of them do not cross calls"
)]
#![expect(clippy::cast_possible_truncation, reason = "halves of numbers, and what helpers return")]
#![expect(clippy::cast_possible_wrap, reason = "sizes of structures")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is handed over is copied, on a stack of 512 octets"
)]

mod barrier;
mod flow;
mod judge;
mod maps;
mod note;
mod parse;
mod route;
mod tell;
mod tunnel;
mod way;
mod words;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

use crate::{
    parse::{BARE, ETHERNET, Packet},
    way::At,
};

/// What a pod sends.
#[classifier]
pub fn from_pod(context: TcContext) -> i32 {
    way::take::<ETHERNET>(Packet::new(context.skb.skb), At::Pod)
}

/// What other nodes send.
#[classifier]
pub fn from_uplink(context: TcContext) -> i32 {
    way::take::<ETHERNET>(Packet::new(context.skb.skb), At::Uplink)
}

/// What other nodes send through a tunnel of IP-in-IP.
#[classifier]
pub fn from_tunnel(context: TcContext) -> i32 {
    way::take::<BARE>(Packet::new(context.skb.skb), At::Uplink)
}

/// What goes to a pod.
#[classifier]
pub fn to_pod(context: TcContext) -> i32 {
    note::note::<ETHERNET>(Packet::new(context.skb.skb));
    TC_ACT_UNSPEC
}

/// What goes to other nodes.
#[classifier]
pub fn to_uplink(context: TcContext) -> i32 {
    note::note::<ETHERNET>(Packet::new(context.skb.skb));
    TC_ACT_UNSPEC
}

/// What goes to other nodes through a tunnel of IP-in-IP.
#[classifier]
pub fn to_tunnel(context: TcContext) -> i32 {
    note::note::<BARE>(Packet::new(context.skb.skb));
    TC_ACT_UNSPEC
}

/// Never reached: the verifier refuses programs that could panic.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel is told: it keeps some helpers for programs that may be used under the GPL, of which `route` calls one. These may,
/// beside the Apache License.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 7] = *b"GPL v2\0";
