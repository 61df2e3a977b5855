//! What a node of a benchmark gets from outside.

use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A bpf file system, mounted until it is dropped.
pub(crate) struct BpfFs(PathBuf);

impl BpfFs {
    /// The directory is made.
    pub(crate) fn mount(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        mount(Some("bpf"), &at, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self(at)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // The folder that it is in says so if it is still there.
        let _gone = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
