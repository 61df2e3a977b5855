//! Entries of the maps of flows: which is a packet's, and whether it is one still.

use core::mem::transmute;

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use margay_ebpf_common::{
    address::Address,
    flow::{End, Flow, FlowKey, HIGH_FIN, LOW_FIN, OPENED_BY_HIGH, RESET, Stacked},
};

use crate::{
    barrier::barrier,
    maps::{EMBRYOS, FLOWS, STACKED},
    parse::{FIN, Headers, RST},
    words::{OnStack, copy},
};

/// How exact `seen` is: an entry is written to as seldom as that.
const SECOND: u64 = 1_000_000_000;

/// Of which flow a packet is, and which end sent it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Whose {
    /// The flow.
    pub(crate) key: OnStack<FlowKey>,
    /// Whether its higher end sent the packet.
    pub(crate) from_high: bool,
}

impl Whose {
    /// By the addresses, protocol and ports in its headers.
    #[inline(always)]
    pub(crate) fn of(headers: &Headers) -> Self {
        let source = (order(&headers.source), u16::from_be_bytes(headers.source_port));
        let destination = (order(&headers.destination), u16::from_be_bytes(headers.destination_port));
        let from_high = destination < source;
        let ((low, low_port), (high, high_port)) =
            if from_high { (destination, source) } else { (source, destination) };
        // The words of a `FlowKey`, by the order of its octets: the compiler writes them as they stand here.
        let last = u64::from(low_port) << 48 | u64::from(high_port) << 32 | u64::from(headers.protocol) << 24;
        let words = [low.0.to_be(), low.1.to_be(), high.0.to_be(), high.1.to_be(), last.to_be()];
        // SAFETY: both have forty octets, and every bit pattern is a key.
        Self { key: OnStack(unsafe { transmute::<[u64; 5], FlowKey>(words) }), from_high }
    }
}

/// An address as two numbers, which compare like its octets; comparing octets would be a loop.
#[inline(always)]
pub(crate) fn order(address: &Address) -> (u64, u64) {
    // SAFETY: two times eight octets are sixteen, and arrays of octets have no alignment.
    let [high, low] = unsafe { transmute::<[u8; 16], [[u8; 8]; 2]>(address.0) };
    (u64::from_be_bytes(high), u64::from_be_bytes(low))
}

/// Nanoseconds since the start of the machine, some milliseconds late: reading no clock, but what the last tick left.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// An entry of `FLOWS` or `EMBRYOS`.
///
/// Its memory is the map's. Another CPU may write it at the same time: to `seen` and to bits of `state`, of which a lost one
/// means that an entry stays longer; or to all of it with what policy says of the same flow. An entry that is deleted may
/// become another flow's while it is used: the packet is then one that was allowed when it was looked up.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    flow: *mut Flow,
    is_embryo: bool,
}

impl Entry {
    /// The flow's entry, if it has one that counts.
    #[inline(always)]
    pub(crate) fn find(key: &OnStack<FlowKey>, now: u64) -> Option<Self> {
        Self::established(key, now).or_else(|| {
            let flow = EMBRYOS.get_ptr_mut(&key.0)?;
            Self { flow, is_embryo: true }.if_live(key, now)
        })
    }

    /// Likewise, if both ends were heard.
    #[inline(always)]
    pub(crate) fn established(key: &OnStack<FlowKey>, now: u64) -> Option<Self> {
        let flow = FLOWS.get_ptr_mut(&key.0)?;
        Self { flow, is_embryo: false }.if_live(key, now)
    }

    #[inline(always)]
    fn if_live(self, key: &OnStack<FlowKey>, now: u64) -> Option<Self> {
        // Another CPU may have written a later time.
        let silent = now.saturating_sub(self.seen());
        (silent <= Flow::timeout(key.0.protocol, self.state(), self.is_embryo)).then_some(self)
    }

    #[inline(always)]
    fn seen(self) -> u64 {
        // SAFETY: the kernel gave this pointer, not null, to the map's value, which is readable while this program runs.
        unsafe { (*self.flow).seen }
    }

    #[inline(always)]
    fn state(self) -> u32 {
        // SAFETY: as in `seen`.
        unsafe { (*self.flow).state }
    }

    /// The revision in which it was judged.
    #[inline(always)]
    pub(crate) fn revision(self) -> u32 {
        // SAFETY: as in `seen`.
        unsafe { (*self.flow).revision }
    }

    /// Whether the end of that side opened it.
    #[inline(always)]
    pub(crate) fn was_opened_by(self, high: bool) -> bool {
        (self.state() & OPENED_BY_HIGH != 0) == high
    }

    /// The link of an end; 0 when that is not on this node.
    #[inline(always)]
    pub(crate) fn ifindex(self, high: bool) -> u32 {
        if high {
            // SAFETY: as in `seen`.
            unsafe { (*self.flow).high.ifindex }
        } else {
            // SAFETY: as in `seen`.
            unsafe { (*self.flow).low.ifindex }
        }
    }

    /// An end.
    #[inline(always)]
    pub(crate) fn end(self, high: bool) -> End {
        if high {
            // SAFETY: as in `seen`.
            unsafe { (*self.flow).high }
        } else {
            // SAFETY: as in `seen`.
            unsafe { (*self.flow).low }
        }
    }

    /// Notes a packet of the flow.
    #[inline(always)]
    pub(crate) fn note(self, from_high: bool, flags: u8, now: u64) {
        if flags & (FIN | RST) != 0 {
            let state = self.state() | bits(from_high, flags);
            // SAFETY: as in `seen`; programs may write values of these maps.
            unsafe { (*self.flow).state = state };
        }
        if now.saturating_sub(self.seen()) > SECOND {
            // SAFETY: likewise.
            unsafe { (*self.flow).seen = now };
        }
    }

    /// Writes what policy says of it now: the ends and the revision of what was judged.
    #[inline(always)]
    pub(crate) fn stamp(self, judged: &Flow) {
        // SAFETY: as in `note`.
        copy(&judged.low, unsafe { &raw mut (*self.flow).low });
        // SAFETY: as in `note`.
        copy(&judged.high, unsafe { &raw mut (*self.flow).high });
        // SAFETY: as in `note`.
        let place = unsafe { &raw mut (*self.flow).revision };
        // Last: who finds the new revision on another CPU shall find the new ends.
        barrier();
        // SAFETY: as in `note`.
        unsafe { place.write_volatile(judged.revision) };
    }

    /// Moves it to the flows of which both ends were heard, when this packet is an answer to the one that opened it.
    #[inline(always)]
    pub(crate) fn answered(self, key: &OnStack<FlowKey>, from_high: bool) {
        if self.is_embryo && !self.was_opened_by(from_high) {
            establish(key, self.flow);
        }
    }
}

/// Copies an embryo to the established flows, and takes it away. Not inlined, as the copy wants the stack to itself.
#[inline(never)]
fn establish(key: &OnStack<FlowKey>, embryo: *const Flow) {
    // SAFETY: as in `Entry::seen`, whose pointer this is.
    let flow = unsafe { embryo.read() };
    // A full map gives up its least recently used entry; where it cannot, the embryo stays one.
    if FLOWS.insert(&key.0, &flow, 0).is_ok() {
        forget(EMBRYOS.remove(&key.0));
    }
}

/// Bits of a state that a packet's flags set.
#[inline(always)]
pub(crate) const fn bits(from_high: bool, flags: u8) -> u32 {
    let fin = if flags & FIN == 0 {
        0
    } else if from_high {
        HIGH_FIN
    } else {
        LOW_FIN
    };
    let reset = if flags & RST == 0 { 0 } else { RESET };
    fin | reset
}

/// Begins a flow, or begins it anew.
#[inline(always)]
pub(crate) fn begin(key: &OnStack<FlowKey>, flow: &Flow) -> bool {
    // A connection of the same ends that is no more.
    forget(FLOWS.remove(&key.0));
    EMBRYOS.insert(&key.0, flow, 0).is_ok()
}

/// Ends a flow of the short way.
#[inline(always)]
pub(crate) fn end(key: &OnStack<FlowKey>) {
    forget(FLOWS.remove(&key.0));
    forget(EMBRYOS.remove(&key.0));
}

/// Whether the stack has the flow; if so, it has had a packet of it just now.
#[inline(always)]
pub(crate) fn is_stacked(key: &OnStack<FlowKey>, now: u64) -> bool {
    let Some(stacked) = STACKED.get_ptr_mut(&key.0) else {
        return false;
    };
    if !is_stacked_since(stacked, now, margay_ebpf_common::flow::STACKED_TIMEOUT) {
        return false;
    }
    // SAFETY: the kernel gave this pointer, not null, to the map's value, which programs may write.
    unsafe { (*stacked).seen = now };
    true
}

/// Notes that the stack has the flow.
#[inline(always)]
pub(crate) fn stack(key: &OnStack<FlowKey>, now: u64) {
    forget(STACKED.insert(&key.0, Stacked { seen: now }, 0));
    end(key);
}

/// Whether that was noted within the last second.
#[inline(always)]
pub(crate) fn is_just_stacked(key: &OnStack<FlowKey>, now: u64) -> bool {
    STACKED.get_ptr_mut(&key.0).is_some_and(|stacked| is_stacked_since(stacked, now, SECOND))
}

#[inline(always)]
fn is_stacked_since(stacked: *mut Stacked, now: u64, span: u64) -> bool {
    // SAFETY: the kernel gave this pointer, not null, to the map's value, which is readable while this program runs.
    now.saturating_sub(unsafe { (*stacked).seen }) <= span
}

/// An entry that is not there need not go, and one that cannot be made is made at the flow's next packet.
#[inline(always)]
pub(crate) const fn forget(_result: Result<(), i32>) {}
