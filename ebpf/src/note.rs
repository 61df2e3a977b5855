//! What the stack sends between pods is noted: it may have been translated, and then its answers must be translated back.

use core::mem::MaybeUninit;

use margay_ebpf_common::{
    address::Address,
    flow::{SHORT_MARK, UDP},
};

use crate::{
    flow::{self, Whose},
    judge::{self, Prefix},
    parse::{self, Headers, Kind, Packet},
    words::zero,
};

/// Looks at a packet on its way out, whose IP header stands behind `LINK` octets.
#[inline(always)]
pub(crate) fn note<const LINK: u32>(packet: Packet) {
    // It keeps its mark: the interface may be a VLAN's or a tunnel's, and the packet comes by again at the one beneath.
    if packet.tc_index() == SHORT_MARK {
        return;
    }
    let mut headers = MaybeUninit::uninit();
    let headers = &mut zero::<Headers, 8>(&mut headers).0;
    match parse::parse::<LINK>(packet, headers) {
        Kind::Whole | Kind::First => {}
        _ => return,
    }
    // Other packets of TCP take the short way only with an entry, which the first of a connection ends.
    if headers.protocol != UDP && !headers.is_opening() {
        return;
    }
    let whose = Whose::of(headers);
    let now = flow::now();
    if flow::is_just_stacked(&whose.key, now) {
        return;
    }
    if is_pod(&headers.source) && is_pod(&headers.destination) {
        flow::stack(&whose.key, now);
    }
}

#[inline(always)]
fn is_pod(address: &Address) -> bool {
    judge::local(address) != 0 || Prefix::of(address).is_pod()
}
