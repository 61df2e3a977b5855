//! What the agent leaves for `margayctl` about pools: a file below the run directory, written anew at each change.

use std::{io, path::Path};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::left;

/// The file's name below [`RUN_DIR`](crate::paths::RUN_DIR).
const FILE: &str = "pools.json";

/// Pools and blocks as the agent knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// All pools, those first that are asked first.
    pub pools: Vec<PoolRow>,
    /// This node's blocks.
    pub blocks: Vec<BlockRow>,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow {
    /// Its name.
    pub name: String,
    /// Its range.
    pub cidr: String,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Blocks that nodes have.
    pub claimed_blocks: u64,
    /// Blocks that there are.
    pub total_blocks: u64,
    /// Whether it gives addresses on this node, in one word.
    pub state: String,
    /// What that means, where it needs words.
    pub message: String,
}

/// A block of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// Its range.
    pub cidr: IpNetwork,
    /// The pool that it is of; none when the pool is gone or no longer holds it.
    pub pool: Option<String>,
}

impl Snapshot {
    /// The last one written; `None` without pools.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(run_dir: &Path) -> io::Result<Option<Self>> {
        left::read(run_dir, FILE)
    }

    /// Whether there is one: the agent is in mode `pool`, and knows best whether addresses are left.
    pub fn is_there(run_dir: &Path) -> bool {
        run_dir.join(FILE).exists()
    }

    /// Puts it in the place of the last one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        left::write(run_dir, FILE, self)
    }

    /// Removes what an agent in mode `pool` left.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(run_dir: &Path) -> io::Result<()> {
        left::remove(run_dir, FILE)
    }
}
