//! The servers of a pod or a node.

use super::{Port, Protocol, Station, tcp, udp};
use anyhow::Context;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Servers that run for as long as this lives.
#[derive(Debug)]
pub(crate) struct Servers {
    station: Arc<Station>,
    sctp: Vec<u16>,
    tasks: JoinSet<()>,
}

impl Servers {
    pub(super) fn start(station: &Arc<Station>, ports: &[Port]) -> anyhow::Result<Self> {
        let mut servers = Self { station: Arc::clone(station), sctp: Vec::new(), tasks: JoinSet::new() };
        let mut seen = Vec::new();
        for port in ports {
            // A pod may say a port twice, under two names.
            if !seen.contains(port) {
                seen.push(*port);
                servers.add(*port).with_context(|| format!("serve port {port}"))?;
            }
        }
        Ok(servers)
    }

    fn add(&mut self, port: Port) -> anyhow::Result<()> {
        match port.protocol {
            Protocol::Tcp => {
                let socket = open(&self.station, Type::STREAM, port.number)?;
                socket.listen(BACKLOG)?;
                let listener = TcpListener::from_std(socket.into())?;
                self.tasks.spawn(tcp::serve(listener));
            }
            Protocol::Udp => {
                let socket = UdpSocket::from_std(open(&self.station, Type::DGRAM, port.number)?.into())?;
                self.tasks.spawn(udp::serve(socket));
            }
            Protocol::Sctp => {
                self.station.sctp.listen(port.number)?;
                self.sctp.push(port.number);
            }
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for port in &self.sctp {
            self.station.sctp.close(*port);
        }
    }
}

/// A socket for both families where the kernel has both.
fn open(station: &Station, kind: Type, port: u16) -> std::io::Result<Socket> {
    let _inside = station.namespace.enter().map_err(std::io::Error::other)?;
    let kind = kind.nonblocking().cloexec();
    let (socket, any) = match Socket::new(Domain::IPV6, kind, None) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        Err(_no_ipv6) => {
            (Socket::new(Domain::IPV4, kind, None)?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
    };
    if kind != Type::DGRAM.nonblocking().cloexec() {
        // Connections of a server that was here before may still be closing.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&any.into())?;
    Ok(socket)
}
