//! Clients that are told of dropped packets, or of flows that begin.

use std::io;

use margay_api::{agent::Response, monitor::Filter};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

use crate::observe::{Said, Subscription};

/// Events that may wait for a client; of more it is told how many it lost.
const QUEUE: usize = 1024;
/// Events written at once.
const BATCH: usize = 64;

/// Tells a client until it goes; `nobody` is for one that nobody can tell.
pub(super) async fn stream(
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    filter: Filter,
    monitors: &mpsc::Sender<Subscription>,
    nobody: Response,
) -> io::Result<()> {
    let (events, mut told) = mpsc::channel(QUEUE);
    let (answer, answered) = oneshot::channel();
    let subscribed = match monitors.send(Subscription { filter, events, answer }).await {
        Ok(()) => answered.await.ok(),
        Err(_ended) => None,
    };
    let response = match subscribed {
        Some(Ok(())) => Response::Done,
        Some(Err(reason)) => return write(writer, &[Response::Refused { reason }]).await,
        None => return write(writer, &[nobody]).await,
    };
    write(writer, &[response]).await?;
    let mut said = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            number = told.recv_many(&mut said, BATCH) => if number == 0 {
                return Ok(());
            },
            () = gone(reader) => return Ok(()),
        }
        let responses = said.drain(..).map(|said| match said {
            Said::Dropped(event) => Response::Dropped(Box::new(event.as_ref().clone())),
            Said::Begun(event) => Response::Begun(Box::new(event.as_ref().clone())),
            Said::Lost(packets) => Response::Lost { packets },
        });
        write(writer, &responses.collect::<Vec<_>>()).await?;
    }
}

/// Ends when the client has closed the connection. What it says is not heard.
async fn gone(reader: &mut (impl AsyncBufRead + Unpin)) {
    while let Ok(said @ [_, ..]) = reader.fill_buf().await {
        let octets = said.len();
        reader.consume(octets);
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), responses: &[Response]) -> io::Result<()> {
    let mut text = Vec::new();
    for response in responses {
        serde_json::to_writer(&mut text, response)?;
        text.push(b'\n');
    }
    writer.write_all(&text).await
}
