//! Who takes part in a probe.

use crate::pods::PodKey;
use std::fmt;
use std::str::FromStr;

/// Somebody who sends or answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A pod.
    Pod(PodKey),
    /// A node, from its own network.
    Node(String),
    /// A host outside the cluster.
    External(String),
}

impl Party {
    /// A pod, by namespace and name.
    pub fn pod(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Pod(PodKey::new(namespace, name))
    }
}

impl From<PodKey> for Party {
    fn from(key: PodKey) -> Self {
        Self::Pod(key)
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => f.pad(&key.to_string()),
            Self::Node(name) => f.pad(&format!("node:{name}")),
            Self::External(name) => f.pad(&format!("external:{name}")),
        }
    }
}

impl FromStr for Party {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("node", name)) => Ok(Self::Node(name.to_owned())),
            Some(("external", name)) => Ok(Self::External(name.to_owned())),
            _ => text.parse().map(Self::Pod),
        }
    }
}
