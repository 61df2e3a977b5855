//! Putting the CNI plugins where the runtime finds them.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::Context;
use margay_api::paths::CNI_TYPE;
use tracing::info;

/// The names under which the one binary is installed; the first because runtimes want a `loopback` plugin. It comes first, as
/// what is there of the other tells whose it is.
const NAMES: [&str; 2] = ["loopback", CNI_TYPE];

/// Copies the plugin under each of its names. Each copy is written beside its place and renamed into it, so that
/// a runtime that starts it meanwhile, or after the node lost its power, gets the old one or the new one, whole. A
/// `loopback` of others stays.
pub(crate) fn run(from: &Path, to: &Path) -> anyhow::Result<()> {
    let source = from.join(CNI_TYPE);
    let binary = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    // Of the version before: a copy of it is ours too.
    let before = fs::read(to.join(CNI_TYPE)).ok();
    for name in NAMES {
        let target = to.join(name);
        let present = fs::read(&target).ok();
        if present.as_ref() == Some(&binary) {
            continue;
        }
        if name != CNI_TYPE && target.exists() && (present.is_none() || present != before) {
            info!(target = %target.display(), "a plugin of others is there already; it stays");
            continue;
        }
        replace(to, name, &binary).with_context(|| format!("install {}", target.display()))?;
        info!(target = %target.display(), "installed");
    }
    Ok(())
}

fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let half = folder.join(format!(".{name}.new"));
    let mut file = File::create(&half)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()?;
    fs::rename(&half, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{NAMES, run};

    #[test]
    fn plugins_are_installed_whole_and_executable_and_a_foreign_loopback_stays() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("margay"), "new").unwrap();
        fs::write(to.path().join("margay"), "old").unwrap();
        fs::write(to.path().join("loopback"), "foreign").unwrap();
        run(from.path(), to.path()).unwrap();
        assert_eq!(fs::read(to.path().join("margay")).unwrap(), b"new");
        assert_eq!(fs::read(to.path().join("loopback")).unwrap(), b"foreign");
        let mode = fs::metadata(to.path().join("margay")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_upgrade_takes_our_own_loopback_along() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for version in ["old", "new"] {
            fs::write(from.path().join("margay"), version).unwrap();
            run(from.path(), to.path()).unwrap();
        }
        for name in NAMES {
            assert_eq!(fs::read(to.path().join(name)).unwrap(), b"new", "{name}");
        }
    }
}
