//! One process at a time for one endpoint.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
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
    path: PathBuf,
    file: Flock<File>,
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
        let path = path(run_dir, id);
        loop {
            match Flock::lock(open(&path)?, FlockArg::LockExclusive) {
                Ok(file) if is_linked(&file) => return Ok(Self { path, file }),
                // Whoever had it has forgotten the endpoint: this is no longer the file that others lock.
                Ok(_) => {}
                Err((_, errno)) => return Err(LockError { path, source: errno.into() }),
            }
        }
    }

    /// Takes the lock unless somebody has it: `None` then.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn try_take(run_dir: &Path, id: &EndpointId) -> Result<Option<Self>, LockError> {
        let path = path(run_dir, id);
        match Flock::lock(open(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(is_linked(&file).then_some(Self { path, file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(LockError { path, source: errno.into() }),
        }
    }

    /// Lets go of the lock of an endpoint that is gone, and removes its file.
    pub fn forget(self) {
        // A file that stays is empty, and harmless.
        drop(fs::remove_file(&self.path));
        drop(self.file);
    }
}

fn path(run_dir: &Path, id: &EndpointId) -> PathBuf {
    run_dir.join("locks").join(id.as_str())
}

fn open(path: &Path) -> Result<File, LockError> {
    let open = || OpenOptions::new().create(true).append(true).open(path);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| open())
        }
        opened => opened,
    };
    opened.map_err(|source| LockError { path: path.to_owned(), source })
}

fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
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
        held.forget();
        assert!(!dir.path().join("locks").join(a.as_str()).exists());
        assert!(EndpointLock::try_take(dir.path(), &a).unwrap().is_some());
    }

    #[test]
    fn a_forgotten_lock_still_lets_one_in_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let id = EndpointId::of("a", "eth0");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = EndpointLock::take(dir.path(), &id).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        lock.forget();
                    }
                });
            }
        });
    }
}
