//! Headers as they stand in packets: octets, and numbers as their octets in network order.

/// What octets may be read into.
///
/// # Safety
/// The type has no padding, and a value for every bit pattern.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: octets.
unsafe impl<const N: usize> Plain for [u8; N] {}

// SAFETY: a number.
unsafe impl Plain for u32 {}

// SAFETY: numbers.
unsafe impl<const N: usize> Plain for [u32; N] {}

macro_rules! plain {
    ($of:ty) => {
        // SAFETY: `repr(C)` of octets and arrays of octets.
        unsafe impl Plain for $of {}
    };
}

/// RFC 791 section 3.1, without options.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv4 {
    pub(crate) version_and_length: u8,
    pub(crate) service: u8,
    pub(crate) length: [u8; 2],
    pub(crate) identification: [u8; 2],
    pub(crate) fragment: [u8; 2],
    pub(crate) hops: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: [u8; 2],
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
}

plain!(Ipv4);

/// RFC 8200 section 3.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv6 {
    pub(crate) class: [u8; 4],
    pub(crate) length: [u8; 2],
    pub(crate) next: u8,
    pub(crate) hops: u8,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
}

plain!(Ipv6);

/// What an IPv6 fragment says (RFC 8200 section 4.5).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Fragment {
    pub(crate) next: u8,
    pub(crate) reserved: u8,
    pub(crate) offset: [u8; 2],
    pub(crate) identification: [u8; 4],
}

plain!(Fragment);

/// What TCP, UDP and their like begin with.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ports {
    pub(crate) source: [u8; 2],
    pub(crate) destination: [u8; 2],
}

plain!(Ports);

/// RFC 9293 section 3.1.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Tcp {
    pub(crate) ports: Ports,
    pub(crate) sequence: [u8; 8],
    pub(crate) length: u8,
    pub(crate) flags: u8,
    pub(crate) rest: [u8; 6],
}

plain!(Tcp);

/// RFC 768.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Udp {
    pub(crate) ports: Ports,
    pub(crate) length_and_checksum: [u8; 4],
}

plain!(Udp);
