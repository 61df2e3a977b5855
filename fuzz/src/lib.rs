//! What fuzz targets have in common.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// The input before its first empty line, and what comes after it.
pub fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    let gap = input.windows(2).position(|pair| pair == b"\n\n");
    gap.map_or((input, &[]), |at| (&input[..at], &input[at + 2..]))
}

/// A folder in memory, gone with its end.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one, empty.
    #[expect(clippy::new_without_default, reason = "it has an effect")]
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new("/dev/shm").join(format!("margay-fuzz-{}-{number}", process::id()));
        fs::create_dir(&path).expect("a folder in /dev/shm");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}
