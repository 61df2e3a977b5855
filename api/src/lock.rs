//! One process at a time for one endpoint.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::endpoint::EndpointId;

/// Held by the plugin from the first change of a call to its last, and by the agent's reconciliation while it
/// frees what seems leaked, so that it never takes an address from under a call that is still running. The kernel
/// lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct EndpointLock {
    _file: Flock<File>,
}

/// The lock cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("lock {}", .path.display())]
pub struct LockError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl EndpointLock {
    /// Waits until nobody else has the lock, and takes it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn take(run_dir: &Path, id: &EndpointId) -> Result<Self, LockError> {
        let (path, file) = Self::open(run_dir, id)?;
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, errno)) => Err(LockError { path, source: errno.into() }),
        }
    }

    /// Takes the lock unless somebody has it: `None` then.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn try_take(run_dir: &Path, id: &EndpointId) -> Result<Option<Self>, LockError> {
        let (path, file) = Self::open(run_dir, id)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(LockError { path, source: errno.into() }),
        }
    }

    fn open(run_dir: &Path, id: &EndpointId) -> Result<(PathBuf, File), LockError> {
        let dir = run_dir.join("locks");
        let path = dir.join(id.as_str());
        let opened =
            fs::create_dir_all(&dir).and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
        match opened {
            Ok(file) => Ok((path, file)),
            Err(source) => Err(LockError { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EndpointLock;
    use crate::endpoint::EndpointId;

    #[test]
    fn one_at_a_time_and_each_endpoint_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (EndpointId::of("a", "eth0"), EndpointId::of("b", "eth0"));
        let held = EndpointLock::take(dir.path(), &a).unwrap();
        assert!(EndpointLock::try_take(dir.path(), &a).unwrap().is_none());
        assert!(EndpointLock::try_take(dir.path(), &b).unwrap().is_some());
        drop(held);
        assert!(EndpointLock::try_take(dir.path(), &a).unwrap().is_some());
    }
}
