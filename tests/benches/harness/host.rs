//! What a node of a benchmark gets from outside.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

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

/// Runs a program that reads what to do.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}; ./setup installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}: {input}", String::from_utf8_lossy(&output.stderr));
}
