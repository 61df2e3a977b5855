//! Who holds an address.

use std::fmt;

/// The interface of a container that holds an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    container_id: String,
    ifname: String,
}

/// Names that a block has no room for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OwnerError {
    /// The container ID is empty or longer than [`Owner::MAX_CONTAINER_ID`].
    #[error("container ID `{0}` has {n} octets; 1 to {max} can be stored", n = .0.len(), max = Owner::MAX_CONTAINER_ID)]
    ContainerId(String),
    /// The interface name is empty or longer than [`Owner::MAX_IFNAME`].
    #[error("interface name `{0}` has {n} octets; 1 to {max} can be stored", n = .0.len(), max = Owner::MAX_IFNAME)]
    IfName(String),
}

impl Owner {
    /// Octets of the longest container ID. Runtimes use 64.
    pub const MAX_CONTAINER_ID: usize = 96;
    /// Octets of the longest interface name, the kernel's limit.
    pub const MAX_IFNAME: usize = 15;

    /// The interface `ifname` of the container `container_id`.
    ///
    /// # Errors
    /// When a name is empty or too long.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, OwnerError> {
        if container_id.is_empty() || container_id.len() > Self::MAX_CONTAINER_ID {
            return Err(OwnerError::ContainerId(container_id.to_owned()));
        }
        if ifname.is_empty() || ifname.len() > Self::MAX_IFNAME {
            return Err(OwnerError::IfName(ifname.to_owned()));
        }
        Ok(Self { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
    }

    /// `CNI_CONTAINERID`.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// `CNI_IFNAME`.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}
