//! STATUS: can pods be added?

use std::time::Duration;

use margay_api::{agent::Request, pools::Snapshot};

use super::store;
use crate::{
    agent::{self, AgentError},
    config::Config,
    result::{Code, Failure},
};

/// How long the agent may take to say how it is.
const WAIT: Duration = Duration::from_secs(2);

/// CNI spec 1.1, section 2, "STATUS": empty output when all is well, else why not.
///
/// Error 51 when changes in the cluster do not reach the kernel: the agent is away or silent, or has no complete
/// API, dataplane or speaker. Pods that are here keep what they have, and get nothing new. Error 50 when only new
/// pods suffer: no address is left, or the node is not set up yet.
pub(super) fn run(config: &Config) -> Result<String, Failure> {
    let unable = |why: &str| Failure::new(Code::NotAvailable, format!("pods cannot be added: {why}"));
    agent::ask(&config.run_dir, &Request::Status, WAIT).map_err(|error| {
        let code = match error {
            AgentError::Refused(_) => Code::NotAvailable,
            AgentError::Away { .. }
            | AgentError::Silent(_)
            | AgentError::Answer(_)
            | AgentError::Degraded(_) => Code::LimitedConnectivity,
        };
        Failure::new(code, "pods cannot be added").because(&error)
    })?;
    // Where blocks can be claimed, a full one says nothing.
    if Snapshot::is_there(&config.run_dir) {
        return Ok(String::new());
    }
    let free = store(config)
        .free()
        .map_err(|error| Failure::new(Code::NotAvailable, "pods cannot be added").because(&error))?;
    match free {
        [None, None] => Err(unable("this node has no address block")),
        [Some(0), _] => Err(unable("no IPv4 address is free on this node")),
        [_, Some(0)] => Err(unable("no IPv6 address is free on this node")),
        _ => Ok(String::new()),
    }
}
