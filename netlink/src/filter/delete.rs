//! Taking programs off.

use std::collections::BTreeSet;

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcMessage},
};

use super::{Direction, Filter, KIND, discipline, header, list_on};
use crate::{Error, Request, Socket, link::IfIndex, qdisc};

/// Takes a filter off.
pub fn delete(filter: &Filter) -> Request {
    let mut message = TcMessage::default();
    message.header = header(filter.link, filter.direction.parent(), filter.priority, filter.protocol);
    message.header.handle = filter.handle.into();
    message.attributes.push(TcAttribute::Kind(filter.kind.clone()));
    Request::new(RouteNetlinkMessage::DelTrafficFilter(message), 0)
}

/// Takes the discipline off, with all filters.
pub fn delete_discipline(link: IfIndex) -> Request {
    Request::new(RouteNetlinkMessage::DelQueueDiscipline(discipline(link)), 0)
}

/// Takes off these, which [`programs`](super::programs) has found. The disciplines that they were at stay.
///
/// # Errors
/// When the kernel cannot be asked, or lets go of one not; the others are gone then.
pub fn delete_programs(socket: &mut Socket, found: &[Filter]) -> Result<(), Error> {
    delete_all(socket, &found.iter().map(delete).collect::<Vec<_>>())
}

/// Takes the discipline off those of these interfaces where no filter is left. What an interface that is up would send meanwhile is lost: the
/// kernel stops its queue for as long as it takes to know that nobody uses the discipline any more (`qdisc_graft`).
///
/// # Errors
/// When the kernel cannot be asked, or lets go of one not; the others are gone then.
pub fn delete_unused(socket: &mut Socket, links: &BTreeSet<IfIndex>) -> Result<(), Error> {
    let mut unused = Vec::new();
    for discipline in qdisc::list(socket)? {
        if discipline.kind != KIND || !links.contains(&discipline.link) {
            continue;
        }
        let mut left =
            Direction::ALL.into_iter().map(|direction| list_on(socket, discipline.link, direction));
        if left.all(|filters| filters.is_ok_and(|filters| filters.is_empty())) {
            unused.push(delete_discipline(discipline.link));
        }
    }
    delete_all(socket, &unused)
}

/// Does them all, of which what is gone is done.
fn delete_all(socket: &mut Socket, requests: &[Request]) -> Result<(), Error> {
    let mut outcome = Ok(());
    for result in socket.execute_all(requests)? {
        if let Err(error) = result
            && !error.is_gone()
        {
            outcome = Err(error);
        }
    }
    outcome
}
