//! Counts packets and octets of an interface in each direction, and lets every packet go on.
//!
//! Owns the map `TRAFFIC`; reads nothing of a packet but its length, so it needs no bounds check.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the macro hands the context over")]

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    macros::{classifier, map},
    maps::PerCpuArray,
    programs::TcContext,
};
use margay_ebpf_common::traffic::{Counter, Direction, ENTRIES};

/// Counters by direction.
#[map(name = "TRAFFIC")]
static TRAFFIC: PerCpuArray<Counter> = PerCpuArray::with_max_entries(ENTRIES, 0);

/// Counts what the interface receives.
#[classifier]
pub fn count_ingress(context: TcContext) -> i32 {
    count(&context, Direction::Ingress)
}

/// Counts what the interface sends.
#[classifier]
pub fn count_egress(context: TcContext) -> i32 {
    count(&context, Direction::Egress)
}

#[inline]
fn count(context: &TcContext, direction: Direction) -> i32 {
    // The verifier wants the test for null on every path, although the index is always in range.
    if let Some(counter) = TRAFFIC.get_ptr_mut(direction.index()) {
        // SAFETY: the kernel gave this pointer, not null, to this CPU's own value, which lives as long as the map;
        // a tc program is not preempted by another one on its CPU.
        let counter = unsafe { &mut *counter };
        counter.packets = counter.packets.wrapping_add(1);
        counter.octets = counter.octets.wrapping_add(u64::from(context.len()));
    }
    // On to the next program; with tcx (Linux 6.6) this is `TCX_NEXT`.
    TC_ACT_UNSPEC
}

/// Never reached: the verifier refuses programs that could panic.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel is told; it keeps some helpers for programs under the GPL, of which we call none.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
