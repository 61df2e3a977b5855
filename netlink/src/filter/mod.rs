//! Filters of an interface's `clsact` discipline: programs that see what it receives and what it sends.

mod add;
mod delete;
mod show;

use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption};

pub use add::{Program, add_discipline, replace_program};
pub use delete::{delete, delete_discipline, delete_programs, delete_unused};
pub use show::{list_on, programs};

use crate::link::IfIndex;

/// The kind of the discipline.
const KIND: &str = "clsact";
/// The kind of filters that are programs.
const BPF: &str = "bpf";
/// `ETH_P_ALL`: whatever the protocol.
const ALL_PROTOCOLS: u16 = 0x0003;
/// Programs are the only filters of their priority.
const HANDLE: u32 = 1;

/// Which packets of an interface a filter sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What it receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// What the kernel says of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The interface that it is at.
    pub link: IfIndex,
    /// What it sees.
    pub direction: Direction,
    /// Filters run in the order of this number, the lowest first.
    pub priority: u16,
    /// The protocol that it is for, as in Ethernet headers.
    protocol: u16,
    /// Its number among those of its priority; 0 is what all of a priority have in common.
    handle: u32,
    /// Its kind: `bpf`, `flower`, `matchall`.
    pub kind: String,
    /// The name that its maker gave it, when it is a program.
    pub name: String,
    /// The ID of its program, when it is one.
    pub program: Option<u32>,
}

impl Filter {
    pub(crate) fn parse(message: &TcMessage, direction: Direction) -> Option<Self> {
        let header = &message.header;
        let mut filter = Self {
            link: IfIndex::new(u32::try_from(header.index).ok()?)?,
            direction,
            // To delete one of priority 0 would be to delete them all.
            priority: u16::try_from(header.info >> 16).ok().filter(|priority| *priority != 0)?,
            protocol: u16::from_be(u16::try_from(header.info & 0xffff).ok()?),
            handle: header.handle.into(),
            kind: String::new(),
            name: String::new(),
            program: None,
        };
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
                TcAttribute::Options(options) => {
                    for option in options {
                        match option {
                            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name.clone_from(name),
                            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(*id),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // What the filters of a priority have in common is told by itself before them.
        (filter.handle != 0 && !filter.kind.is_empty()).then_some(filter)
    }
}

/// The address of a discipline's filters, or of those of one priority.
fn header(link: IfIndex, parent: TcHandle, priority: u16, protocol: u16) -> TcHeader {
    let index = i32::try_from(link.number()).unwrap_or_default();
    let info = match priority {
        0 => 0,
        _ => u32::from(priority) << 16 | u32::from(protocol.to_be()),
    };
    TcHeader { index, parent, info, ..TcHeader::default() }
}

/// A message about the discipline itself.
fn discipline(link: IfIndex) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = header(link, TcHandle::CLSACT, 0, 0);
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.attributes.push(TcAttribute::Kind(KIND.into()));
    message
}
