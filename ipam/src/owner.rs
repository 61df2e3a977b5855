//! Who holds an address.

use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

/// The interface of a container that holds an address.
///
/// The CNI spec sets no bound to container IDs, but a slot on disk has room for [`Owner::MAX_CONTAINER_ID`] octets.
/// A longer one is known by its beginning and a digest of it all, everywhere: in slots, records and messages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    container_id: String,
    ifname: String,
}

/// Names that a block has no room for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OwnerError {
    /// The container ID is empty.
    #[error("the container ID is empty")]
    NoContainerId,
    /// The interface name is empty or longer than [`Owner::MAX_IFNAME`].
    #[error("interface name `{0}` has {n} octets; 1 to {max} can be stored", n = .0.len(), max = Owner::MAX_IFNAME)]
    IfName(String),
}

impl Owner {
    /// Octets of the longest container ID that is kept as it is. Runtimes use 64.
    pub const MAX_CONTAINER_ID: usize = 96;
    /// Octets of the longest interface name, the kernel's limit.
    pub const MAX_IFNAME: usize = 15;

    /// The interface `ifname` of the container `container_id`.
    ///
    /// # Errors
    /// When a name is empty, or that of the interface too long.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, OwnerError> {
        if container_id.is_empty() {
            return Err(OwnerError::NoContainerId);
        }
        if ifname.is_empty() || ifname.len() > Self::MAX_IFNAME {
            return Err(OwnerError::IfName(ifname.to_owned()));
        }
        Ok(Self { container_id: storable(container_id), ifname: ifname.to_owned() })
    }

    /// `CNI_CONTAINERID`, or what stands for one that is too long.
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

fn storable(container_id: &str) -> String {
    if container_id.len() <= Owner::MAX_CONTAINER_ID {
        return container_id.to_owned();
    }
    let digest = Sha256::digest(container_id);
    // No container ID has a tilde, so that this is none that a runtime could use.
    let head = Owner::MAX_CONTAINER_ID - 2 * digest.len() - 1;
    let mut text: String = container_id.chars().take_while(char::is_ascii).take(head).collect();
    text.push('~');
    for octet in digest {
        // Writing to a String cannot fail.
        let _ok = write!(text, "{octet:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Owner;

    #[test]
    fn a_container_id_of_any_length_is_stored_and_stays_distinct() {
        let longest = "a".repeat(Owner::MAX_CONTAINER_ID);
        assert_eq!(Owner::new(&longest, "eth0").unwrap().container_id(), longest);
        let long = |last: char| Owner::new(&format!("{longest}{last}"), "eth0").unwrap();
        assert_ne!(long('x'), long('y'));
        assert_eq!(long('x').container_id().len(), Owner::MAX_CONTAINER_ID);
        assert_eq!(Owner::new(long('x').container_id(), "eth0").unwrap(), long('x'));
        assert!(Owner::new("", "eth0").is_err());
    }
}
