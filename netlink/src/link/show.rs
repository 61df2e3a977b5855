//! Looking interfaces up.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{IfIndex, IfName, Link, message};
use crate::{Error, Request, Socket};

/// The interface with this name; `None` when there is none.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn by_name(socket: &mut Socket, name: &IfName) -> Result<Option<Link>, Error> {
    let mut message = message(None);
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    get(socket, message)
}

/// The number of the interface with this name in the thread's present network namespace; `None` when there is none.
/// Costs a tenth of [`by_name`], for which the kernel writes down all that it knows of an interface.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn index_of(name: &IfName) -> Result<Option<IfIndex>, Error> {
    match if_nametoindex(name.as_str()) {
        Ok(index) => Ok(IfIndex::new(index)),
        Err(Errno::ENODEV) => Ok(None),
        Err(errno) => Err(Error::Refused { request: format!("find interface {name}"), errno }),
    }
}

/// The interface with this number; `None` when there is none.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn by_index(socket: &mut Socket, index: IfIndex) -> Result<Option<Link>, Error> {
    get(socket, message(Some(index)))
}

/// All interfaces, by number.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let request = Request::new(RouteNetlinkMessage::GetLink(message(None)), 0);
    let mut links: Vec<Link> = socket
        .dump(&request)?
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Link::parse(message),
            _ => None,
        })
        .collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

fn get(socket: &mut Socket, message: LinkMessage) -> Result<Option<Link>, Error> {
    let request = Request::new(RouteNetlinkMessage::GetLink(message), 0);
    match socket.get(&request) {
        Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Link::parse(&message)),
        Ok(_) => Ok(None),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}
