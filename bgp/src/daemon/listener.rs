//! Accepting connections.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep_until};

/// A whole cluster may dial at once after an outage; what does not fit would wait for a retransmission.
const BACKLOG: i32 = 4096;

/// After a failure to accept, out of descriptors most likely: accepting again at once would spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A socket that accepts connections until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens on the address; connections go to `accepted`.
    pub(super) fn open(address: SocketAddr, accepted: mpsc::Sender<TcpStream>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted speaker must not wait for connections of the last run to time out.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // The IPv4 addresses have a listener of their own.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let task = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        if accepted.send(stream).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, %address, "accept a connection");
                        sleep_until(Instant::now() + ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}
