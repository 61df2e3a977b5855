//! Files that the agent leaves in a directory of its own, each in the place of the one before it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// The last one written; `None` when there is none.
///
/// # Errors
/// When it cannot be read.
pub fn read<T: DeserializeOwned>(dir: &Path, file: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(file)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts it in the place of the last one: whoever reads finds one or the other.
///
/// # Errors
/// When the file system refuses.
pub fn write<T: Serialize>(dir: &Path, file: &str, value: &T) -> io::Result<()> {
    let half = half(dir, file);
    fs::write(&half, serde_json::to_vec(value)?)?;
    fs::rename(half, dir.join(file))
}

/// Removes it, if it is there.
///
/// # Errors
/// When the file system refuses.
pub fn remove(dir: &Path, file: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn half(dir: &Path, file: &str) -> PathBuf {
    dir.join(format!(".{file}.new"))
}
