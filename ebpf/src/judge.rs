//! Whether policy plainly allows a flow.
//!
//! It only reads maps that the agent writes. The caller reads the revision before and this after them: only what was judged
//! by one state of the maps counts.

use aya_ebpf::maps::lpm_trie::Key;
use margay_ebpf_common::{
    address::Address,
    endpoint::Endpoint,
    flow::{End, Flow, FlowKey, OPENED_BY_HIGH},
    verdict::{ALLOW, ANY_CLASS, EGRESS, INGRESS, NO_CLASS, TELL, VerdictKey},
};

use crate::{
    maps::{ADDRESSES, ENDPOINTS, LOCAL, PODS, RANGES, VERDICTS, value},
    words::{OnStack, Zero},
};

/// Bits of an address.
const HOST: u32 = 128;

// SAFETY: integers and octets.
unsafe impl Zero for Flow {}

/// A key of a trie on the stack, where the verifier wants what stands behind the length of the prefix to be aligned.
#[repr(C, align(8))]
pub(crate) struct Prefix<T> {
    padding: u32,
    key: Key<T>,
}

impl<T> Prefix<T> {
    #[inline(always)]
    const fn new(bits: u32, of: T) -> Self {
        Self { padding: 0, key: Key::new(bits, of) }
    }
}

/// A whole address, which the hashes take too.
impl Prefix<Address> {
    /// A copy of an address, on the stack.
    #[inline(always)]
    pub(crate) const fn of(address: &Address) -> Self {
        Self::new(HOST, *address)
    }

    /// The link of a pod of this node; 0 when the address is of none.
    #[inline(always)]
    pub(crate) fn local(&self) -> u32 {
        local(&self.key.data)
    }

    /// Whether the address is of a pod, on whatever node.
    #[inline(always)]
    pub(crate) fn is_pod(&self) -> bool {
        PODS.get(&self.key).is_some()
    }

    #[inline(always)]
    fn class(&self) -> u32 {
        if let Some(class) = value!(ADDRESSES, &self.key.data) {
            return class;
        }
        RANGES.get(&self.key).copied().unwrap_or(NO_CLASS)
    }
}

/// The link of a pod of this node; 0 when the address is of none.
#[inline(always)]
pub(crate) fn local(address: &Address) -> u32 {
    value!(LOCAL, address).unwrap_or(0)
}

/// Whether policy allows a flow at each end that is on this node. The flow has the links of its ends, and who opens it; set is how packets
/// to the ends go.
///
/// Not inlined, as its keys want the stack to themselves.
#[inline(never)]
pub(crate) fn judge(key: &OnStack<FlowKey>, flow: &mut Flow, has_begun: bool) -> bool {
    let FlowKey { low, high, low_port, high_port, protocol, .. } = &key.0;
    let opened_by_high = flow.state & OPENED_BY_HIGH != 0;
    let port = if opened_by_high { *low_port } else { *high_port };
    let to = To { port, protocol: *protocol, has_begun };
    // One end at least is here, or nobody has judged anything.
    (flow.low.ifindex != 0 || flow.high.ifindex != 0)
        && allows_at(&mut flow.low, high, !opened_by_high, to)
        && allows_at(&mut flow.high, low, opened_by_high, to)
}

/// What a flow is for.
#[derive(Clone, Copy)]
struct To {
    /// Of the end that did not open it, in network order.
    port: [u8; 2],
    protocol: u8,
    /// Whether it has begun, and is judged anew.
    has_begun: bool,
}

/// Whether policy allows it at one end, if that is here.
#[inline(always)]
fn allows_at(end: &mut End, other: &Address, is_opener: bool, to: To) -> bool {
    if end.ifindex == 0 {
        return true;
    }
    let Some(endpoint) = value!(ENDPOINTS, &end.ifindex) else {
        return false;
    };
    *end = end_of(end.ifindex, &endpoint);
    let (set, way) = if is_opener { (endpoint.egress, EGRESS) } else { (endpoint.ingress, INGRESS) };
    if set == 0 {
        return true;
    }
    let class = Prefix::of(other).class();
    allows(VerdictKey { set, class, way, protocol: to.protocol, port: to.port }, to.has_begun)
}

/// How packets to a pod of this node go.
#[inline(always)]
const fn end_of(ifindex: u32, endpoint: &Endpoint) -> End {
    End {
        ifindex,
        mtu: endpoint.mtu,
        mac: endpoint.mac,
        flags: endpoint.flags as u16,
        host_mac: endpoint.host_mac,
        padding: [0; 2],
    }
}

/// The entry with the longest prefix; where the class has none at all, that of the classes without entries of their own.
#[inline(always)]
fn allows(what: VerdictKey, has_begun: bool) -> bool {
    let passes = |verdict: u32| verdict == ALLOW || (has_begun && verdict == TELL);
    let mut key = Prefix::new(VerdictKey::PORT, what);
    if let Some(verdict) = VERDICTS.get(&key.key) {
        return passes(*verdict);
    }
    key.key.data.class = ANY_CLASS;
    VERDICTS.get(&key.key).is_some_and(|verdict| passes(*verdict))
}
