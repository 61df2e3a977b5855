//! What can go wrong between us and the kernel.

use std::io;

use nix::errno::Errno;

/// Failure of a netlink operation or of entering a namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket can be had.
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("{request}: {errno}")]
    Refused {
        /// What was asked, in words.
        request: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Sending to or receiving from the kernel failed.
    #[error("exchange netlink messages for: {request}")]
    Exchange {
        /// What was asked, in words.
        request: String,
        /// The failing system call's error.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("understand the kernel's answer to: {request}: {reason}")]
    Answer {
        /// What was asked, in words.
        request: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A namespace could not be opened or entered.
    #[error("{action} network namespace {namespace}: {errno}")]
    Namespace {
        /// What was attempted: `open`, `enter`, `create`.
        action: &'static str,
        /// Its path, or a word for it.
        namespace: String,
        /// The system call's error.
        errno: Errno,
    },
}

impl Error {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::Namespace { errno, .. } => Some(*errno),
            Self::Open(source) | Self::Exchange { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Answer { .. } => None,
        }
    }

    /// True when the object to change or delete is not there. Success for a deletion.
    pub fn is_gone(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO)
        )
    }

    /// True when the object to create is there already.
    pub fn is_present(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}
