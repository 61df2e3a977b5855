//! A connection that is kept open over a change of policy.

use super::sctp::Association;
use super::{Protocol, Station, tcp, udp};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};

/// The client's end of an open connection.
#[derive(Debug)]
pub struct Kept {
    end: End,
    lines: u64,
}

#[derive(Debug)]
enum End {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
    Sctp(Association),
}

impl Kept {
    pub(super) async fn open(station: &Arc<Station>, to: SocketAddr, protocol: Protocol) -> Option<Self> {
        let end = match protocol {
            Protocol::Tcp => {
                let mut stream = tcp::connect(station, to).await.ok()?;
                if !tcp::greeting(&mut stream).await.is_open() {
                    return None;
                }
                End::Tcp(stream)
            }
            Protocol::Udp => {
                let socket = udp::connect(station, to).await.ok()?;
                if !udp::ask(&socket).await.is_open() {
                    return None;
                }
                End::Udp(socket)
            }
            Protocol::Sctp => End::Sctp(station.sctp.associate(to, station.next_source_port()).await?),
        };
        Some(Self { end, lines: 0 })
    }

    /// Whether data passes both ways, within `limit`.
    pub async fn is_alive(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.exchange()).await.unwrap_or(false)
    }

    async fn exchange(&mut self) -> bool {
        self.lines += 1;
        match &mut self.end {
            End::Tcp(stream) => {
                // Numbered: the answers to earlier lines may come late.
                let sent = format!("line {}\n", self.lines);
                if stream.get_mut().write_all(sent.as_bytes()).await.is_err() {
                    return false;
                }
                let mut line = String::new();
                loop {
                    line.clear();
                    match stream.read_line(&mut line).await {
                        Ok(0) | Err(_) => return false,
                        Ok(_) if line == sent => return true,
                        Ok(_) => {}
                    }
                }
            }
            End::Udp(socket) => {
                // Late answers to earlier questions prove nothing.
                let mut late = [0; 64];
                while socket.try_recv(&mut late).is_ok() {}
                udp::ask(socket).await.is_open()
            }
            End::Sctp(association) => association.beat().await.is_ok(),
        }
    }
}
