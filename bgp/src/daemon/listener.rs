//! Accepting connections.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep_until};

use super::{DaemonError, sys};
use crate::config::Password;
use crate::family::Family;
use crate::prefix::Prefix;

/// A whole cluster may dial at once after an outage; what does not fit would wait for a retransmission.
const BACKLOG: i32 = 4096;

/// After a failure to accept, out of descriptors most likely: accepting again at once would spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A key that the kernel does not take.
#[derive(Debug, thiserror::Error)]
#[error("set the password of neighbor {prefix}; is the kernel built with CONFIG_TCP_MD5SIG?")]
pub struct PasswordError {
    prefix: Prefix,
    #[source]
    source: io::Error,
}

/// A socket that accepts connections until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    task: JoinHandle<()>,
    socket: Arc<TcpListener>,
    keys: Keys,
}

/// The keys that a socket has for prefixes of its family.
#[derive(Debug)]
struct Keys {
    family: Family,
    keys: BTreeMap<Prefix, Password>,
}

impl Listener {
    /// Listens on the address, with these keys from the first connection on; connections go to `accepted`.
    pub(super) fn open(
        address: SocketAddr,
        passwords: &BTreeMap<Prefix, Password>,
        accepted: mpsc::Sender<TcpStream>,
    ) -> Result<Self, DaemonError> {
        let failed = |source| DaemonError::Listen { address, source };
        let socket = bound(address).map_err(failed)?;
        let mut keys = Keys { family: Family::of(address.ip()), keys: BTreeMap::new() };
        keys.set(&socket, passwords)?;
        socket.listen(BACKLOG).map_err(failed)?;
        let listener = Arc::new(TcpListener::from_std(socket.into()).map_err(failed)?);
        let socket = Arc::clone(&listener);
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
        Ok(Self { task, socket, keys })
    }

    /// Makes these the keys of connections from the prefixes; those that are up keep the keys they began with.
    pub(super) fn set_passwords(&mut self, wanted: &BTreeMap<Prefix, Password>) -> Result<(), PasswordError> {
        self.keys.set(&*self.socket, wanted)
    }
}

/// A socket at the address that does not listen yet.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted speaker must not wait for connections of the last run to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // The IPv4 addresses have a listener of their own.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Keys {
    fn set(
        &mut self,
        socket: &impl AsRawFd,
        wanted: &BTreeMap<Prefix, Password>,
    ) -> Result<(), PasswordError> {
        let set = |prefix: Prefix, password| {
            sys::set_md5(socket, prefix, password).map_err(|source| PasswordError { prefix, source })
        };
        let gone: Vec<Prefix> =
            self.keys.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
        for prefix in gone {
            set(prefix, None)?;
            self.keys.remove(&prefix);
        }
        for (prefix, password) in wanted.iter().filter(|(prefix, _)| prefix.family() == self.family) {
            if self.keys.get(prefix) != Some(password) {
                set(*prefix, Some(password))?;
                self.keys.insert(*prefix, password.clone());
            }
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}
