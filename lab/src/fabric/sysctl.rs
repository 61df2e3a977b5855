//! Kernel settings of a namespace.

use anyhow::Context;
use margay_netlink::Socket;
use margay_netlink::link::{by_name, set_up};
use margay_netlink::netns::Namespace;
use std::fs;
use std::io::ErrorKind;

/// Brings `lo` up, and makes new addresses usable at once.
pub(crate) fn prepare_namespace(namespace: &Namespace) -> anyhow::Result<()> {
    let _inside = namespace.enter()?;
    for name in ["all", "default"] {
        // Nobody else has our addresses: no need to wait a second for their detection.
        write(&format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0")?;
        write(&format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0")?;
        // What the host has chosen is inherited, and is none of the nodes' business.
        write(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
    }
    let mut socket = Socket::open()?;
    let lo = by_name(&mut socket, &"lo".parse()?)?.context("there is no lo")?;
    socket.execute(&set_up(lo.index)).context("bring lo up")
}

/// Makes a router of the namespace, one that sends no redirects.
pub(super) fn route_packets(namespace: &Namespace) -> anyhow::Result<()> {
    let _inside = namespace.enter()?;
    write("/proc/sys/net/ipv4/ip_forward", "1")?;
    write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    for name in ["all", "default"] {
        write(&format!("/proc/sys/net/ipv4/conf/{name}/send_redirects"), "0")?;
    }
    Ok(())
}

fn write(path: &str, value: &str) -> anyhow::Result<()> {
    match fs::write(path, value) {
        // No IPv6 in this kernel.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written.with_context(|| format!("write {value} to {path}")),
    }
}
