//! Flows that begin and packets that are dropped are told of, while somebody listens.

use core::mem::transmute;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use margay_ebpf_common::{
    counter::{UNTOLD, UNTOLD_DENIALS},
    denial::NOBODY,
    event::Told,
    flow::{Flow, FlowKey},
};

use crate::{
    maps::{EVENTS, count_at},
    words::OnStack,
};

/// Tells of a flow that begins, or that is denied by somebody; or counts that there was no room. Not inlined: what calls it has little of the
/// stack left.
#[inline(never)]
pub(crate) fn tell(key: &OnStack<FlowKey>, flow: &Flow, by: u32, number: u32) {
    let Some(mut event) = EVENTS.reserve::<Told>(0) else {
        count_at(if by == NOBODY { UNTOLD } else { UNTOLD_DENIALS });
        return;
    };
    let place = event.as_mut_ptr();
    // SAFETY: both have forty octets, and every bit pattern is an array of numbers.
    let words = unsafe { transmute::<FlowKey, [u64; 5]>(key.0) };
    // Written by words: a key has octets alone, which the compiler would copy one by one.
    // SAFETY: the kernel gave as much room as an event has, aligned.
    unsafe { place.cast::<u64>().write(flow.seen) };
    let rest = place.cast::<u64>().wrapping_add(1);
    // SAFETY: the key stands behind the time, aligned like that.
    unsafe { rest.cast::<[u64; 5]>().write(words) };
    let numbers = [flow.low.ifindex, flow.high.ifindex, flow.revision, flow.state, by, number];
    // SAFETY: six numbers stand behind the key, and nothing behind them.
    unsafe { rest.wrapping_add(5).cast::<[u32; 6]>().write(numbers) };
    event.submit(u64::from(BPF_RB_NO_WAKEUP));
}
