//! The control socket's end in the speaker.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::listener::ACCEPT_PAUSE;
use crate::control::{Request, Response};

/// A request with the way back for its answer.
#[derive(Debug)]
pub(super) struct ControlRequest {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Response>,
}

/// Octets in the longest request: some 100,000 neighbours.
const REQUEST_LIMIT: u64 = 32 << 20;

/// Makes the socket, mode 0600, in the place of one that a dead speaker left.
///
/// # Errors
/// When another speaker listens there, or the socket cannot be made.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if socket.connect(&address).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another speaker listens there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    // Before `listen` nobody can connect, so there is no moment at which others may.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())
}

/// Accepts clients until the supervisor is gone.
pub(super) async fn serve(listener: UnixListener, requests: mpsc::Sender<ControlRequest>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    if let Err(error) = client(stream, requests).await {
                        tracing::debug!(%error, "control client");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a control client");
                sleep_until(Instant::now() + ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn client(stream: UnixStream, requests: mpsc::Sender<ControlRequest>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    // The mode of the socket keeps others away; whoever has changed that shall not have opened the speaker.
    let is_stranger = uid != 0 && uid != nix::unistd::geteuid().as_raw();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        if (&mut reader).take(REQUEST_LIMIT).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if is_stranger {
            let reason = format!("the speaker answers root and its own user, and not user {uid}");
            return answer(&mut writer, &Response::Error(reason)).await;
        }
        let response = match serde_json::from_slice(&line) {
            Ok(request) => ask(request, &requests).await?,
            Err(error) => Response::Error(format!("request: {error}")),
        };
        answer(&mut writer, &response).await?;
    }
}

async fn answer(writer: &mut (impl AsyncWrite + Unpin), response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

async fn ask(request: Request, requests: &mpsc::Sender<ControlRequest>) -> io::Result<Response> {
    let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the speaker ends");
    let (answer, answered) = oneshot::channel();
    requests.send(ControlRequest { request, answer }).await.ok().ok_or_else(gone)?;
    answered.await.ok().ok_or_else(gone)
}
