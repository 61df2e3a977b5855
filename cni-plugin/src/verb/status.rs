//! STATUS: can pods be added?

use std::time::Duration;

use margay_api::{agent::Request, pools::Snapshot};

use super::store;
use crate::{
    agent,
    config::Config,
    result::{Code, Failure},
};

/// How long the agent may take to say how it is.
const WAIT: Duration = Duration::from_secs(2);

/// CNI spec 1.1, section 2, "STATUS": empty output when all is well, error 50 with the reason when not.
pub(super) fn run(config: &Config) -> Result<String, Failure> {
    let unable = |message: &str| Failure::new(Code::NotAvailable, message);
    agent::ask(&config.run_dir, &Request::Status, WAIT)
        .map_err(|error| unable("pods cannot be added").because(&error))?;
    // Where blocks can be claimed, a full one says nothing.
    if Snapshot::is_there(&config.run_dir) {
        return Ok(String::new());
    }
    let free = store(config).free().map_err(|error| unable("pods cannot be added").because(&error))?;
    match free {
        [None, None] => Err(unable("pods cannot be added: this node has no address block")),
        [Some(0), _] => Err(unable("pods cannot be added: no IPv4 address is free on this node")),
        [_, Some(0)] => Err(unable("pods cannot be added: no IPv6 address is free on this node")),
        _ => Ok(String::new()),
    }
}
