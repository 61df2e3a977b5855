//! TCP: the server says who the client is, then echoes lines.

use super::{Reach, Station};
use socket2::Type;
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Answers all who come.
pub(super) async fn serve(listener: TcpListener) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => drop(clients.spawn(answer(stream, client))),
                Err(error) => tracing::debug!(%error, "accept a client"),
            },
            Some(_ended) = clients.join_next() => {}
        }
    }
}

async fn answer(stream: TcpStream, client: SocketAddr) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut line = client.ip().to_canonical().to_string();
    loop {
        line.push('\n');
        if writer.write_all(line.as_bytes()).await.is_err() {
            return;
        }
        let Ok(Some(next)) = lines.next_line().await else { return };
        line = next;
    }
}

/// Connects.
pub(super) async fn connect(station: &Station, to: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let socket = station.client_socket(to, Type::STREAM)?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Reads the line in which the server says who the client is.
pub(super) async fn greeting(stream: &mut BufReader<TcpStream>) -> Reach {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(0) => Reach::closed("connected, then closed without a word"),
        Ok(_) => line.trim().parse().map_or_else(
            |_not_an_address| {
                Reach::closed(format!("connected to something else, which said `{}`", line.trim()))
            },
            |client| Reach::Open { client },
        ),
        Err(error) => Reach::closed(format!("connected, then {error}")),
    }
}

pub(super) async fn probe(station: &Station, to: SocketAddr) -> Reach {
    match connect(station, to).await {
        Ok(mut stream) => {
            let reach = greeting(&mut stream).await;
            // A reset rather than a farewell: nothing of the probe stays in anyone's tables.
            drop(stream.get_ref().set_zero_linger());
            reach
        }
        Err(error) => Reach::closed(error),
    }
}
