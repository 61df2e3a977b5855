//! The agent, asked over its Unix socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
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

/// A connection to the agent.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: BufReader<UnixStream>,
    socket: String,
    wait: Duration,
}

impl Agent {
    /// Connects; the agent must be there.
    pub(crate) fn connect(run_dir: &Path) -> Result<Self, AgentError> {
        let path = run_dir.join(paths::AGENT_SOCKET);
        let socket = path.display().to_string();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), socket, wait: Duration::ZERO }),
            Err(source) => Err(AgentError::Away { socket, source }),
        }
    }

    /// Asks. The answer may take its time, within `wait`.
    pub(crate) fn tell(&mut self, request: &Request, wait: Duration) -> Result<(), AgentError> {
        let away = |source| AgentError::Away { socket: self.socket.clone(), source };
        // A wait of zero would mean for ever to the kernel.
        let wait = wait.max(Duration::from_millis(1));
        let mut stream = self.stream.get_ref();
        stream.set_read_timeout(Some(wait)).map_err(away)?;
        stream.set_write_timeout(Some(wait)).map_err(away)?;
        let mut line = serde_json::to_vec(request).map_err(|error| AgentError::Answer(error.to_string()))?;
        line.push(b'\n');
        stream.write_all(&line).map_err(away)?;
        self.wait = wait;
        Ok(())
    }

    /// Waits for the answer, whatever it is.
    pub(crate) fn hear(&mut self) -> Result<Response, AgentError> {
        let away = |source| AgentError::Away { socket: self.socket.clone(), source };
        let mut answer = String::new();
        match (&mut self.stream).take(MAX_LINE as u64).read_line(&mut answer) {
            Ok(0) => return Err(away(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                return Err(AgentError::Silent(self.wait));
            }
            Err(error) => return Err(away(error)),
        }
        serde_json::from_str(&answer).map_err(|error| AgentError::Answer(error.to_string()))
    }

    /// Waits until what was asked for is done.
    pub(crate) fn done(&mut self) -> Result<(), AgentError> {
        match self.hear()? {
            Response::Done => Ok(()),
            Response::Refused { reason } => Err(AgentError::Refused(reason)),
            Response::Degraded { reason } => Err(AgentError::Degraded(reason)),
            other => Err(AgentError::Answer(format!("{other:?} is no answer to this request"))),
        }
    }
}

/// Connects, and asks for one thing to be done.
pub(crate) fn ask(run_dir: &Path, request: &Request, wait: Duration) -> Result<(), AgentError> {
    let mut agent = Agent::connect(run_dir)?;
    agent.tell(request, wait)?;
    agent.done()
}
