//! The socket options and the question to a network device that no library has.
#![expect(unsafe_code, reason = "there is no other way to set these options")]

use std::{
    ffi::{c_char, c_int, c_ulong},
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
};

use margay_netlink::link::IfName;

/// `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM` (`linux/ethtool.h`).
const IS_TX_CHECKSUM_ON: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Has a socket send its packets whole or not at all, whatever the kernel believes of the way: what is too long for a link is
/// dropped there.
pub(super) fn never_fragment(socket: &impl AsRawFd, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    }
}

/// Has a socket of UDP send without a checksum, and take what has none.
pub(super) fn without_checksum(socket: &impl AsRawFd, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        return set(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
    }
    set(socket, libc::IPPROTO_UDP, libc::UDP_NO_CHECK6_TX, 1)?;
    set(socket, libc::IPPROTO_UDP, libc::UDP_NO_CHECK6_RX, 1)
}

/// Whether a device has checksums computed by what is beneath it.
pub(crate) fn has_tx_checksum_offload(device: &IfName) -> io::Result<bool> {
    Ok(ethtool(device, IS_TX_CHECKSUM_ON, 0)? != 0)
}

/// Has it do so, or the kernel before the packets come to it. Takes `CAP_NET_ADMIN`.
pub(crate) fn set_tx_checksum_offload(device: &IfName, on: bool) -> io::Result<()> {
    ethtool(device, SET_TX_CHECKSUM, u32::from(on)).map(drop)
}

fn set(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length are those of a value that lives through the call, and the kernel copies it.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn ethtool(device: &IfName, command: u32, data: u32) -> io::Result<u32> {
    // Any socket will do: it says which network namespace is meant, whose loopback interface may be down.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut value = EthtoolValue { command, data };
    // SAFETY: it is a structure of numbers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A name of an interface is shorter than the field, which stays ended by a zero. A character of C has a sign on some machines.
    for (to, from) in request.ifr_name.iter_mut().zip(device.to_string().bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    let number: c_ulong = libc::SIOCETHTOOL;
    // SAFETY: the request points to a value of the form that both commands have, and both live through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), number, std::ptr::from_mut(&mut request)) };
    if result == 0 { Ok(value.data) } else { Err(io::Error::last_os_error()) }
}
