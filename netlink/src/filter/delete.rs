//! Taking programs off.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcMessage},
};

use super::{Direction, Filter, discipline, header, list_on, programs};
use crate::{Error, Request, Socket, link::IfIndex};

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

/// Takes off all programs whose name begins so, and their disciplines where no other filter is left. Says how many programs there were.
///
/// # Errors
/// When the kernel cannot be asked, or lets go of one not; the others are gone then.
pub fn delete_programs(socket: &mut Socket, prefix: &str) -> Result<usize, Error> {
    let found = programs(socket, prefix)?;
    let mut outcome = Ok(found.len());
    let mut delete_all = |requests: &[Request], socket: &mut Socket| {
        for result in socket.execute_all(requests)? {
            if let Err(error) = result
                && !error.is_gone()
            {
                outcome = Err(error);
            }
        }
        Ok::<(), Error>(())
    };
    delete_all(&found.iter().map(delete).collect::<Vec<_>>(), socket)?;
    let mut links: Vec<IfIndex> = found.iter().map(|filter| filter.link).collect();
    links.dedup();
    for link in links {
        let mut left = Direction::ALL.into_iter().map(|direction| list_on(socket, link, direction));
        if left.all(|filters| filters.is_ok_and(|filters| filters.is_empty())) {
            delete_all(&[delete_discipline(link)], socket)?;
        }
    }
    outcome
}
