//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// The programs that a node runs.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) plugin: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) speaker: PathBuf,
}

impl Binaries {
    /// Finds them in `directory`, or else beside the running program.
    pub(crate) fn find(directory: Option<&Path>) -> anyhow::Result<Self> {
        let directories = match directory {
            Some(directory) => vec![directory.to_owned()],
            None => beside()?,
        };
        let find = |name: &str| find(name, &directories);
        Ok(Self { plugin: find("margay")?, agent: find("margay-node")?, speaker: find("margay-bgp")? })
    }
}

/// Finds one of the workspace's programs, such as `margayctl`, beside the running one.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    find(name, &beside()?)
}

/// Tests run from a directory below that of programs.
fn beside() -> anyhow::Result<Vec<PathBuf>> {
    Ok(std::env::current_exe()?.ancestors().skip(1).take(2).map(Path::to_owned).collect())
}

fn find(name: &str, directories: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let found = directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
    found.and_then(|path| path.canonicalize().ok()).ok_or_else(|| {
        let places: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        anyhow::anyhow!(
            "no program {name} in {}; run cargo build --workspace --bins first",
            places.join(" or ")
        )
    })
}
