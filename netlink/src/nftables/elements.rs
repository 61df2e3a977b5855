//! Elements of sets and maps, added and deleted in one transaction (`linux/netfilter/nf_tables.h`).

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use super::{FAMILY_HEADER, HEADER, SUBSYSTEM};
use crate::Error;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFT_MSG_NEWSETELEM` and `NFT_MSG_DELSETELEM`, below the subsystem.
const NEW: u8 = 12;
const DELETE: u8 = 14;
const NLMSG_ERROR: u16 = 2;

const NESTED: u16 = 0x8000;
/// `NFTA_SET_ELEM_LIST_*`.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;
/// `NFTA_SET_ELEM_*`.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
/// `NFTA_DATA_*`.
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_*`.
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

const NF_DROP: i32 = 0;
const NFT_JUMP: i32 = -3;
const NFT_RETURN: i32 = -5;

/// Elements in one message: its list of them must stay below the 64 KiB of an attribute.
const CHUNK: usize = 256;

/// The value of a map's element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Octets in the set's own order.
    Octets(Vec<u8>),
    /// The verdict to go on in a chain, by name.
    Jump(String),
    /// The verdict to go back.
    Return,
    /// The verdict to drop.
    Drop,
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The fields of its key one after the other, each padded to four octets.
    pub key: Vec<u8>,
    /// Its value, in a map.
    pub value: Option<Value>,
}

/// Changes of one table of family `inet`, which the kernel carries out all or none, and packets see all or none.
#[derive(Debug)]
pub struct Transaction {
    table: String,
    messages: Vec<u8>,
    sequence: u32,
    changes: usize,
    /// Where the last message begins, which is the one that asks for an acknowledgement.
    last: usize,
}

impl Transaction {
    /// One that changes nothing yet.
    pub fn new(table: &str) -> Self {
        let mut transaction =
            Self { table: table.to_owned(), messages: Vec::new(), sequence: 0, changes: 0, last: 0 };
        transaction.message(BATCH_BEGIN, 0, libc::AF_UNSPEC, u16::from(SUBSYSTEM), &[]);
        transaction
    }

    /// Adds elements to a set or map that exists.
    pub fn add(&mut self, set: &str, elements: &[Element]) {
        self.change(NEW, NLM_F_CREATE, set, elements);
    }

    /// Deletes elements, whose values do not matter.
    pub fn delete(&mut self, set: &str, elements: &[Element]) {
        self.change(DELETE, 0, set, elements);
    }

    /// Its length on the wire, in octets.
    pub fn octets(&self) -> usize {
        self.messages.len() + HEADER + FAMILY_HEADER
    }

    /// How many elements it adds and deletes.
    pub fn changes(&self) -> usize {
        self.changes
    }

    fn change(&mut self, kind: u8, flags: u16, set: &str, elements: &[Element]) {
        self.changes += elements.len();
        let kind = u16::from_be_bytes([SUBSYSTEM, kind]);
        for chunk in elements.chunks(CHUNK) {
            let list: Vec<u8> = chunk
                .iter()
                .flat_map(|element| attribute(LIST_ELEMENT | NESTED, &element.encode()))
                .collect();
            let body = [
                attribute(LIST_TABLE, &text(&self.table)),
                attribute(LIST_SET, &text(set)),
                attribute(LIST_ELEMENTS | NESTED, &list),
            ]
            .concat();
            self.last = self.messages.len();
            self.message(kind, flags, libc::NFPROTO_INET, 0, &body);
        }
    }

    fn message(&mut self, kind: u16, flags: u16, family: i32, resource: u16, body: &[u8]) {
        let length = HEADER + FAMILY_HEADER + body.len();
        self.messages.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        self.messages.extend(kind.to_ne_bytes());
        self.messages.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.sequence += 1;
        self.messages.extend(self.sequence.to_ne_bytes());
        self.messages.extend([0; 4]);
        self.messages.extend([u8::try_from(family).unwrap_or_default(), 0]);
        self.messages.extend(resource.to_be_bytes());
        // Attributes are padded, so the next message is aligned.
        self.messages.extend(body);
    }
}

impl Element {
    fn encode(&self) -> Vec<u8> {
        let mut octets = attribute(ELEMENT_KEY | NESTED, &attribute(DATA_VALUE, &self.key));
        let data = match &self.value {
            None => return octets,
            Some(Value::Octets(value)) => attribute(DATA_VALUE, value),
            Some(Value::Jump(chain)) => verdict(NFT_JUMP, Some(chain)),
            Some(Value::Return) => verdict(NFT_RETURN, None),
            Some(Value::Drop) => verdict(NF_DROP, None),
        };
        octets.extend(attribute(ELEMENT_DATA | NESTED, &data));
        octets
    }
}

/// A connection over which transactions are carried out, in the network namespace in which it was opened.
pub struct Elements {
    raw: Raw,
    port: u32,
}

impl Elements {
    /// Longest transaction that one send takes, in octets: below the default `SO_SNDBUF`.
    pub const MAX_OCTETS: usize = 128 * 1024;

    /// Opens a connection.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        let mut raw = Raw::new(NETLINK_NETFILTER).map_err(Error::Open)?;
        let port = raw.bind_auto().map_err(Error::Open)?.port_number();
        raw.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        Ok(Self { raw, port })
    }

    /// The netlink port by which [`super::TableMonitor`] names it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Carries a transaction out. One without a change is none.
    ///
    /// # Errors
    /// When the kernel refuses any part: it holds what it held before.
    pub fn commit(&mut self, mut transaction: Transaction) -> Result<(), Error> {
        if transaction.last == 0 {
            return Ok(());
        }
        let what = || format!("change elements of table inet {}", transaction.table);
        let flags_at = transaction.last + 6;
        let asks = u16::from_ne_bytes([transaction.messages[flags_at], transaction.messages[flags_at + 1]]);
        transaction.messages[flags_at..flags_at + 2].copy_from_slice(&(asks | NLM_F_ACK).to_ne_bytes());
        let last = transaction.sequence;
        let request = what();
        transaction.message(BATCH_END, 0, libc::AF_UNSPEC, u16::from(SUBSYSTEM), &[]);
        let failed = |source| Error::Exchange { request: request.clone(), source };
        retry(|| self.raw.send(&transaction.messages, 0)).map_err(failed)?;
        let mut refusal = None;
        let mut received = Vec::with_capacity(32 * 1024);
        // The kernel answers once the whole is carried out, or given up: refusals first, then the acknowledgement.
        // One refusal of the batch as a whole names its first message.
        loop {
            received.clear();
            retry(|| self.raw.recv(&mut received, 0)).map_err(failed)?;
            let mut rest = received.as_slice();
            while let Some((header, _)) = rest.split_at_checked(HEADER) {
                let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
                let Some(code) = rest.get(HEADER..HEADER + 4).filter(|_| length >= HEADER + 4) else {
                    let reason = format!("a message of {length} octets");
                    return Err(Error::Answer { request, reason });
                };
                if kind == NLMSG_ERROR {
                    let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                    if code != 0 {
                        let errno = Errno::from_raw(-code);
                        refusal.get_or_insert(Error::Refused { request: request.clone(), errno });
                    }
                    if sequence == last || sequence == 1 {
                        return refusal.map_or(Ok(()), Err);
                    }
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // A chunk of elements is the longest, and far below 64 KiB.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut octets = Vec::with_capacity(usize::from(length).next_multiple_of(4));
    octets.extend(length.to_ne_bytes());
    octets.extend(kind.to_ne_bytes());
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

fn verdict(code: i32, chain: Option<&str>) -> Vec<u8> {
    let mut octets = attribute(VERDICT_CODE, &code.to_be_bytes());
    octets.extend(chain.map(|chain| attribute(VERDICT_CHAIN, &text(chain))).unwrap_or_default());
    attribute(DATA_VERDICT | NESTED, &octets)
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
