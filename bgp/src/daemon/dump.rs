//! Writing the tables to a file.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use super::clock;
use super::rib_task::RibInput;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum DumpError {
    #[error("{}: expected an absolute path, as the speaker has a working directory of its own", .0.display())]
    Relative(PathBuf),
    #[error("write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the speaker ends, or has no configuration yet")]
    NoTables,
}

/// Writes the tables as MRT (RFC 6396), part by part, so that neither the tables wait for the disk nor all of them are in
/// memory twice. The file is there, in the place of one before, when all of it is.
pub(super) async fn write(rib: mpsc::Sender<RibInput>, path: &Path) -> Result<(), DumpError> {
    let Some(name) = path.file_name().filter(|_| path.is_absolute()) else {
        return Err(DumpError::Relative(path.to_owned()));
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    // Nobody else's, be it another dump to the same file.
    temporary.push(format!(".{:016x}", RandomState::new().hash_one(path)));
    let temporary = path.with_file_name(temporary);
    let mut result = write_parts(&rib, path, &temporary).await;
    if result.is_ok() {
        result = fs::rename(&temporary, path).await.map_err(failure(path));
    }
    if result.is_err() {
        // Where it could not be made, there is none.
        drop(fs::remove_file(&temporary).await);
    }
    result
}

async fn write_parts(rib: &mpsc::Sender<RibInput>, path: &Path, temporary: &Path) -> Result<(), DumpError> {
    let mut file = File::create(temporary).await.map_err(failure(path))?;
    let (answer, answered) = oneshot::channel();
    rib.send(RibInput::BeginDump(seconds(), answer)).await.ok().ok_or(DumpError::NoTables)?;
    let mut part = Some(answered.await.ok().ok_or(DumpError::NoTables)?);
    while let Some((dump, octets)) = part {
        file.write_all(&octets).await.map_err(failure(path))?;
        let (answer, answered) = oneshot::channel();
        rib.send(RibInput::NextDump(dump, answer)).await.ok().ok_or(DumpError::NoTables)?;
        part = answered.await.ok().ok_or(DumpError::NoTables)?;
    }
    file.sync_all().await.map_err(failure(path))
}

fn failure(path: &Path) -> impl FnOnce(io::Error) -> DumpError {
    let path = path.to_owned();
    move |source| DumpError::Write { path, source }
}

/// The time of day, in seconds since 1970.
fn seconds() -> u32 {
    u32::try_from(clock::since_1970().as_secs()).unwrap_or(u32::MAX)
}
