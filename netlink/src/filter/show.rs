//! Looking filters up.

use netlink_packet_route::{RouteNetlinkMessage, tc::TcMessage};

use super::{Direction, Filter, KIND, header};
use crate::{Error, Request, Socket, link::IfIndex, qdisc};

/// The filters of an interface in one direction, in the order in which they run; none without the discipline.
///
/// # Errors
/// When the kernel cannot be asked: there is no such interface.
pub fn list_on(socket: &mut Socket, link: IfIndex, direction: Direction) -> Result<Vec<Filter>, Error> {
    let mut message = TcMessage::default();
    message.header = header(link, direction.parent(), 0, 0);
    let found = socket.dump(&Request::new(RouteNetlinkMessage::GetTrafficFilter(message), 0))?;
    let filters = found.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewTrafficFilter(message) => Filter::parse(message, direction),
        _ => None,
    });
    Ok(filters.collect())
}

/// The programs at all interfaces whose name begins so, one interface after the other.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn programs(socket: &mut Socket, prefix: &str) -> Result<Vec<Filter>, Error> {
    let mut programs = Vec::new();
    let disciplines = qdisc::list(socket)?.into_iter().filter(|qdisc| qdisc.kind == KIND);
    for discipline in disciplines {
        for direction in Direction::ALL {
            match list_on(socket, discipline.link, direction) {
                Ok(filters) => programs.extend(filters.into_iter().filter(|it| it.name.starts_with(prefix))),
                // The interface has gone meanwhile.
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(programs)
}
