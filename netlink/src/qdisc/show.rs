//! Looking queueing disciplines up.

use netlink_packet_route::{RouteNetlinkMessage, tc::TcMessage};

use super::Qdisc;
use crate::{Error, Request, Socket};

/// All queueing disciplines, in the order of the kernel.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut Socket) -> Result<Vec<Qdisc>, Error> {
    let request = Request::new(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), 0);
    let found = socket.dump(&request)?;
    let qdiscs = found.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewQueueDiscipline(message) => Qdisc::parse(message),
        _ => None,
    });
    Ok(qdiscs.collect())
}
