//! The plugin's socket. See `margay_api::agent` for what is said on it.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use anyhow::Context;
use margay_api::agent::{MAX_LINE, Request, Response};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tracing::debug;

use super::monitor;
use crate::{core::Event, observe::Subscription};

/// Calls served at once; more wait in the socket's backlog.
const MAX_CALLS: usize = 512;

/// A call of the plugin, waiting for its answer.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Response>,
}

/// Whom those who want to hear of something are handed to.
#[derive(Debug, Clone)]
pub(crate) struct Monitors {
    /// Dropped packets.
    pub(crate) drops: mpsc::Sender<Subscription>,
    /// Flows that begin on the short way; closed where there is none.
    pub(crate) flows: mpsc::Sender<Subscription>,
}

/// Opens the socket, for root alone. One that a killed agent left is replaced.
pub(crate) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restrict {}", path.display()))?;
    Ok(listener)
}

/// Serves calls for ever.
pub(crate) async fn run(
    listener: UnixListener,
    events: mpsc::Sender<Event>,
    monitors: Monitors,
) -> anyhow::Result<()> {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if calls.len() < MAX_CALLS => {
                let (stream, _) = accepted.context("accept a call of the plugin")?;
                calls.spawn(serve(stream, events.clone(), monitors.clone()));
            }
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn serve(mut stream: UnixStream, events: mpsc::Sender<Event>, monitors: Monitors) {
    if let Err(error) = converse(&mut stream, &events, &monitors).await {
        debug!(%error, "a call of the plugin broke off");
    }
}

/// Who is at the other end, if it is neither root nor whom the agent runs as: the mode of the socket keeps them away, and
/// whoever has changed that shall not have opened the node.
fn stranger(stream: &UnixStream) -> io::Result<Option<u32>> {
    let uid = stream.peer_cred()?.uid();
    Ok((uid != 0 && uid != nix::unistd::geteuid().as_raw()).then_some(uid))
}

async fn answer(writer: &mut (impl AsyncWrite + Unpin), response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_vec(response)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

async fn converse(
    stream: &mut UnixStream,
    events: &mpsc::Sender<Event>,
    monitors: &Monitors,
) -> io::Result<()> {
    let stranger = stranger(stream)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_LINE as u64).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if let Some(uid) = stranger {
            let reason = format!("the agent answers root, and not user {uid}");
            return answer(&mut writer, &Response::Refused { reason }).await;
        }
        let (response, go_on) = match serde_json::from_str::<Request>(&line) {
            Ok(Request::Monitor { filter }) => {
                return monitor::stream(&mut reader, &mut writer, filter, &monitors.drops, shutting_down())
                    .await;
            }
            Ok(Request::Flows { filter }) => {
                let reason = "this node has no eBPF dataplane: all flows go through the stack, and nobody tells of them";
                let nobody = Response::Refused { reason: reason.into() };
                return monitor::stream(&mut reader, &mut writer, filter, &monitors.flows, nobody).await;
            }
            Ok(request) => {
                let (answering, answered) = oneshot::channel();
                if events.send(Event::Plugin(Call { request, answer: answering })).await.is_err() {
                    (shutting_down(), false)
                } else {
                    tokio::select! {
                        response = answered => response.map_or_else(|_| (shutting_down(), false), |it| (it, true)),
                        // Nobody waits any more: the core finds the answer's channel closed.
                        () = hung_up(&mut reader) => return Ok(()),
                    }
                }
            }
            // What follows a line that is no request may be the rest of it.
            Err(error) => {
                let reason = format!("the agent does not understand the request: {error}");
                (Response::Refused { reason }, false)
            }
        };
        answer(&mut writer, &response).await?;
        if !go_on {
            return Ok(());
        }
    }
}

/// Ends when the plugin has closed the connection, or was killed.
async fn hung_up(reader: &mut (impl AsyncBufRead + Unpin)) {
    match reader.fill_buf().await {
        Ok([]) | Err(_) => {}
        // It has said more already, which is read when its turn comes.
        Ok(_) => std::future::pending().await,
    }
}

fn shutting_down() -> Response {
    Response::Refused { reason: "the agent is shutting down".into() }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use margay_api::agent::{Request, Response};
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixStream,
        sync::mpsc,
        time::timeout,
    };

    use super::{Monitors, bind, run};
    use crate::core::Event;

    fn nobody() -> Monitors {
        Monitors { drops: mpsc::channel(1).0, flows: mpsc::channel(1).0 }
    }

    /// Says all of it, and hears an answer to each line.
    async fn ask(path: &std::path::Path, lines: &str) -> Vec<Response> {
        let mut stream = BufReader::new(UnixStream::connect(path).await.unwrap());
        stream.write_all(lines.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        for _ in lines.lines() {
            let mut answer = String::new();
            stream.read_line(&mut answer).await.unwrap();
            answers.push(serde_json::from_str(&answer).unwrap());
        }
        answers
    }

    #[tokio::test]
    async fn the_core_sees_that_a_plugin_has_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (events, mut inbox) = mpsc::channel(1);
        let server = tokio::spawn(run(bind(&path).unwrap(), events, nobody()));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"request\":\"status\"}\n").await.unwrap();
        let Some(Event::Plugin(mut call)) = inbox.recv().await else { panic!("no call came") };
        assert!(!call.answer.is_closed());
        drop(stream);
        timeout(Duration::from_secs(10), call.answer.closed()).await.unwrap();
        server.abort();
    }

    #[tokio::test]
    async fn calls_reach_the_core_and_nonsense_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "left by a killed agent").unwrap();
        let listener = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (events, mut inbox) = mpsc::channel(1);
        let server = tokio::spawn(run(listener, events, nobody()));
        let core = tokio::spawn(async move {
            while let Some(Event::Plugin(call)) = inbox.recv().await {
                assert_eq!(call.request, Request::Status);
                call.answer.send(Response::Done).unwrap();
            }
        });
        let status = "{\"request\":\"status\"}\n";
        assert_eq!(ask(&path, status).await, [Response::Done]);
        assert_eq!(ask(&path, &format!("{status}{status}")).await, [Response::Done, Response::Done]);
        for nonsense in ["\n", "{}\n", "{\"request\":\"dance\"}\n"] {
            let answers = ask(&path, nonsense).await;
            let [Response::Refused { reason }] = &answers[..] else { panic!("{nonsense}: {answers:?}") };
            assert!(reason.contains("does not understand"), "{reason}");
        }
        server.abort();
        core.await.unwrap();
    }
}
