//! The socket options that no library has: TCP MD5 signatures and the least time to live.
#![expect(unsafe_code, reason = "there is no other way to set these options")]

use std::ffi::c_int;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use crate::config::Password;
use crate::prefix::Prefix;

/// `TCP_MD5SIG_FLAG_PREFIX`: the key is for all addresses of a prefix. Linux 4.13.
const FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct TcpMd5Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    ifindex: c_int,
    key: [u8; crate::config::LONGEST_PASSWORD],
}

/// Has a socket sign and check the segments of all peers in the prefix (RFC 2385); without a password no longer.
pub(super) fn set_md5(socket: &impl AsRawFd, peers: Prefix, password: Option<&Password>) -> io::Result<()> {
    let address = socket2::SockAddr::from(std::net::SocketAddr::new(peers.address(), 0));
    let secret = password.map(|Password(secret)| secret.as_bytes()).unwrap_or_default();
    let mut key = [0; crate::config::LONGEST_PASSWORD];
    // The configuration was checked: longer ones do not get here.
    for (octet, known) in key.iter_mut().zip(secret) {
        *octet = *known;
    }
    let mut storage = address.as_storage();
    // The kernel looks at the family and the address alone, whose layout is the same.
    let option = TcpMd5Signature {
        // SAFETY: both are `struct sockaddr_storage` of the C library.
        address: unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_storage>().read() },
        flags: FLAG_PREFIX,
        prefix_length: peers.length(),
        key_length: u16::try_from(secret.len()).unwrap_or(u16::MAX),
        ifindex: 0,
        key,
    };
    match set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, &option) {
        // Taking away a key that is not there.
        Err(error) if password.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Has the kernel drop what arrives with a smaller time to live, or hop limit (RFC 5082).
pub(super) fn set_least_ttl(socket: &impl AsRawFd, peer: IpAddr, ttl: u8) -> io::Result<()> {
    let value = c_int::from(ttl);
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &value),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &value),
    }
}

fn set<T>(socket: &impl AsRawFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length are those of a value that lives through the call, and the kernel copies it.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
