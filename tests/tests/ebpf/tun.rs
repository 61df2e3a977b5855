//! A device whose packets have no link-layer header, with a tunnel of IP-in-IP behind it that this program is: of the kernels
//! that tests run on not all have one.
#![expect(unsafe_code, reason = "devices of this kind are made by ioctl alone")]

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    process::Command,
    thread::{self, JoinHandle},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::world::ip;

const CLONE_DEVICE: &str = "/dev/net/tun";
/// `IFF_TUN | IFF_NO_PI` (`linux/if_tun.h`).
const PACKETS_ALONE: u16 = 0x1001;
/// `ETHTOOL_STXCSUM` (`linux/ethtool.h`).
const SET_TX_CHECKSUM: u32 = 0x17;
const IPV4_IN_IPV4: i32 = 4;
/// Of a packet that nobody has cut up.
const LARGEST: usize = 1 << 16;

/// `struct ifreq` with flags.
#[repr(C)]
struct SetTun {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Likewise with a pointer, and what that leads to.
#[repr(C)]
struct Ethtool {
    name: [u8; 16],
    data: *mut [u32; 2],
    rest: [u8; 16],
}

nix::ioctl_write_ptr_bad!(set_tun, 0x4004_54ca, SetTun);
nix::ioctl_readwrite_bad!(ethtool, 0x8946, Ethtool);

fn name_of(device: &str) -> [u8; 16] {
    let mut name = [0; 16];
    name[..device.len()].copy_from_slice(device.as_bytes());
    name
}

/// Makes a device in the current namespace, which is up as long as the file is open: what is written to it the node receives, and what it
/// sends is read from it.
pub(crate) fn device(name: &str, mtu: u32) -> File {
    let open = || OpenOptions::new().read(true).write(true).open(CLONE_DEVICE);
    let file = open().or_else(|_| {
        // Where it is a module that nothing has asked for.
        Command::new("modprobe").arg("tun").status()?;
        open()
    });
    let file = file.unwrap_or_else(|error| panic!("open {CLONE_DEVICE}: {error}; is the module tun there?"));
    let request = SetTun { name: name_of(name), flags: PACKETS_ALONE, rest: [0; 22] };
    // SAFETY: the request has the form that this command takes, and the kernel copies it.
    unsafe { set_tun(file.as_raw_fd(), &raw const request) }.unwrap();
    // It would ask for routers, and tell of groups.
    fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
    ip(&format!("link set {name} up mtu {mtu}"));
    file
}

/// Has the kernel compute the checksums of what leaves a device of the current namespace, and cut it up.
pub(crate) fn without_offload(device: &str) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let mut command = [SET_TX_CHECKSUM, 0];
    let mut request = Ethtool { name: name_of(device), data: &raw mut command, rest: [0; 16] };
    // SAFETY: the request and the command that it leads to have the form that this command takes, and live through the call.
    unsafe { ethtool(socket.as_raw_fd(), &raw mut request) }.unwrap();
}

/// One end of a tunnel: a device of the current namespace, whose packets go to another node in packets of IPv4, until this is dropped.
pub(crate) struct End {
    stop: Option<UnixStream>,
    relay: Option<JoinHandle<()>>,
}

impl End {
    pub(crate) fn new(name: &str, mtu: u32, remote: Ipv4Addr) -> Self {
        let tun = device(name, mtu);
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPV4_IN_IPV4))).unwrap();
        // All that a sender has under way.
        setsockopt(&raw, RcvBufForce, &(16 << 20)).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let relay = thread::spawn(move || relay(tun, raw, &stopped, remote));
        Self { stop: Some(stop), relay: Some(relay) }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.relay.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()), "the tunnel's end panicked");
    }
}

fn relay(mut tun: File, mut raw: Socket, stopped: &UnixStream, remote: Ipv4Addr) {
    let to = SocketAddrV4::new(remote, 0).into();
    let mut packet = vec![0; LARGEST];
    loop {
        let mut files =
            [tun.as_fd(), raw.as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut files, PollTimeout::NONE).unwrap();
        let [out, into, stop] = files.map(|file| file.any().unwrap());
        if stop {
            return;
        }
        if out {
            let length = tun.read(&mut packet).unwrap();
            // As a router that has no room, or no way any more.
            drop(raw.send_to(&packet[..length], &to));
        }
        if into {
            let length = raw.read(&mut packet).unwrap();
            let header = usize::from(packet[0] & 0xf) * 4;
            tun.write_all(&packet[header..length]).unwrap();
        }
    }
}
