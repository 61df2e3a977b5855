//! File systems of a machine.

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where a shadowed directory can still be found.
const HIDDEN: &str = "/run/.host";

/// Moves the calling thread to namespaces of its own, with private directories that the host does not see.
pub(super) fn isolate(host_name: &str, private: &[&str]) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
        .context("make namespaces; the lab needs root (CAP_SYS_ADMIN)")?;
    sethostname(host_name).context("set the host name")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make all mounts private")?;
    // A fresh /sys shows the machine's own interfaces, and pinned eBPF objects of its own. Some sandboxes refuse.
    for (kind, at) in [("sysfs", "/sys"), ("bpf", "/sys/fs/bpf")] {
        if let Err(errno) = mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
            tracing::debug!(kind, at, %errno, "a file system of the machine's own cannot be mounted");
        }
    }
    tmpfs(Path::new("/run"))?;
    let mut shadowed = BTreeSet::new();
    for path in private {
        own_directory(Path::new(path), &mut shadowed).with_context(|| format!("make a private {path}"))?;
    }
    for directory in ["/run/netns", "/run/lab"] {
        fs::create_dir(directory).with_context(|| format!("make {directory}"))?;
    }
    Ok(())
}

/// Makes `path` an empty directory, without making anything in the host's file system.
fn own_directory(path: &Path, shadowed: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let parent = path.parent().context("it is the root")?;
    if !shadowed.contains(parent) {
        if path.is_dir() {
            return tmpfs(path);
        }
        shadow(parent)?;
        shadowed.insert(parent.to_owned());
    }
    // What the host has by this name is a link by now.
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path)?;
    }
    fs::create_dir(path).context("create it")
}

/// Puts a writable directory over `path` in which all entries are links to what was there.
fn shadow(path: &Path) -> anyhow::Result<()> {
    let name = path.to_string_lossy().trim_matches('/').replace('/', "-");
    let below = Path::new(HIDDEN).join(name);
    fs::create_dir_all(&below)?;
    mount(Some(path), &below, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("keep {}", path.display()))?;
    tmpfs(path)?;
    for entry in fs::read_dir(&below)? {
        let entry = entry?;
        symlink(entry.path(), path.join(entry.file_name()))?;
    }
    Ok(())
}

fn tmpfs(path: &Path) -> anyhow::Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .with_context(|| format!("mount a tmpfs on {}", path.display()))
}
