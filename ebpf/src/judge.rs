//! Whether policy plainly allows a flow.
//!
//! It only reads maps that the agent writes. The caller reads the revision before and this after them: only what was judged
//! by one state of the maps counts.

use aya_ebpf::maps::lpm_trie::Key;
use margay_ebpf_common::{
    address::Address,
    endpoint::Endpoint,
    flow::End,
    verdict::{ALLOW, ANY_CLASS, EGRESS, INGRESS, NO_CLASS, TELL, VerdictKey},
};

use crate::{
    maps::{ADDRESSES, ENDPOINTS, LOCAL, PODS, RANGES, VERDICTS, value},
    words::{OnStack, Zero},
};

/// Bits of an address.
const HOST: u32 = 128;

/// A flow that asks to begin: what its opener sends, but for the addresses.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Opening {
    /// Link of the end that opens it; 0: on another node.
    pub(crate) source_ifindex: u32,
    /// Link of the other end, likewise.
    pub(crate) destination_ifindex: u32,
    /// Port of the other end, in network order.
    pub(crate) port: [u8; 2],
    /// Protocol number.
    pub(crate) protocol: u8,
    /// Whether it has begun, and is judged anew; 0 or 1.
    pub(crate) has_begun: u8,
    /// Zero.
    pub(crate) padding: [u8; 4],
    /// Set by [`judge`]: how packets to the first end go.
    pub(crate) source_end: OnStack<End>,
    /// Set by [`judge`]: how packets to the second end go.
    pub(crate) destination_end: OnStack<End>,
}

// SAFETY: integers and octets.
unsafe impl Zero for Opening {}

/// A key of a trie on the stack, where the verifier wants what stands behind the length of the prefix to be aligned.
#[repr(C, align(8))]
struct Prefix<T> {
    padding: u32,
    key: Key<T>,
}

impl<T> Prefix<T> {
    #[inline(always)]
    const fn new(bits: u32, of: T) -> Self {
        Self { padding: 0, key: Key::new(bits, of) }
    }
}

/// The link of a pod of this node; 0 when the address is of none.
#[inline(always)]
pub(crate) fn local(address: &Address) -> u32 {
    value!(LOCAL, address).unwrap_or(0)
}

/// Whether the address is of a pod, on whatever node.
#[inline(always)]
pub(crate) fn is_pod(address: &Address) -> bool {
    let key = Prefix::new(HOST, *address);
    PODS.get(&key.key).is_some()
}

/// Whether policy allows it at each end that is on this node, and how packets go to these.
#[inline(never)]
pub(crate) fn judge(source: &Address, destination: &Address, opening: &mut Opening) -> bool {
    let protocol = opening.protocol;
    let has_begun = opening.has_begun != 0;
    if opening.source_ifindex != 0 {
        let Some(endpoint) = value!(ENDPOINTS, &opening.source_ifindex) else {
            return false;
        };
        opening.source_end.0 = end(opening.source_ifindex, &endpoint);
        if endpoint.egress != 0 {
            let what = OnStack(VerdictKey {
                set: endpoint.egress,
                class: class(destination),
                way: EGRESS,
                protocol,
                port: opening.port,
            });
            if !allows(what, has_begun) {
                return false;
            }
        }
    }
    if opening.destination_ifindex != 0 {
        let Some(endpoint) = value!(ENDPOINTS, &opening.destination_ifindex) else {
            return false;
        };
        opening.destination_end.0 = end(opening.destination_ifindex, &endpoint);
        if endpoint.ingress != 0 {
            let what = OnStack(VerdictKey {
                set: endpoint.ingress,
                class: class(source),
                way: INGRESS,
                protocol,
                port: opening.port,
            });
            if !allows(what, has_begun) {
                return false;
            }
        }
    }
    // One end at least is here, or nobody has judged anything.
    opening.source_ifindex != 0 || opening.destination_ifindex != 0
}

/// How packets to a pod of this node go.
#[inline(always)]
const fn end(ifindex: u32, endpoint: &Endpoint) -> End {
    End {
        ifindex,
        mtu: endpoint.mtu,
        mac: endpoint.mac,
        flags: endpoint.flags as u16,
        host_mac: endpoint.host_mac,
        padding: [0; 2],
    }
}

#[inline(always)]
fn class(address: &Address) -> u32 {
    if let Some(class) = value!(ADDRESSES, address) {
        return class;
    }
    let key = Prefix::new(HOST, *address);
    RANGES.get(&key.key).copied().unwrap_or(NO_CLASS)
}

/// The entry with the longest prefix; where the class has none at all, that of the classes without entries of their own.
#[inline(always)]
fn allows(what: OnStack<VerdictKey>, has_begun: bool) -> bool {
    let passes = |verdict: u32| verdict == ALLOW || (has_begun && verdict == TELL);
    let mut key = Prefix::new(VerdictKey::PORT, what.0);
    if let Some(verdict) = VERDICTS.get(&key.key) {
        return passes(*verdict);
    }
    key.key.data.class = ANY_CLASS;
    VERDICTS.get(&key.key).is_some_and(|verdict| passes(*verdict))
}
