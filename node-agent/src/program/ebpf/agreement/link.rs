//! Links whose other end is this program.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use margay_netlink::{
    Socket,
    link::{self, IfIndex, IfName},
};

/// A TUN device: what is written to it, the node receives by it.
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: IfIndex,
    device: File,
}

impl Link {
    /// Makes one, which goes with this.
    pub(super) fn new(socket: &mut Socket, name: &str) -> Self {
        let device = open(name);
        let index = link::index_of(&name.parse::<IfName>().unwrap()).unwrap().unwrap();
        socket.execute(&link::set_up(index)).unwrap();
        Self { name: name.to_owned(), index, device }
    }

    /// Has the node receive a packet, which it has dealt with when this returns: the kernel does so in the same call.
    pub(super) fn send(&mut self, packet: &[u8]) {
        self.device.write_all(packet).unwrap();
    }

    /// What the node has sent by it.
    pub(super) fn received(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut octets = [0; 2048];
        loop {
            match self.device.read(&mut octets) {
                Ok(length) => packets.push(octets[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return packets,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
    }
}

/// `struct ifreq` (`linux/if.h`).
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

#[expect(unsafe_code, reason = "no library makes a device of this kind")]
fn open(name: &str) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN: i16 = 1;
    const IFF_NO_PI: i16 = 0x1000;
    let mut options = OpenOptions::new();
    let device = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").unwrap();
    let mut request = Request { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes the structure, which outlives the call and is as long as its own.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "TUN device {name}: {}", std::io::Error::last_os_error());
    device
}
