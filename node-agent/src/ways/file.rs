//! The section `selfTest` of the agent's settings.

use serde::Deserialize;

/// Nobody else's by IANA's list.
const DEFAULT_PORT: u32 = 9097;

/// The section `selfTest` of the agent's file.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct File {
    enabled: Option<bool>,
    port: Option<u32>,
}

impl File {
    /// What it says, and where it says nothing what all nodes have in common.
    pub(crate) fn over(self, common: Self) -> Self {
        Self { enabled: self.enabled.or(common.enabled), port: self.port.or(common.port) }
    }

    /// The port of UDP and TCP on which nodes answer each other, if ways are tested.
    ///
    /// # Errors
    /// The field that is out of its range.
    pub(crate) fn check(self) -> anyhow::Result<Option<u16>> {
        let said = self.port.unwrap_or(DEFAULT_PORT);
        let port = u16::try_from(said).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| anyhow::anyhow!("selfTest.port is {said}; it takes 1 to 65535"))?;
        Ok(self.enabled.unwrap_or(true).then_some(port))
    }
}
