//! Addresses of the interface that a session runs over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use margay_netlink::{Socket, addr};

/// What a peer on the other end of a connection can reach us by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LocalView {
    pub(super) ifindex: Option<u32>,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
}

/// Finds the interface that has the session's local address, and its address of the other family.
pub(super) async fn local_view(local: IpAddr) -> LocalView {
    let own = match local {
        IpAddr::V4(address) => LocalView { ipv4: Some(address), ..LocalView::default() },
        IpAddr::V6(address) => LocalView { ipv6: Some(address), ..LocalView::default() },
    };
    let listed = tokio::task::spawn_blocking(|| addr::list(&mut Socket::open()?)).await;
    let addresses = match listed {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => {
            tracing::warn!(%error, "list addresses: routes of the session's other family are not announced");
            return own;
        }
        // The runtime is shutting down.
        Err(_) => return own,
    };
    let Some(link) = addresses.iter().find(|address| address.network.ip() == local).map(|found| found.link)
    else {
        return own;
    };
    let usable = |address: &&addr::Address| {
        address.link == link
            && address.global
            && address.state != addr::State::Tentative
            && !address.network.ip().is_loopback()
    };
    let mut view = LocalView { ifindex: Some(link.number()), ..own };
    for address in addresses.iter().filter(usable) {
        match address.network.ip() {
            IpAddr::V4(found) => view.ipv4 = view.ipv4.or(Some(found)),
            IpAddr::V6(found) => view.ipv6 = view.ipv6.or(Some(found)),
        }
    }
    view
}

/// Whether something came over the link that the neighbour is on, where that matters.
pub(super) fn is_on_link(peer: SocketAddr, interface: Option<&str>) -> bool {
    let Some(interface) = interface else { return true };
    let ifindex = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"));
    match (peer, ifindex) {
        (SocketAddr::V6(peer), Ok(ifindex)) => ifindex.trim() == peer.scope_id().to_string(),
        _ => false,
    }
}
