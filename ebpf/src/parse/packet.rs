//! The only way to the octets of a packet.
//!
//! What stands at a place known when this is compiled is read and written in place: one comparison, no call, and the
//! headers of nearly every packet stand there. What is farther is copied out by the kernel, which checks the bounds
//! itself. The verifier forgets what it knows of a packet's memory with each call that may move it, so a pointer
//! never outlives the function that made it.

use core::{
    mem::{MaybeUninit, size_of},
    ptr,
};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_skb_load_bytes, bpf_skb_pull_data},
};

use super::wire::Plain;

/// On the stack the verifier wants fields that are read by words to be aligned.
#[repr(C, align(8))]
struct Aligned<T>(T);

/// A packet, from its Ethernet header, or from its IP header where it has no other.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    skb: *mut __sk_buff,
}

/// Fields of the packet that the kernel keeps beside it.
macro_rules! field {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(self) -> u32 {
            // SAFETY: the context that the kernel gave to the program, which lives as long as its run.
            unsafe { (*self.skb).$name }
        }
    };
}

impl Packet {
    /// Of the context that the kernel gave.
    pub(crate) const fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    field!(
        /// Octets, of headers and all segments that it is to be cut into.
        len
    );
    field!(
        /// Whom its Ethernet destination means.
        pkt_type
    );
    field!(
        /// Whether the network card took a VLAN tag from it.
        vlan_present
    );
    field!(
        /// The interface that it is at.
        ifindex
    );
    field!(
        /// Its `EtherType`, in network order, also where it has no Ethernet header.
        protocol
    );
    field!(
        /// Octets of payload of each segment that it is to be cut into; 0: it is one.
        gso_size
    );

    /// The word that [`SHORT_MARK`](margay_ebpf_common::flow::SHORT_MARK) stands in.
    #[inline(always)]
    pub(crate) fn tc_index(self) -> u32 {
        // SAFETY: as in `field`.
        unsafe { (*self.skb).tc_index }
    }

    /// Sets that word, if it has another value: most packets have none and need none.
    #[inline(always)]
    pub(crate) fn set_tc_index(self, value: u32) {
        if self.tc_index() != value {
            // SAFETY: as in `field`; the kernel lets classifiers write this one.
            unsafe { (*self.skb).tc_index = value };
        }
    }

    /// What helpers want.
    #[inline(always)]
    pub(crate) const fn as_ptr(self) -> *mut __sk_buff {
        self.skb
    }

    /// Makes the first `OCTETS` readable in place, or as many as there are, if a network card has put them elsewhere.
    ///
    /// No more than the headers: TCP sends what it keeps for another time, headers alone in front and the payload elsewhere, and
    /// one octet of payload asked for has the kernel copy the head (`__pskb_pull_tail`), some 4 % of a request and its response.
    #[inline(always)]
    pub(crate) fn pull<const OCTETS: usize>(self) {
        if self.at::<[u8; OCTETS]>(0).is_none() {
            let octets = const { OCTETS as u32 };
            let wanted = if self.len() < octets { self.len() } else { octets };
            // What cannot be pulled is not read: the accesses that follow have comparisons of their own.
            // SAFETY: the context of this run. No pointer into the packet exists here.
            unsafe { bpf_skb_pull_data(self.skb, wanted) };
        }
    }

    /// The octets at a place that is known beforehand, if they are all there.
    #[inline(always)]
    pub(crate) fn read<T: Plain>(self, offset: usize) -> Option<T> {
        let start = self.at::<T>(offset)?;
        // SAFETY: `at` compared the end of these octets with the end of the packet; no alignment is asked.
        Some(unsafe { ptr::read_unaligned(start) })
    }

    /// The octets at any place, if they are all there.
    #[inline(always)]
    pub(crate) fn read_far<T: Plain>(self, offset: u32) -> Option<T> {
        let mut value = Aligned(MaybeUninit::<T>::uninit());
        let octets = const { size_of::<T>() as u32 };
        // SAFETY: the kernel writes as many octets as `value` has, or zeros and returns an error.
        let refused =
            unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, value.0.as_mut_ptr().cast(), octets) };
        if refused != 0 {
            return None;
        }
        // SAFETY: the kernel wrote all of its octets, and `Plain` has a value for each of them.
        Some(unsafe { value.0.assume_init() })
    }

    /// Writes octets at a place that is known beforehand, if it is all there.
    ///
    /// The kernel has made the head of the packet this packet's own before the program began, as the program writes there.
    #[inline(always)]
    pub(crate) fn write<T: Plain>(self, offset: usize, octets: T) -> Option<()> {
        let start = self.at::<T>(offset)?;
        // SAFETY: as in `read`.
        unsafe { ptr::write_unaligned(start, octets) };
        Some(())
    }

    /// The verifier (seen with 6.18) knows a packet's bounds by this comparison alone: start, plus a constant, with the end.
    #[inline(always)]
    fn at<T: Plain>(self, offset: usize) -> Option<*mut T> {
        // SAFETY: as in `field`.
        let start = unsafe { (*self.skb).data } as usize;
        // SAFETY: as in `field`.
        let end = unsafe { (*self.skb).data_end } as usize;
        if start + offset + size_of::<T>() > end {
            return None;
        }
        Some((start + offset) as *mut T)
    }
}
