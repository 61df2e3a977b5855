//! What policy says of a flow.
//!
//! It only reads maps that the agent writes. The caller reads the revision before and this after them: only what was judged
//! by one state of the maps counts.

use aya_ebpf::maps::lpm_trie::Key;
use margay_ebpf_common::{
    address::Address,
    denial,
    endpoint::Endpoint,
    flow::{End, Flow, FlowKey, OPENED_BY_HIGH},
    verdict::{ALLOW, ANY_CLASS, CLUSTER, EGRESS, INGRESS, ISOLATE, NO_CLASS, TELL, VerdictKey},
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

/// What policy says of a flow: one of the constants, or who denies it.
///
/// A number, since kernel programs return no more; and an enumeration would have registers without a value, which the compiler moves about and
/// the verifier does not let it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ruling(pub(crate) u64);

impl Ruling {
    /// It plainly allows it.
    pub(crate) const ALLOWED: Self = Self(u64::MAX);
    /// That is for the stack to say, which tells of it.
    pub(crate) const REFERRED: Self = Self(u64::MAX - 1);

    #[inline(always)]
    const fn denied(by: u32, number: u32) -> Self {
        Self((by as u64) << 32 | number as u64)
    }

    /// Who denies it, if somebody does.
    #[inline(always)]
    pub(crate) const fn by(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// With which number.
    #[inline(always)]
    pub(crate) const fn number(self) -> u32 {
        self.0 as u32
    }
}

/// What policy says of a flow at each end that is on this node, that of its opener first. The flow has the links of its
/// ends, and who opens it; set is how packets to the ends go, if it is allowed.
#[inline(always)]
pub(crate) fn judge(key: &OnStack<FlowKey>, flow: &mut Flow, has_begun: bool) -> Ruling {
    let FlowKey { low, high, low_port, high_port, protocol, .. } = &key.0;
    // One end at least is here, or nobody has judged anything.
    if flow.low.ifindex == 0 && flow.high.ifindex == 0 {
        return Ruling::REFERRED;
    }
    let to = |port: &[u8; 2], is_opener| To { port: *port, protocol: *protocol, has_begun, is_opener };
    if flow.state & OPENED_BY_HIGH == 0 {
        let said = ruling(&mut flow.low, high, to(high_port, true));
        if said == Ruling::ALLOWED { ruling(&mut flow.high, low, to(high_port, false)) } else { said }
    } else {
        let said = ruling(&mut flow.high, low, to(low_port, true));
        if said == Ruling::ALLOWED { ruling(&mut flow.low, high, to(low_port, false)) } else { said }
    }
}

/// What is asked at one end.
#[derive(Clone, Copy)]
struct To {
    /// Of the end that did not open the flow, in network order.
    port: [u8; 2],
    protocol: u8,
    /// Whether it has begun, and is judged anew.
    has_begun: bool,
    /// Whether this end opens it.
    is_opener: bool,
}

/// What policy says of it at one end, if that is here.
///
/// Not inlined, as its keys want the stack to themselves.
#[inline(never)]
fn ruling(end: &mut End, other: &Address, to: To) -> Ruling {
    if end.ifindex == 0 {
        return Ruling::ALLOWED;
    }
    let Some(endpoint) = value!(ENDPOINTS, &end.ifindex) else {
        return Ruling::REFERRED;
    };
    *end = end_of(end.ifindex, &endpoint);
    let (set, way) = if to.is_opener { (endpoint.egress, EGRESS) } else { (endpoint.ingress, INGRESS) };
    if set == 0 {
        return Ruling::ALLOWED;
    }
    let class = Prefix::of(other).class();
    let key = VerdictKey { set, class, way, protocol: to.protocol, port: to.port };
    match verdict(key) {
        ALLOW => Ruling::ALLOWED,
        TELL if to.has_begun => Ruling::ALLOWED,
        ISOLATE => Ruling::denied(if to.is_opener { denial::EGRESS } else { denial::INGRESS }, set),
        cause if cause & CLUSTER != 0 => Ruling::denied(denial::CLUSTER, cause & !CLUSTER),
        _ => Ruling::REFERRED,
    }
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

/// The entry with the longest prefix; where the class has none at all, that of the classes without entries of their own. 0 where that has none.
#[inline(always)]
fn verdict(what: VerdictKey) -> u32 {
    let mut key = Prefix::new(VerdictKey::PORT, what);
    if let Some(verdict) = VERDICTS.get(&key.key) {
        return *verdict;
    }
    key.key.data.class = ANY_CLASS;
    VERDICTS.get(&key.key).copied().unwrap_or_default()
}
