//! Route reflectors that tell the speaker of the networks of all nodes, and now and then of one that went or came.
//!
//! No more of BGP than the speaker needs to hear: an OPEN of IPv4 unicast with four-octet AS numbers, KEEPALIVEs, UPDATEs.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use crate::object::{NODES, OWN, node_address, pod_network};

const KEEPALIVE_PERIOD: Duration = Duration::from_secs(20);
const ASN: u16 = 64512;

/// A node's network that comes or goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Announce(u32),
    Withdraw(u32),
}

/// What a session has to heed.
enum Heard {
    Change(Change),
    /// The speaker has gone.
    End,
}

/// A reflector, until the process ends.
pub(crate) struct Reflector {
    changes: Sender<Heard>,
}

impl Reflector {
    /// Serves at an address of the caller's namespace.
    pub(crate) fn start(address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 179)).unwrap();
        let (changes, heard) = channel();
        let ends = changes.clone();
        thread::spawn(move || {
            // A speaker that ends, as those do that are measured one after the other, comes back.
            loop {
                let (stream, _) = listener.accept().unwrap();
                let mut said = stream.try_clone().unwrap();
                let ends = ends.clone();
                // What it says is taken, so that it never waits, and not looked at.
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while said.read(&mut buffer).is_ok_and(|length| length > 0) {}
                    ends.send(Heard::End).unwrap();
                });
                if serve(stream, address, &heard).is_err() {
                    while !matches!(heard.recv().unwrap(), Heard::End) {}
                }
            }
        });
        Self { changes }
    }

    pub(crate) fn tell(&self, change: Change) {
        self.changes.send(Heard::Change(change)).unwrap();
    }
}

fn serve(mut stream: TcpStream, own: Ipv4Addr, heard: &Receiver<Heard>) -> std::io::Result<()> {
    stream.write_all(&open(own))?;
    stream.write_all(&message(4, &[]))?;
    let others = (0..NODES).filter(|node| *node != OWN);
    let all: Vec<u8> = others.flat_map(|node| update(Change::Announce(node), own)).collect();
    stream.write_all(&all)?;
    // End-of-RIB (RFC 4724 section 2).
    stream.write_all(&message(2, &[0; 4]))?;
    loop {
        match heard.recv_timeout(KEEPALIVE_PERIOD) {
            Ok(Heard::Change(change)) => stream.write_all(&update(change, own))?,
            Ok(Heard::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => stream.write_all(&message(4, &[]))?,
        }
    }
}

/// RFC 4271 section 4.1.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16], &length[..], &[kind], body].concat()
}

fn open(own: Ipv4Addr) -> Vec<u8> {
    let asn = ASN.to_be_bytes();
    let capabilities = [&[1, 4, 0, 1, 0, 1], &[65, 4, 0, 0][..], &asn].concat();
    let length = u8::try_from(capabilities.len()).unwrap();
    let hold_time = 90_u16.to_be_bytes();
    message(1, &[&[4], &asn[..], &hold_time, &own.octets(), &[length + 2, 2, length], &capabilities].concat())
}

fn update(change: Change, own: Ipv4Addr) -> Vec<u8> {
    let prefix = |node| [&[24], &pod_network(node).octets()[..3]].concat();
    match change {
        Change::Withdraw(node) => message(2, &[&[0, 4], &prefix(node)[..], &[0, 0]].concat()),
        Change::Announce(node) => {
            let address = node_address(node).octets();
            let attributes = [
                // ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST.
                &[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4][..],
                &address,
                &[0x40, 5, 4, 0, 0, 0, 100, 0x80, 9, 4],
                &address,
                &[0x80, 10, 4],
                &own.octets(),
            ]
            .concat();
            let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
            message(2, &[&[0, 0], &length[..], &attributes, &prefix(node)].concat())
        }
    }
}
