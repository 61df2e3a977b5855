//! The control socket of a running speaker: its protocol and a client.
//!
//! Over a Unix stream socket, one JSON value a line: a [`Request`] from the client, then one [`Response`] from the
//! speaker, any number of times. The socket's mode is 0600: whoever may open it may configure the speaker.
//!
//! ```no_run
//! # async fn example(config: margay_bgp::config::Config) -> Result<(), margay_bgp::control::ControlError> {
//! let mut client = margay_bgp::control::Client::connect("/run/margay/bgp.sock").await?;
//! client.configure(&config).await?;
//! for neighbor in client.status().await?.neighbors {
//!     println!("{} {}", neighbor.address, neighbor.state);
//! }
//! # Ok(())
//! # }
//! ```

mod message;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

pub use message::{
    BfdView, CollectorStatus, Explained, ExplainedAdvertisement, ExplainedPath, NegotiatedView,
    NeighborStatus, Request, Response, RouteView, Status,
};

use crate::config::Config;
use crate::prefix::Prefix;

/// Where the speaker's socket is unless a flag says otherwise.
pub const DEFAULT_PATH: &str = "/run/margay/bgp.sock";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens there, or we may not connect.
    #[error("connect to the BGP speaker at {path}; is margay-bgp running?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("exchange messages with the BGP speaker")]
    Exchange(#[source] io::Error),
    /// The answer is not of the protocol; the versions may differ.
    #[error("understand the answer of the BGP speaker")]
    Answer(#[source] serde_json::Error),
    /// The speaker refused.
    #[error("the BGP speaker refused: {0}")]
    Refused(String),
    /// The speaker answered another question.
    #[error("the BGP speaker gave an answer that does not belong to the request")]
    Unexpected,
}

/// A connection to a speaker. After an error other than [`ControlError::Refused`], connect anew.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket of a speaker.
    ///
    /// # Errors
    /// [`ControlError::Connect`] when nobody listens there.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ControlError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ControlError::Connect { path: path.to_owned(), source })?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Gives the speaker its whole configuration. Giving the same again changes nothing.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when the configuration cannot be used, or a failure to talk to the speaker.
    pub async fn configure(&mut self, config: &Config) -> Result<(), ControlError> {
        match self.ask(&Request::Configure(Box::new(config.clone()))).await? {
            Response::Configured => Ok(()),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Asks how the speaker and its sessions are.
    ///
    /// # Errors
    /// A failure to talk to the speaker.
    pub async fn status(&mut self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status).await? {
            Response::Status(status) => Ok(status),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Asks for all paths, by prefix and preference.
    ///
    /// # Errors
    /// A failure to talk to the speaker.
    pub async fn routes(&mut self) -> Result<Vec<RouteView>, ControlError> {
        match self.ask(&Request::Routes).await? {
            Response::Routes(routes) => Ok(routes),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Asks what a neighbour announces, before the import policy.
    ///
    /// # Errors
    /// There is no such neighbour, or a failure to talk to the speaker.
    pub async fn received(&mut self, neighbor: IpAddr) -> Result<Vec<RouteView>, ControlError> {
        match self.ask(&Request::Received(neighbor)).await? {
            Response::Routes(routes) => Ok(routes),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Asks what a neighbour is told.
    ///
    /// # Errors
    /// There is no such neighbour, or a failure to talk to the speaker.
    pub async fn advertised(&mut self, neighbor: IpAddr) -> Result<Vec<RouteView>, ControlError> {
        match self.ask(&Request::Advertised(neighbor)).await? {
            Response::Routes(routes) => Ok(routes),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Asks what became of the paths to a prefix.
    ///
    /// # Errors
    /// A failure to talk to the speaker.
    pub async fn explain(&mut self, prefix: Prefix) -> Result<Explained, ControlError> {
        match self.ask(&Request::Explain(prefix)).await? {
            Response::Explained(explained) => Ok(explained),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Ends the session with a neighbour, and begins a new one.
    ///
    /// # Errors
    /// There is no such neighbour, or a failure to talk to the speaker.
    pub async fn reset(&mut self, neighbor: IpAddr) -> Result<(), ControlError> {
        match self.ask(&Request::Reset(neighbor)).await? {
            Response::Done => Ok(()),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Has a neighbour announce all its routes again.
    ///
    /// # Errors
    /// There is no session with it, it cannot do that, or a failure to talk to the speaker.
    pub async fn refresh(&mut self, neighbor: IpAddr) -> Result<(), ControlError> {
        match self.ask(&Request::Refresh(neighbor)).await? {
            Response::Done => Ok(()),
            _ => Err(ControlError::Unexpected),
        }
    }

    /// Has the tables written as MRT (RFC 6396), in the place of what the file had; its path is absolute, and the
    /// speaker's.
    ///
    /// # Errors
    /// The file cannot be written, or a failure to talk to the speaker.
    pub async fn dump(&mut self, file: &Path) -> Result<(), ControlError> {
        match self.ask(&Request::Dump(file.to_owned())).await? {
            Response::Done => Ok(()),
            _ => Err(ControlError::Unexpected),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Response, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(ControlError::Answer)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await.map_err(ControlError::Exchange)?;
        let mut answer = String::new();
        let octets = self.stream.read_line(&mut answer).await.map_err(ControlError::Exchange)?;
        if octets == 0 {
            return Err(ControlError::Exchange(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str(&answer).map_err(ControlError::Answer)? {
            Response::Error(reason) => Err(ControlError::Refused(reason)),
            response => Ok(response),
        }
    }
}
