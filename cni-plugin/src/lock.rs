//! One call at a time for one endpoint.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
};

use margay_api::endpoint::EndpointId;
use nix::fcntl::{Flock, FlockArg};

use crate::result::{Code, Failure};

/// Held from the first change to the last. The agent's reconciliation takes it too before it frees what seems
/// leaked, so it never takes an address from under a call that is still running. The kernel lets go of it when
/// the process ends, however it ends.
pub(crate) struct EndpointLock {
    _file: Flock<File>,
}

impl EndpointLock {
    pub(crate) fn take(run_dir: &Path, id: &EndpointId) -> Result<Self, Failure> {
        let dir = run_dir.join("locks");
        let path = dir.join(id.as_str());
        let failed = |error: &std::io::Error| {
            Failure::new(Code::Io, format!("lock {}", path.display())).because(error)
        };
        fs::create_dir_all(&dir).map_err(|error| failed(&error))?;
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|error| failed(&error))?;
        let file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed(&std::io::Error::from(errno)))?;
        Ok(Self { _file: file })
    }
}
