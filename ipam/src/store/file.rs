//! One block in one file, locked: the only place here that reads and writes the disk.
//!
//! One file for each block, in `blocks/`, named after its network: a header, then a slot of 128 octets for each
//! address. An address changes hands by one `write` of one slot under the file's lock, so a process that is
//! killed has either written it or not; a slot that a failing machine tore has a wrong checksum and counts as
//! held. Nothing is flushed to the medium: a machine that loses power loses its pods too, and the agent frees
//! what no endpoint record names.
//!
//! ```text
//! octet 0      4      5      6      7      8         16        32             128
//!       | crc32 | state | id n | if n |  0   |  freed  | ifname  | container ID |
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use nix::fcntl::{Flock, FlockArg};

use super::Error;
use crate::{Block, Offset, Owner, Slot, Window};

/// With the version of the form in the next octet. A later version may give what is zero here a meaning, if those who do
/// not know it get nothing wrong; else it has another number.
const MAGIC: &[u8; 7] = b"MGYBLK\x00";
const VERSION: u8 = 1;
pub(super) const HEADER: usize = 128;
pub(super) const SLOT: usize = 128;
const FREE: u8 = 0;
const HELD: u8 = 1;

/// Whether new addresses come from a block: in its header, after the magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// They do.
    Active = 1,
    /// They do not any more; its file goes with its last address.
    Retired = 2,
}

/// What a block's file is called.
pub(super) fn file_name(network: IpNetwork) -> String {
    format!("{}-{}.block", network.network(), network.prefix())
}

/// A block's file, locked, with what it says.
pub(super) struct OpenBlock {
    path: PathBuf,
    file: Flock<File>,
    pub(super) state: State,
    pub(super) block: Block,
}

impl OpenBlock {
    pub(super) fn create(path: &Path, window: Window) -> Result<Self, Error> {
        let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
        if !path.exists() {
            let half = path.with_extension("new");
            let mut header = [0; HEADER];
            header[..7].copy_from_slice(MAGIC);
            header[7] = VERSION;
            header[8] = State::Active as u8;
            let text = window.network().to_string();
            header[9] = u8::try_from(text.len()).unwrap_or_default();
            header[10..10 + text.len()].copy_from_slice(text.as_bytes());
            // Linked into place, so that of two that create it at once one wins and both use the same file.
            fs::write(&half, header).map_err(failed("write block file"))?;
            match fs::hard_link(&half, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("create block file")(error));
                }
                _ => {}
            }
            fs::remove_file(&half).map_err(failed("remove"))?;
        }
        Self::open(path)
    }

    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
        let damaged = |reason| Error::Damaged { path: path.to_owned(), reason };
        loop {
            let file =
                OpenOptions::new().read(true).write(true).open(path).map_err(failed("open block file"))?;
            let mut file = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| failed("lock block file")(io::Error::from(errno)))?;
            // Somebody may have removed the file before we had its lock: then it is nobody's any more.
            if nix::sys::stat::fstat(&*file).map_err(|e| failed("stat block file")(e.into()))?.st_nlink == 0 {
                continue;
            }
            let mut octets = Vec::new();
            file.seek(SeekFrom::Start(0)).map_err(failed("read block file"))?;
            file.read_to_end(&mut octets).map_err(failed("read block file"))?;
            // What is behind its end reads as zeros once a later slot is written: so it does now.
            let behind = octets.len().saturating_sub(HEADER);
            octets.resize(octets.len() + behind.next_multiple_of(SLOT) - behind, 0);
            let (header, slots) =
                octets.split_at_checked(HEADER).ok_or_else(|| damaged("it is shorter than its header"))?;
            if !header.starts_with(MAGIC) {
                return Err(damaged("it does not begin as a block file"));
            }
            if header[7] != VERSION {
                return Err(Error::Version { path: path.to_owned(), found: header[7], known: VERSION });
            }
            let network: IpNetwork = header
                .get(10..10 + usize::from(header[9]))
                .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
                .ok_or_else(|| damaged("its header names no network"))?;
            let window = Window::of(network)
                .map_err(|_not_a_block| damaged("its header names a network that is no block"))?;
            // Else the addresses of another node's block would be handed out here.
            if path.file_name().is_none_or(|name| name != file_name(network).as_str()) {
                return Err(damaged("its header names another network than its name does"));
            }
            let state = match header[8] {
                1 => State::Active,
                2 => State::Retired,
                _ => return Err(damaged("its header has a state that this version does not know")),
            };
            let block =
                Block::new(window, slots.chunks(SLOT).take(window.len() as usize).map(decode).collect());
            return Ok(Self { path: path.to_owned(), state, file, block });
        }
    }

    pub(super) fn write(&mut self, offset: Offset, slot: Slot) -> Result<(), Error> {
        let place = HEADER + offset.0 as usize * SLOT;
        self.file.write_all_at(&encode(&slot), place as u64).map_err(|source| Error::File {
            action: "write block file",
            path: self.path.clone(),
            source,
        })?;
        self.block.put(offset, slot);
        Ok(())
    }

    pub(super) fn free(&mut self, offset: Offset) -> Result<(), Error> {
        let freed = self.block.next_freed();
        self.write(offset, Slot::Free { freed })
    }

    pub(super) fn set_state(&mut self, state: State) -> Result<(), Error> {
        if self.state != state {
            self.file.write_all_at(&[state as u8], 8).map_err(|source| Error::File {
                action: "write block file",
                path: self.path.clone(),
                source,
            })?;
            self.state = state;
        }
        Ok(())
    }

    /// True when it was.
    pub(super) fn remove_if_empty(self) -> Result<bool, Error> {
        if self.block.slots().any(|(_, slot)| !matches!(slot, Slot::Free { .. })) {
            return Ok(false);
        }
        fs::remove_file(&self.path).map_err(|source| Error::File {
            action: "remove block file",
            path: self.path.clone(),
            source,
        })?;
        Ok(true)
    }
}

fn encode(slot: &Slot) -> [u8; SLOT] {
    let mut octets = [0; SLOT];
    match slot {
        Slot::Free { freed } => {
            octets[4] = FREE;
            octets[8..16].copy_from_slice(&freed.to_le_bytes());
        }
        Slot::Held { owner } => {
            let (id, ifname) = (owner.container_id().as_bytes(), owner.ifname().as_bytes());
            octets[4] = HELD;
            // `Owner` holds the lengths to 96 and 15.
            octets[5] = u8::try_from(id.len()).unwrap_or(u8::MAX);
            octets[6] = u8::try_from(ifname.len()).unwrap_or(u8::MAX);
            octets[16..16 + ifname.len()].copy_from_slice(ifname);
            octets[32..32 + id.len()].copy_from_slice(id);
        }
        Slot::Damaged => octets[4] = u8::MAX,
    }
    let crc = crc32fast::hash(&octets[4..]);
    octets[..4].copy_from_slice(&crc.to_le_bytes());
    octets
}

fn decode(octets: &[u8]) -> Slot {
    if octets.iter().all(|octet| *octet == 0) {
        // A hole in the file: never written.
        return Slot::Free { freed: 0 };
    }
    decode_written(octets).unwrap_or(Slot::Damaged)
}

fn decode_written(octets: &[u8]) -> Option<Slot> {
    let octets: &[u8; SLOT] = octets.try_into().ok()?;
    if crc32fast::hash(&octets[4..]).to_le_bytes() != octets[..4] {
        return None;
    }
    match octets[4] {
        FREE => Some(Slot::Free { freed: u64::from_le_bytes(octets[8..16].try_into().ok()?) }),
        HELD => {
            let ifname = octets.get(16..16 + usize::from(octets[6]))?;
            let id = octets.get(32..32 + usize::from(octets[5]))?;
            let owner = Owner::new(std::str::from_utf8(id).ok()?, std::str::from_utf8(ifname).ok()?).ok()?;
            Some(Slot::Held { owner })
        }
        _ => None,
    }
}
