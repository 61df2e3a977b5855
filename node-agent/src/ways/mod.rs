//! Tests the ways to other nodes with packets of full size and with connections: a task beside the core.
//!
//! ```text
//!   core --Peers (addresses and blocks of nodes)--> task --> ledger (pure): which way is due
//!   kernel --links, addresses, routes------------>  |  --> probe: UDP that is not cut, TCP --> judge (pure)
//!                                                   |  --> listen: answers other nodes
//!                                                   +--> report (pure) --> log, Event, condition, metrics, ways.json
//! ```
//! A way is a tunnel to a node where a route leads through one, else the way between the two nodes' own addresses. What is found makes no node
//! unready: what a test cannot pass may be a firewall in front of the test alone. The one thing that it changes is where the checksums of
//! packets in a tunnel are computed.

mod judge;
mod ledger;
mod listen;
mod message;
mod probe;
mod report;
mod sys;
mod task;

use serde::Deserialize;

pub(crate) use task::run;

/// Nobody else's by IANA's list.
const DEFAULT_PORT: u32 = 9097;

/// The section `selfTest` of the agent's file.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct File {
    enabled: bool,
    port: u32,
}

impl Default for File {
    fn default() -> Self {
        Self { enabled: true, port: DEFAULT_PORT }
    }
}

impl File {
    /// The port of UDP and TCP on which nodes answer each other, if ways are tested.
    ///
    /// # Errors
    /// The field that is out of its range.
    pub(crate) fn check(self) -> anyhow::Result<Option<u16>> {
        let port = u16::try_from(self.port).ok().filter(|port| *port > 0);
        let port =
            port.ok_or_else(|| anyhow::anyhow!("selfTest.port is {}; it takes 1 to 65535", self.port))?;
        Ok(self.enabled.then_some(port))
    }
}
