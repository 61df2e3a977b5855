//! Putting programs where they see packets.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcMessage, TcOption},
};

use super::{ALL_PROTOCOLS, BPF, Direction, HANDLE, discipline, header};
use crate::{Request, link::IfIndex};

/// A program of the type `BPF_PROG_TYPE_SCHED_CLS` whose answer says what becomes of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// The interface that it is for.
    pub link: IfIndex,
    /// What it sees there.
    pub direction: Direction,
    /// Its place among the filters there, the lowest first; never 0.
    pub priority: u16,
    /// By which it is known again.
    pub name: &'a str,
    /// The program; the kernel keeps it from then on.
    pub program: BorrowedFd<'a>,
}

/// Makes the discipline that filters are at. The kernel refuses it where there is one, or one of the kind `ingress`.
pub fn add_discipline(link: IfIndex) -> Request {
    Request::new(RouteNetlinkMessage::NewQueueDiscipline(discipline(link)), NLM_F_CREATE | NLM_F_EXCL)
}

/// Puts a program at an interface, in the place of the one of that priority, if there is one: no packet sees none or both. The kernel
/// refuses it where a filter of another kind has the priority.
pub fn replace_program(program: &Program<'_>) -> Request {
    let mut message = TcMessage::default();
    message.header = header(program.link, program.direction.parent(), program.priority, ALL_PROTOCOLS);
    message.header.handle = HANDLE.into();
    message.attributes.push(TcAttribute::Kind(BPF.into()));
    let descriptor = u32::try_from(program.program.as_raw_fd()).unwrap_or(u32::MAX);
    let options = [
        TcFilterBpfOption::ProgFd(descriptor),
        TcFilterBpfOption::ProgName(program.name.into()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).into()));
    Request::new(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)
}
