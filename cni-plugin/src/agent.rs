//! The agent, asked over its Unix socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use margay_api::{
    agent::{MAX_LINE, Request, Response},
    paths,
};

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// Nobody answers.
    #[error(
        "reach the node agent on {socket}; is the margay pod of this node running (kubectl -n kube-system get pods -l app.kubernetes.io/name=margay -o wide)?"
    )]
    Away { socket: String, source: std::io::Error },
    /// It took too long.
    #[error("the node agent did not answer within {0:?}; its log says what it waits for")]
    Silent(Duration),
    /// It answered in another language.
    #[error("the node agent's answer makes no sense: {0}; are plugin and agent of one version?")]
    Answer(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// It said no, and that pods which are here may lack connectivity too.
    #[error("{0}")]
    Degraded(String),
}

/// Asks, and waits for the answer.
pub(crate) fn ask(run_dir: &Path, request: &Request, wait: Duration) -> Result<(), AgentError> {
    tell(run_dir, request, wait)?.answer()
}

/// A question that the agent is at.
#[derive(Debug)]
pub(crate) struct Asked {
    stream: UnixStream,
    socket: PathBuf,
    wait: Duration,
}

/// Asks. The answer may take its time, within `wait`.
pub(crate) fn tell(run_dir: &Path, request: &Request, wait: Duration) -> Result<Asked, AgentError> {
    let path = run_dir.join(paths::AGENT_SOCKET);
    let away = |source| AgentError::Away { socket: path.display().to_string(), source };
    let mut stream = UnixStream::connect(&path).map_err(away)?;
    // A wait of zero would mean for ever to the kernel.
    let wait = wait.max(Duration::from_millis(1));
    stream.set_read_timeout(Some(wait)).map_err(away)?;
    stream.set_write_timeout(Some(wait)).map_err(away)?;
    let mut line = serde_json::to_vec(request).map_err(|error| AgentError::Answer(error.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(away)?;
    Ok(Asked { stream, socket: path, wait })
}

impl Asked {
    /// Waits for the answer.
    pub(crate) fn answer(self) -> Result<(), AgentError> {
        let away = |source| AgentError::Away { socket: self.socket.display().to_string(), source };
        let mut answer = String::new();
        match BufReader::new(self.stream.take(MAX_LINE as u64)).read_line(&mut answer) {
            Ok(0) => return Err(away(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                return Err(AgentError::Silent(self.wait));
            }
            Err(error) => return Err(away(error)),
        }
        match serde_json::from_str(&answer) {
            Ok(Response::Done) => Ok(()),
            Ok(Response::Refused { reason }) => Err(AgentError::Refused(reason)),
            Ok(Response::Degraded { reason }) => Err(AgentError::Degraded(reason)),
            Err(error) => Err(AgentError::Answer(error.to_string())),
        }
    }
}
