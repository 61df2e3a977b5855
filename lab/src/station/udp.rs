//! UDP: the server answers each datagram with who sent it.

use super::{Reach, Station};
use socket2::Type;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

/// A datagram may get lost; the next follows after this.
pub(super) const RESEND: Duration = Duration::from_millis(400);

/// Answers all who ask.
pub(super) async fn serve(socket: UdpSocket) {
    let mut question = [0; 64];
    loop {
        match socket.recv_from(&mut question).await {
            Ok((_, client)) => {
                let answer = client.ip().to_canonical().to_string();
                // What cannot be delivered is lost, as datagrams are.
                drop(socket.send_to(answer.as_bytes(), client).await);
            }
            // An earlier answer was refused by an ICMP message.
            Err(error) => tracing::trace!(%error, "receive a datagram"),
        }
    }
}

pub(super) async fn connect(station: &Station, to: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = station.client_socket(to, Type::DGRAM)?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Asks until an answer comes.
pub(super) async fn ask(socket: &UdpSocket) -> Reach {
    let mut resend = tokio::time::interval(RESEND);
    let mut answer = [0; 64];
    loop {
        tokio::select! {
            _ = resend.tick() => if let Err(error) = socket.send(b"who am I?").await {
                return Reach::closed(error);
            },
            received = socket.recv(&mut answer) => {
                let text = received.map(|octets| {
                    String::from_utf8_lossy(answer.get(..octets).unwrap_or_default()).into_owned()
                });
                return match text {
                    Ok(text) => text.parse().map_or_else(
                        |_not_an_address| Reach::closed(format!("something else answered: `{text}`")),
                        |client| Reach::Open { client },
                    ),
                    Err(error) => Reach::closed(error),
                };
            }
        }
    }
}

pub(super) async fn probe(station: &Station, to: SocketAddr) -> Reach {
    match connect(station, to).await {
        Ok(socket) => ask(&socket).await,
        Err(error) => Reach::closed(error),
    }
}
