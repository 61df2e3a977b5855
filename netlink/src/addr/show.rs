//! Looking addresses up.

use netlink_packet_route::{RouteNetlinkMessage, address::AddressMessage};

use super::Address;
use crate::{Error, Request, Socket, link::IfIndex};

/// All addresses, in order of interface and address.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut Socket) -> Result<Vec<Address>, Error> {
    dump(socket, 0)
}

/// The addresses of one interface.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list_on(socket: &mut Socket, link: IfIndex) -> Result<Vec<Address>, Error> {
    dump(socket, link.number())
}

fn dump(socket: &mut Socket, index: u32) -> Result<Vec<Address>, Error> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let request = Request::new(RouteNetlinkMessage::GetAddress(message), 0);
    let mut addresses: Vec<Address> = socket
        .dump(&request)?
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => Address::parse(message),
            _ => None,
        })
        .collect();
    addresses.sort();
    Ok(addresses)
}
