//! Blocks on disk: the only file here that touches it.
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
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    net::IpAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use nix::fcntl::{Flock, FlockArg};

use crate::{Block, Offset, Owner, Slot, Window, WindowError, allocate::Wish};

const MAGIC: &[u8; 8] = b"MGYBLK\x00\x01";
const HEADER: usize = 128;
const SLOT: usize = 128;
const FREE: u8 = 0;
const HELD: u8 = 1;
/// In the header, after the magic: whether new addresses come from this block.
const ACTIVE: u8 = 1;
const RETIRED: u8 = 2;

/// A failure of the store. Nothing has changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A network cannot be a block.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A block's file is not what we write.
    #[error("block file {} is damaged: {reason}; move it away and restart the agent, which frees what no pod holds", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The node has no block yet.
    #[error(
        "this node has no address block; has it got a podCIDR (kubectl get node -o jsonpath={{.items[*].spec.podCIDRs}})?"
    )]
    NoBlock,
    /// All addresses of a family are held.
    #[error(
        "no free address in {blocks}: all {held} are held; remove pods from this node or give it a larger podCIDR"
    )]
    Exhausted {
        /// The blocks, in words.
        blocks: String,
        /// How many addresses they have.
        held: usize,
    },
    /// A requested address is in no block of this node.
    #[error("address {0} was asked for, but is in no address block of this node")]
    NotOurs(IpAddr),
    /// A requested address is held by another.
    #[error("address {address} was asked for, but {holder} holds it")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: String,
    },
}

/// Addresses that an owner holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// One of each family that the node has blocks of, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Whether they were held by the owner before: its earlier call was cut off.
    pub held: Held,
}

/// Whether an allocation is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// They are the owner's only now.
    Newly,
    /// The owner had at least one of them before.
    Before,
}

/// One address and its holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Its holder; `None` when the slot is damaged.
    pub owner: Option<Owner>,
}

/// The blocks of this node.
#[derive(Debug, Clone)]
pub struct Store {
    blocks: PathBuf,
}

impl Store {
    /// The store in a directory, which need not exist before [`Store::set_blocks`].
    pub fn new(dir: &Path) -> Self {
        Self { blocks: dir.join("blocks") }
    }

    /// Makes these the blocks that addresses come from. A block no longer named gives no more addresses, and
    /// its file goes with its last one.
    ///
    /// # Errors
    /// When a network cannot be a block (nothing is done then) or the file system refuses.
    pub fn set_blocks(&self, networks: &[IpNetwork]) -> Result<(), Error> {
        let windows = networks.iter().map(|network| Window::of(*network)).collect::<Result<Vec<_>, _>>()?;
        fs::create_dir_all(&self.blocks).map_err(|source| self.failed("create directory", source))?;
        for window in &windows {
            OpenBlock::create(&self.path(window.network()), *window)?.set_state(ACTIVE)?;
        }
        for path in self.paths()? {
            let mut open = OpenBlock::open(&path)?;
            if networks.contains(&open.block.window().network()) {
                continue;
            }
            open.set_state(RETIRED)?;
            open.remove_if_empty()?;
        }
        Ok(())
    }

    /// The blocks that addresses come from, in order, IPv4 first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn blocks(&self) -> Result<Vec<IpNetwork>, Error> {
        let opened = self.open_all()?;
        Ok(opened
            .iter()
            .filter(|open| open.state == ACTIVE)
            .map(|open| open.block.window().network())
            .collect())
    }

    /// Gives an owner an address of each family, all or none. An owner that holds one keeps it. `wishes` are
    /// addresses that it must be.
    ///
    /// # Errors
    /// When a family is exhausted, a wish cannot be met, or the store cannot be written.
    pub fn allocate(&self, owner: &Owner, wishes: &[IpAddr]) -> Result<Reserved, Error> {
        let mut opened = self.open_all()?;
        let mut families: Vec<bool> = opened
            .iter()
            .filter(|open| open.state == ACTIVE)
            .map(|open| open.block.window().network().is_ipv4())
            .collect();
        families.dedup();
        if families.is_empty() {
            return Err(Error::NoBlock);
        }
        for wish in wishes {
            if !opened.iter().any(|open| open.state == ACTIVE && open.block.window().offset(*wish).is_some())
            {
                return Err(Error::NotOurs(*wish));
            }
        }
        // All decisions come before the first write, which leaves a failing disk as the only way to half of it.
        let mut chosen = Vec::new();
        let mut held = Held::Newly;
        for is_ipv4 in families {
            let wish = wishes.iter().find(|wish| wish.is_ipv4() == is_ipv4).copied();
            let (place, offset, before) = choose(&opened, owner, is_ipv4, wish)?;
            if before {
                held = Held::Before;
            }
            chosen.push((place, offset, before));
        }
        let mut addresses = Vec::new();
        for (index, (place, offset, before)) in chosen.iter().enumerate() {
            let open = &mut opened[*place];
            if !before && let Err(error) = open.write(*offset, Slot::Held { owner: owner.clone() }) {
                for (place, offset, before) in &chosen[..index] {
                    if !before {
                        opened[*place].free(*offset)?;
                    }
                }
                return Err(error);
            }
            addresses.push(open.block.window().address(*offset));
        }
        Ok(Reserved { addresses, held })
    }

    /// Frees all that an owner holds, and says what. Nothing held is success.
    ///
    /// # Errors
    /// When the store cannot be read or written; what could be freed is.
    pub fn release(&self, owner: &Owner) -> Result<Vec<IpAddr>, Error> {
        self.release_where(|holder| holder == owner)
    }

    /// Frees what every owner holds for whom `leaked` is true, and says what.
    ///
    /// # Errors
    /// When the store cannot be read or written; what could be freed is.
    pub fn release_where(&self, mut leaked: impl FnMut(&Owner) -> bool) -> Result<Vec<IpAddr>, Error> {
        let mut freed = Vec::new();
        for mut open in self.open_all()? {
            let mut offsets = Vec::new();
            for (offset, slot) in open.block.slots() {
                if let Slot::Held { owner } = slot
                    && leaked(owner)
                {
                    offsets.push(offset);
                }
            }
            for offset in offsets {
                open.free(offset)?;
                freed.push(open.block.window().address(offset));
            }
            if open.state == RETIRED {
                open.remove_if_empty()?;
            }
        }
        Ok(freed)
    }

    /// All addresses held, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn allocations(&self) -> Result<Vec<Allocation>, Error> {
        let mut found = Vec::new();
        for open in self.open_all()? {
            for (offset, slot) in open.block.slots() {
                let owner = match slot {
                    Slot::Free { .. } => continue,
                    Slot::Held { owner } => Some(owner.clone()),
                    Slot::Damaged => None,
                };
                found.push(Allocation { address: open.block.window().address(offset), owner });
            }
        }
        Ok(found)
    }

    /// How many addresses of the blocks in use are free, by family: (IPv4, IPv6); `None` without a block.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn free(&self) -> Result<[Option<usize>; 2], Error> {
        let mut free = [None, None];
        for open in self.open_all()?.iter().filter(|open| open.state == ACTIVE) {
            let window = open.block.window();
            let count = (0..window.len())
                .map(Offset)
                .filter(|offset| {
                    window.usable(*offset) && matches!(open.block.slot(*offset), Slot::Free { .. })
                })
                .count();
            *free[usize::from(window.network().is_ipv6())].get_or_insert(0) += count;
        }
        Ok(free)
    }

    /// Opens and locks all blocks in the order of their names, which is the same for everyone: no deadlock.
    fn open_all(&self) -> Result<Vec<OpenBlock>, Error> {
        let mut opened = Vec::new();
        for path in self.paths()? {
            match OpenBlock::open(&path) {
                Ok(open) => opened.push(open),
                // Removed since it was listed.
                Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        opened.sort_by_key(|open| (open.block.window().network().is_ipv6(), open.block.window().network()));
        Ok(opened)
    }

    fn paths(&self) -> Result<BTreeSet<PathBuf>, Error> {
        match fs::read_dir(&self.blocks) {
            Ok(entries) => Ok(entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "block"))
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(source) => Err(self.failed("list", source)),
        }
    }

    fn path(&self, network: IpNetwork) -> PathBuf {
        self.blocks.join(format!("{}-{}.block", network.network(), network.prefix()))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::File { action, path: self.blocks.clone(), source }
    }
}

/// The block and offset for an owner, and whether it holds that already.
fn choose(
    opened: &[OpenBlock],
    owner: &Owner,
    is_ipv4: bool,
    wish: Option<IpAddr>,
) -> Result<(usize, Offset, bool), Error> {
    let family = || {
        opened
            .iter()
            .enumerate()
            .filter(|(_, open)| open.block.window().network().is_ipv4() == is_ipv4 && open.state == ACTIVE)
    };
    let held = family().find_map(|(place, open)| Some((place, open.block.held_by(owner)?)));
    if let Some(address) = wish {
        for (place, open) in family() {
            let Some(offset) = open.block.window().offset(address) else { continue };
            return match open.block.wish(offset) {
                Wish::Free => Ok((place, offset, false)),
                Wish::HeldBy(holder) if holder == *owner => Ok((place, offset, true)),
                Wish::HeldBy(holder) => Err(Error::Taken { address, holder: holder.to_string() }),
                Wish::Damaged => Err(Error::Taken { address, holder: "a damaged entry".into() }),
            };
        }
        return Err(Error::NotOurs(address));
    }
    if let Some((place, offset)) = held {
        return Ok((place, offset, true));
    }
    family().find_map(|(place, open)| Some((place, open.block.next_free()?, false))).ok_or_else(|| {
        let blocks: Vec<String> =
            family().map(|(_, open)| open.block.window().network().to_string()).collect();
        let held = family()
            .map(|(_, open)| open.block.slots().filter(|(o, _)| open.block.window().usable(*o)).count());
        Error::Exhausted { held: held.sum(), blocks: blocks.join(", ") }
    })
}

/// A block's file, locked, with what it says.
struct OpenBlock {
    path: PathBuf,
    file: Flock<File>,
    state: u8,
    block: Block,
}

impl OpenBlock {
    fn create(path: &Path, window: Window) -> Result<Self, Error> {
        let failed = |action| move |source| Error::File { action, path: path.to_owned(), source };
        if !path.exists() {
            let half = path.with_extension("new");
            let mut header = [0; HEADER];
            header[..8].copy_from_slice(MAGIC);
            header[8] = ACTIVE;
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

    fn open(path: &Path) -> Result<Self, Error> {
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
            let (header, slots) =
                octets.split_at_checked(HEADER).ok_or_else(|| damaged("it is shorter than its header"))?;
            if !header.starts_with(MAGIC) {
                return Err(damaged("it does not begin as a block file of this version"));
            }
            let network: IpNetwork = header
                .get(10..10 + usize::from(header[9]))
                .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
                .ok_or_else(|| damaged("its header names no network"))?;
            let block = Block::new(Window::of(network)?, slots.chunks(SLOT).map(decode).collect());
            return Ok(Self { path: path.to_owned(), state: header[8], file, block });
        }
    }

    fn write(&mut self, offset: Offset, slot: Slot) -> Result<(), Error> {
        let place = HEADER + offset.0 as usize * SLOT;
        self.file.write_all_at(&encode(&slot), place as u64).map_err(|source| Error::File {
            action: "write block file",
            path: self.path.clone(),
            source,
        })?;
        self.block.put(offset, slot);
        Ok(())
    }

    fn free(&mut self, offset: Offset) -> Result<(), Error> {
        let freed = self.block.next_freed();
        self.write(offset, Slot::Free { freed })
    }

    fn set_state(&mut self, state: u8) -> Result<(), Error> {
        if self.state != state {
            self.file.write_all_at(&[state], 8).map_err(|source| Error::File {
                action: "write block file",
                path: self.path.clone(),
                source,
            })?;
            self.state = state;
        }
        Ok(())
    }

    fn remove_if_empty(self) -> Result<(), Error> {
        if self.block.slots().any(|(_, slot)| !matches!(slot, Slot::Free { .. })) {
            return Ok(());
        }
        fs::remove_file(&self.path).map_err(|source| Error::File {
            action: "remove block file",
            path: self.path.clone(),
            source,
        })
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

#[cfg(test)]
mod tests;
