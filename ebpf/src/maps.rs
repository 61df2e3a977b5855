//! The maps that the agent and the programs share; `margay-ebpf-common` says what is in them.
//!
//! Sizes are those of [`capacity`], unless whoever loads them says else.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use margay_ebpf_common::{
    address::Address,
    capacity,
    control::{self, Control},
    counter::{self, Counter},
    denial::Denial,
    endpoint::Endpoint,
    event,
    flow::{Flow, FlowKey, FragmentKey, Stacked},
    tunnel::{Tunnel, TunnelKey},
    verdict::VerdictKey,
};

use crate::flow::forget;

/// One [`Control`].
#[map(name = "CONTROL")]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(control::ENTRIES, 0);

/// Pod links by the index of their host ends.
#[map(name = "ENDPOINTS")]
pub(crate) static ENDPOINTS: HashMap<u32, Endpoint> = HashMap::with_max_entries(capacity::ENDPOINTS, 0);

/// Indices of the links of this node's pods by address.
#[map(name = "LOCAL")]
pub(crate) static LOCAL: HashMap<Address, u32> = HashMap::with_max_entries(capacity::LOCAL, 0);

/// The interfaces that lead to other nodes.
#[map(name = "UPLINKS")]
pub(crate) static UPLINKS: HashMap<u32, u32> = HashMap::with_max_entries(capacity::UPLINKS, 0);

/// What is put before packets to other nodes, by device and next hop.
#[map(name = "TUNNELS")]
pub(crate) static TUNNELS: HashMap<TunnelKey, Tunnel> =
    HashMap::with_max_entries(capacity::TUNNELS, BPF_F_NO_PREALLOC);

/// Classes of addresses.
#[map(name = "ADDRESSES")]
pub(crate) static ADDRESSES: HashMap<Address, u32> =
    HashMap::with_max_entries(capacity::ADDRESSES, BPF_F_NO_PREALLOC);

/// Classes of ranges of addresses.
#[map(name = "RANGES")]
pub(crate) static RANGES: LpmTrie<Address, u32> = LpmTrie::with_max_entries(capacity::RANGES, 0);

/// Ranges of addresses that are pods'.
#[map(name = "PODS")]
pub(crate) static PODS: LpmTrie<Address, u32> = LpmTrie::with_max_entries(capacity::PODS, 0);

/// What policy sets say.
#[map(name = "VERDICTS")]
pub(crate) static VERDICTS: LpmTrie<VerdictKey, u32> = LpmTrie::with_max_entries(capacity::VERDICTS, 0);

/// Flows of the short way of which both ends were heard.
#[map(name = "FLOWS")]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(capacity::FLOWS, 0);

/// Those of which one was.
#[map(name = "EMBRYOS")]
pub(crate) static EMBRYOS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(capacity::EMBRYOS, 0);

/// Flows of the stack.
#[map(name = "STACKED")]
pub(crate) static STACKED: LruHashMap<FlowKey, Stacked> = LruHashMap::with_max_entries(capacity::STACKED, 0);

/// Flows of packets in fragments.
#[map(name = "FRAGMENTS")]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FlowKey> =
    LruHashMap::with_max_entries(capacity::FRAGMENTS, 0);

/// Packets that were dropped, by why.
#[map(name = "DENIALS")]
pub(crate) static DENIALS: PerCpuHashMap<Denial, u64> =
    PerCpuHashMap::with_max_entries(capacity::DENIALS, BPF_F_NO_PREALLOC);

/// Flows that begin and packets that are dropped, while somebody listens.
#[map(name = "EVENTS")]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(event::OCTETS, 0);

#[map(name = "COUNTERS")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::ENTRIES, 0);

/// Counts a packet.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_at(counter.index());
}

/// Likewise, by the index in the map.
#[inline(always)]
pub(crate) fn count_at(index: u32) {
    // The verifier wants the test for null on every path, although the index is always in range.
    if let Some(packets) = COUNTERS.get_ptr_mut(index) {
        add_one(packets);
    }
}

/// Counts a packet that is dropped, unless there are more reasons than the map has room for. Not inlined: the key wants the stack to itself.
#[inline(never)]
pub(crate) fn count_denial(by: u32, number: u32) {
    let denial = Denial { by, number };
    // The first of its reason. Where another CPU was first, that is no harm.
    if DENIALS.get_ptr_mut(&denial).is_none() {
        forget(DENIALS.insert(&denial, &0, u64::from(BPF_NOEXIST)));
    }
    if let Some(packets) = DENIALS.get_ptr_mut(&denial) {
        add_one(packets);
    }
}

/// Adds one to a value of this CPU.
#[inline(always)]
fn add_one(packets: *mut u64) {
    // SAFETY: the kernel gave this pointer, not null, to this CPU's own value, which is there while this program runs.
    let now = unsafe { packets.read() };
    // SAFETY: likewise. A program is preempted by another one on its CPU by real-time kernels alone (`PREEMPT_RT`, since Linux 6.18 without
    // `PREEMPT_RT_NEEDS_BH_LOCK`): there, one of their packets may not be counted.
    unsafe { packets.write(now.wrapping_add(1)) };
}

/// What the agent says of the other maps now.
#[inline(always)]
pub(crate) fn control() -> Control {
    let Some(control) = CONTROL.get_ptr(0) else {
        return Control { revision: 0, flags: 0 };
    };
    // SAFETY: the kernel gave this pointer, not null, to the map's value, which lives as long as the map. The agent may write
    // it meanwhile: the revision first when it begins and last when it has done.
    unsafe { control.read_volatile() }
}

/// The value of a key, copied. Its memory may become another key's while it is read, but not sooner than the packet is done
/// with (RCU), and maps that the agent writes are judged by the revision.
macro_rules! value {
    ($map:expr, $key:expr) => {
        match $map.get_ptr($key) {
            // SAFETY: the kernel gave this pointer, not null, to a value that is readable while this program runs.
            Some(value) => Some(unsafe { value.read() }),
            None => None,
        }
    };
}
pub(crate) use value;
