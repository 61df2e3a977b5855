//! Network namespaces.

mod enter;

use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    sys::{
        stat::fstat,
        statfs::{FsType, fstatfs},
    },
};

pub use enter::Entered;

use crate::Error;

/// `NSFS_MAGIC` of `linux/magic.h`: the file system that namespace files are on.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// An open network namespace, which lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    name: String,
}

impl Namespace {
    /// Opens the namespace at a path such as `/run/netns/blue` or `/proc/7/ns/net`.
    ///
    /// # Errors
    /// When there is nothing at the path (`ENOENT`), or something that is no namespace (`EINVAL`).
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let refused = |errno| Error::Namespace { action: "open", namespace: name.clone(), errno };
        // Of a pipe in its place nobody may ever open the other end.
        let file =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| {
                refused(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
            })?;
        let kind = fstatfs(&file).map_err(refused)?.filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(refused(Errno::EINVAL));
        }
        Ok(Self { file, name })
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Enters the namespace until the guard is dropped.
    ///
    /// # Errors
    /// When the process lacks `CAP_SYS_ADMIN`, or the file is a namespace of another kind.
    pub fn enter(&self) -> Result<Entered, Error> {
        Entered::new(self)
    }

    /// The path that it was opened at.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether two handles are of one namespace.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_same(&self, other: &Self) -> Result<bool, Error> {
        let identity =
            |namespace: &Self| {
                fstat(&namespace.file).map(|stat| (stat.st_dev, stat.st_ino)).map_err(|errno| {
                    Error::Namespace { action: "compare", namespace: namespace.name.clone(), errno }
                })
            };
        Ok(identity(self)? == identity(other)?)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
