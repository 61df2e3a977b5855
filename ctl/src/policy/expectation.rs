//! Files with expectations of policy, as their authors write them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::bail;
use ipnetwork::IpNetwork;
use serde::Deserialize;

/// A file with expectations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: Option<String>,
    /// Files and folders, seen from this file's folder.
    #[serde(default)]
    pub(super) manifests: Vec<PathBuf>,
    /// Where pods without a known address will have one.
    #[serde(default, rename = "podCIDRs")]
    pub(super) pod_cidrs: Vec<IpNetwork>,
    pub(super) cases: Vec<Expectation>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    pub(super) name: Option<String>,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) port: PortText,
    pub(super) expect: Expect,
    /// The policy that must be the reason, as `NetworkPolicy NAMESPACE/NAME` or `ClusterNetworkPolicy NAME`.
    pub(super) because: Option<String>,
}

/// `80` is a number to YAML.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum PortText {
    Number(u64),
    Text(String),
}

impl fmt::Display for PortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl File {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The line that is not of its form; that there is no case.
    pub(super) fn read(path: &Path, text: &str) -> anyhow::Result<Self> {
        let file: Self = serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map_or_else(String::new, |location| format!(":{}", location.line()));
            anyhow::anyhow!("{}{line}: {}", path.display(), error.without_snippet())
        })?;
        if file.cases.is_empty() {
            bail!("{}: it has no cases", path.display());
        }
        Ok(file)
    }
}
