//! Changes of a table.

use std::fmt;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

use super::{
    Base, Element, FAMILY_HEADER, HEADER, OBJECT_COUNTER, Policy, Rule, SUBSYSTEM, SetKind, TABLE,
    attribute::Writer, message,
};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFTA_CHAIN_*`.
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
/// `NFTA_HOOK_*`.
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
/// `NFTA_RULE_*`.
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
/// `NFTA_SET_NAME`, and `NFTA_SET_ELEM_LIST_*`.
pub(super) const SET_NAME: u16 = 2;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// `NFTA_OBJ_*`.
pub(super) const OBJECT_NAME: u16 = 2;
pub(super) const OBJECT_TYPE: u16 = 3;
pub(super) const OBJECT_DATA: u16 = 4;

/// Elements in one message: its list of them must stay below the 64 KiB of an attribute.
const CHUNK: usize = 256;

/// One change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes the table, unless it is there.
    AddTable,
    /// Takes the table away with all that is in it.
    DeleteTable,
    /// Makes a chain without rules.
    AddChain {
        /// Its name.
        name: String,
        /// Where its packets come from; `None` for a chain that others jump to.
        base: Option<Base>,
    },
    /// Takes a chain away, which nothing may refer to.
    DeleteChain(String),
    /// Takes all rules of a chain away.
    FlushChain(String),
    /// Adds a rule at the end of a chain.
    AddRule {
        /// The chain's name.
        chain: String,
        /// Its expressions.
        rule: Rule,
    },
    /// Makes a set or map without elements.
    AddSet {
        /// Its name.
        name: String,
        /// What it holds.
        kind: SetKind,
    },
    /// Takes a set or map away with its elements; no rule may refer to it.
    DeleteSet(String),
    /// Adds elements, none of which may be there or overlap with what is.
    AddElements {
        /// The name of the set or map.
        set: String,
        /// What it holds.
        kind: SetKind,
        /// They.
        elements: Vec<Element>,
    },
    /// Takes elements away, all of which must be there; their values do not matter.
    DeleteElements {
        /// The name of the set or map.
        set: String,
        /// What it holds.
        kind: SetKind,
        /// They.
        elements: Vec<Element>,
    },
    /// Makes a named counter, at zero.
    AddCounter(String),
    /// Takes a named counter away, which no rule may refer to.
    DeleteCounter(String),
}

impl Change {
    /// How much it changes: elements count one by one.
    fn count(&self) -> usize {
        match self {
            Self::AddElements { elements, .. } | Self::DeleteElements { elements, .. } => elements.len(),
            _ => 1,
        }
    }

    fn elements(&self) -> &[Element] {
        match self {
            Self::AddElements { elements, .. } | Self::DeleteElements { elements, .. } => elements,
            _ => &[],
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => f.write_str("add table"),
            Self::DeleteTable => f.write_str("delete table"),
            Self::AddChain { name, .. } => write!(f, "add chain {name}"),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
            Self::FlushChain(name) => write!(f, "flush chain {name}"),
            Self::AddRule { chain, .. } => write!(f, "add rule to chain {chain}"),
            Self::AddSet { name, kind } => write!(f, "add set {name} of {kind}"),
            Self::DeleteSet(name) => write!(f, "delete set {name}"),
            Self::AddElements { set, elements, .. } => write!(f, "add {} elements to {set}", elements.len()),
            Self::DeleteElements { set, elements, .. } => {
                write!(f, "delete {} elements of {set}", elements.len())
            }
            Self::AddCounter(name) => write!(f, "add counter {name}"),
            Self::DeleteCounter(name) => write!(f, "delete counter {name}"),
        }
    }
}

/// Changes of one table of family `inet`, which the kernel carries out all or none, and packets see all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    table: String,
    changes: Vec<Change>,
}

impl Transaction {
    /// These changes, in order.
    pub fn new(table: &str, changes: Vec<Change>) -> Self {
        Self { table: table.to_owned(), changes }
    }

    /// What it changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// How much it changes: elements count one by one.
    pub fn count(&self) -> usize {
        self.changes.iter().map(Change::count).sum()
    }

    /// The messages; the last asks for an acknowledgement.
    pub(super) fn encode(&self, first_sequence: u32) -> Encoded {
        let mut encoded = Encoded {
            writer: Writer::default(),
            sequence: first_sequence.wrapping_sub(1),
            marks: Vec::with_capacity(self.changes.len()),
        };
        encoded.message(BATCH_BEGIN, 0, libc::AF_UNSPEC, u16::from(SUBSYSTEM), |_| {});
        let mut last = None;
        for (index, change) in self.changes.iter().enumerate() {
            last = Some(encoded.change(&self.table, index, change));
        }
        if let Some(start) = last {
            // The flags follow the length and the type.
            let flags = encoded.writer.octets[start + 6..start + 8].try_into().map_or(0, u16::from_ne_bytes);
            encoded.writer.patch(start + 6, &(flags | NLM_F_ACK).to_ne_bytes());
        }
        encoded.message(BATCH_END, 0, libc::AF_UNSPEC, u16::from(SUBSYSTEM), |_| {});
        encoded
    }

    /// In words, what the kernel refused.
    pub(super) fn describe(&self, mark: Option<&Mark>) -> String {
        let table = &self.table;
        let change = mark.and_then(|mark| self.changes.get(mark.change));
        let element = change
            .zip(mark)
            .and_then(|(change, mark)| change.elements().get(mark.element?).map(|element| (change, element)));
        match (change, element) {
            (_, Some((Change::AddElements { set, .. }, element))) => {
                format!("add element {element} to {set} of inet {table}")
            }
            (_, Some((Change::DeleteElements { set, .. }, element))) => {
                format!("delete element {element} of {set} of inet {table}")
            }
            (Some(change @ (Change::AddTable | Change::DeleteTable)), _) => {
                format!("{change} inet {table}")
            }
            (Some(change), _) => format!("{change} of inet {table}"),
            (None, _) => format!("make {} changes of table inet {table}", self.count()),
        }
    }
}

/// What is sent, and what stands where in it.
pub(super) struct Encoded {
    pub(super) writer: Writer,
    sequence: u32,
    /// In order of sequence and offset.
    marks: Vec<Mark>,
}

/// What stands in a message from an octet on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    sequence: u32,
    offset: usize,
    change: usize,
    element: Option<usize>,
}

impl Encoded {
    /// The sequence number of the last message.
    pub(super) fn last_sequence(&self) -> u32 {
        self.sequence
    }

    /// What stands at an offset of a message; `None` for the batch's own.
    pub(super) fn mark(&self, sequence: u32, offset: usize) -> Option<&Mark> {
        let after = self.marks.partition_point(|mark| (mark.sequence, mark.offset) <= (sequence, offset));
        self.marks.get(after.checked_sub(1)?).filter(|mark| mark.sequence == sequence)
    }

    /// Gives back where its last message begins.
    fn change(&mut self, table: &str, index: usize, change: &Change) -> usize {
        let mark = |sequence| Mark { sequence, offset: 0, change: index, element: None };
        if !change.elements().is_empty() {
            let mut start = 0;
            for (number, chunk) in change.elements().chunks(CHUNK).enumerate() {
                start = self.elements(table, change, chunk, index, number * CHUNK);
            }
            return start;
        }
        self.marks.push(mark(self.sequence.wrapping_add(1)));
        let (kind, flags) = match change {
            Change::AddTable => (message::NEW_TABLE, NLM_F_CREATE),
            Change::DeleteTable => (message::DELETE_TABLE, 0),
            Change::AddChain { .. } => (message::NEW_CHAIN, NLM_F_CREATE),
            Change::DeleteChain(_) => (message::DELETE_CHAIN, 0),
            Change::FlushChain(_) => (message::DELETE_RULE, 0),
            Change::AddRule { .. } => (message::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND),
            Change::AddSet { .. } => (message::NEW_SET, NLM_F_CREATE),
            Change::DeleteSet(_) => (message::DELETE_SET, 0),
            Change::AddElements { .. } => (message::NEW_ELEMENT, NLM_F_CREATE),
            Change::DeleteElements { .. } => (message::DELETE_ELEMENT, 0),
            Change::AddCounter(_) => (message::NEW_OBJECT, NLM_F_CREATE),
            Change::DeleteCounter(_) => (message::DELETE_OBJECT, 0),
        };
        let id = self.sequence;
        self.message(type_of(kind), flags, libc::NFPROTO_INET, 0, |writer| match change {
            Change::AddTable | Change::DeleteTable => writer.text(TABLE, table),
            Change::AddChain { name, base } => {
                writer.text(TABLE, table);
                writer.text(CHAIN_NAME, name);
                if let Some(base) = base {
                    writer.nest(CHAIN_HOOK, |hook| {
                        hook.number(HOOK_NUMBER, base.hook.number());
                        hook.number(HOOK_PRIORITY, base.priority.cast_unsigned());
                    });
                    writer.number(CHAIN_POLICY, u32::from(base.policy == Policy::Accept));
                    writer.text(CHAIN_TYPE, base.kind.name());
                }
            }
            Change::DeleteChain(name) => {
                writer.text(TABLE, table);
                writer.text(CHAIN_NAME, name);
            }
            Change::FlushChain(name) => {
                writer.text(TABLE, table);
                writer.text(RULE_CHAIN, name);
            }
            Change::AddRule { chain, rule } => {
                writer.text(TABLE, table);
                writer.text(RULE_CHAIN, chain);
                writer.nest(RULE_EXPRESSIONS, |list| rule.iter().for_each(|expr| expr.encode(list)));
            }
            Change::AddSet { name, kind } => kind.encode(writer, table, name, id),
            Change::DeleteSet(set) | Change::AddElements { set, .. } | Change::DeleteElements { set, .. } => {
                writer.text(TABLE, table);
                writer.text(SET_NAME, set);
            }
            Change::AddCounter(name) => {
                writer.text(TABLE, table);
                writer.text(OBJECT_NAME, name);
                writer.number(OBJECT_TYPE, OBJECT_COUNTER);
                writer.nest(OBJECT_DATA, |_| {});
            }
            Change::DeleteCounter(name) => {
                writer.text(TABLE, table);
                writer.text(OBJECT_NAME, name);
                writer.number(OBJECT_TYPE, OBJECT_COUNTER);
            }
        })
    }

    /// One message with some of a change's elements, of which the first has this number.
    fn elements(
        &mut self,
        table: &str,
        change: &Change,
        elements: &[Element],
        index: usize,
        first: usize,
    ) -> usize {
        let (type_, flags, set, kind) = match change {
            Change::AddElements { set, kind, .. } => (message::NEW_ELEMENT, NLM_F_CREATE, set, kind),
            Change::DeleteElements { set, kind, .. } => (message::DELETE_ELEMENT, 0, set, kind),
            _ => return self.writer.octets.len(),
        };
        let start = self.writer.octets.len();
        let sequence = self.sequence.wrapping_add(1);
        // What is refused before the elements is about the set. One element alone is meant in any case.
        let element = (change.elements().len() == 1).then_some(0);
        let mut marks = vec![Mark { sequence, offset: 0, change: index, element }];
        self.message(type_of(type_), flags, libc::NFPROTO_INET, 0, |writer| {
            writer.text(TABLE, table);
            writer.text(LIST_SET, set);
            writer.nest(LIST_ELEMENTS, |list| {
                for (number, element) in elements.iter().enumerate() {
                    let offset = list.octets.len() - start;
                    marks.push(Mark { sequence, offset, change: index, element: Some(first + number) });
                    element.encode(kind, list);
                }
            });
        });
        self.marks.extend(marks);
        start
    }

    /// Writes a message and gives back where it begins.
    fn message(
        &mut self,
        type_: u16,
        flags: u16,
        family: i32,
        resource: u16,
        body: impl FnOnce(&mut Writer),
    ) -> usize {
        self.sequence = self.sequence.wrapping_add(1);
        let start = self.writer.octets.len();
        head(&mut self.writer, type_, flags, self.sequence, family, resource);
        body(&mut self.writer);
        finish(&mut self.writer, start);
        start
    }
}

/// The type of a message of nftables.
pub(super) fn type_of(message: u8) -> u16 {
    u16::from_be_bytes([SUBSYSTEM, message])
}

/// A request for all of something, or for the one thing there is.
pub(super) fn request(message: u8, flags: u16, sequence: u32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    head(&mut writer, type_of(message), flags, sequence, libc::NFPROTO_INET, 0);
    body(&mut writer);
    finish(&mut writer, 0);
    writer.octets
}

fn head(writer: &mut Writer, type_: u16, flags: u16, sequence: u32, family: i32, resource: u16) {
    writer.octets.reserve(HEADER + FAMILY_HEADER);
    // The length, which is not known yet.
    writer.octets.extend([0; 4]);
    writer.octets.extend(type_.to_ne_bytes());
    writer.octets.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    writer.octets.extend(sequence.to_ne_bytes());
    writer.octets.extend([0; 4]);
    writer.octets.extend([u8::try_from(family).unwrap_or_default(), 0]);
    writer.octets.extend(resource.to_be_bytes());
}

fn finish(writer: &mut Writer, start: usize) {
    let length = u32::try_from(writer.octets.len() - start).unwrap_or(u32::MAX);
    writer.patch(start, &length.to_ne_bytes());
}
