//! What the agent leaves for `margayctl` about the ways to other nodes: a file below the run directory.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use crate::left;

/// The file's name below [`RUN_DIR`](crate::paths::RUN_DIR).
const FILE: &str = "ways.json";

/// What the tests of the ways to other nodes have found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ways {
    /// Ways that there are.
    pub all: usize,
    /// Those through which all passes.
    pub well: usize,
    /// Those to nodes that do not answer at all.
    pub silent: usize,
    /// What does not pass, and what to do.
    pub problems: Vec<String>,
    /// What the agent has changed so that it passes.
    pub corrections: Vec<String>,
}

impl Ways {
    /// The last one written; `None` while nothing is tested.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(run_dir: &Path) -> io::Result<Option<Self>> {
        left::read(run_dir, FILE)
    }

    /// Puts it in the place of the last one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        left::write(run_dir, FILE, self)
    }

    /// Removes what an agent that tested ways left.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(run_dir: &Path) -> io::Result<()> {
        left::remove(run_dir, FILE)
    }
}
