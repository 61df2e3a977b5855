//! Files that the agent leaves below the run directory, each in the place of the one before it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// The last one written; `None` when there is none.
pub(crate) fn read<T: DeserializeOwned>(run_dir: &Path, file: &str) -> io::Result<Option<T>> {
    match fs::read(run_dir.join(file)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts it in the place of the last one: whoever reads finds one or the other.
pub(crate) fn write<T: Serialize>(run_dir: &Path, file: &str, value: &T) -> io::Result<()> {
    let half = half(run_dir, file);
    fs::write(&half, serde_json::to_vec(value)?)?;
    fs::rename(half, run_dir.join(file))
}

/// Removes it, if it is there.
pub(crate) fn remove(run_dir: &Path, file: &str) -> io::Result<()> {
    match fs::remove_file(run_dir.join(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn half(run_dir: &Path, file: &str) -> PathBuf {
    run_dir.join(format!(".{file}.new"))
}
