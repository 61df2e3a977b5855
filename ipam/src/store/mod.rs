//! The blocks of a node on disk: which of them an address comes from, for several processes at once.

mod file;

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use file::{OpenBlock, State, file_name};
use ipnetwork::IpNetwork;

use crate::{Offset, Owner, Slot, Window, WindowError, allocate::Wish};

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
    #[error("block file {} is damaged: {reason}; move it away and restart the agent, which makes it anew with the addresses that pods have", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another version wrote a block's file.
    #[error(
        "block file {} is of version {found}, and this version of Margay knows version {known} alone; run the one that wrote it, or move it away and restart the agent, which makes it anew with the addresses that pods have",
        .path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: u8,
        /// What this version reads and writes.
        known: u8,
    },
    /// The node has no block yet.
    #[error(
        "this node has no address block; has it got a podCIDR (kubectl get node -o jsonpath={{.items[*].spec.podCIDRs}})?"
    )]
    NoBlock,
    /// All addresses of a family are held.
    #[error(
        "no free address in {blocks}: all {held} are held; remove pods from this node, or give it a larger podCIDR or another IPPool"
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
    /// A requested address may not be handed out.
    #[error("address {0} was asked for, but it is reserved, or an interface of this node has it")]
    Withheld(IpAddr),
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

/// Where an owner's addresses come from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// The blocks, the preferred ones first. It gets an address of each family that they are of.
    pub blocks: &'a [IpNetwork],
    /// Addresses and ranges that it may not have.
    pub excluded: &'a [IpNetwork],
    /// Addresses that it must have.
    pub wishes: &'a [IpAddr],
}

/// How much of a block is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The block.
    pub network: IpNetwork,
    /// Whether addresses are taken from it.
    pub active: bool,
    /// Addresses held.
    pub held: usize,
    /// Addresses that can be taken.
    pub free: usize,
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
            OpenBlock::create(&self.path(window.network()), *window)?.set_state(State::Active)?;
        }
        for path in self.paths()? {
            let mut open = OpenBlock::open(&path)?;
            if networks.contains(&open.block.window().network()) {
                continue;
            }
            open.set_state(State::Retired)?;
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
            .filter(|open| open.state == State::Active)
            .map(|open| open.block.window().network())
            .collect())
    }

    /// Takes addresses from a block from now on.
    ///
    /// # Errors
    /// When it cannot be a block (nothing is done then) or the file system refuses.
    pub fn activate(&self, network: IpNetwork) -> Result<(), Error> {
        let window = Window::of(network)?;
        fs::create_dir_all(&self.blocks).map_err(|source| self.failed("create directory", source))?;
        OpenBlock::create(&self.path(network), window)?.set_state(State::Active)
    }

    /// Takes no more addresses from a block; its file goes with its last one. One that is gone is success.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn retire(&self, network: IpNetwork) -> Result<(), Error> {
        let Some(mut open) = self.open(network)? else { return Ok(()) };
        open.set_state(State::Retired)?;
        open.remove_if_empty()?;
        Ok(())
    }

    /// Removes a block that holds nothing; true when it is gone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_if_empty(&self, network: IpNetwork) -> Result<bool, Error> {
        self.open(network)?.map_or(Ok(true), OpenBlock::remove_if_empty)
    }

    /// How much of each block is in use, in order. `withheld` are addresses that are not handed out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn usage(&self, withheld: impl Fn(IpAddr) -> bool) -> Result<Vec<Usage>, Error> {
        let usage = |open: &OpenBlock| {
            let window = open.block.window();
            let is_held = |offset: &Offset| !matches!(open.block.slot(*offset), Slot::Free { .. });
            let offsets = || (0..window.len()).map(Offset);
            let can_be_taken = |offset: &Offset| {
                window.usable(*offset) && !is_held(offset) && !withheld(window.address(*offset))
            };
            Usage {
                network: window.network(),
                active: open.state == State::Active,
                held: offsets().filter(is_held).count(),
                free: offsets().filter(can_be_taken).count(),
            }
        };
        Ok(self.open_all()?.iter().map(usage).collect())
    }

    /// Gives an owner an address of each family, all or none. An owner that holds one keeps it. `wishes` are
    /// addresses that it must be.
    ///
    /// # Errors
    /// When a family is exhausted, a wish cannot be met, or the store cannot be written.
    pub fn allocate(&self, owner: &Owner, wishes: &[IpAddr]) -> Result<Reserved, Error> {
        let blocks = self.blocks()?;
        self.allocate_from(owner, Choice { blocks: &blocks, wishes, ..Choice::default() })
    }

    /// As [`Self::allocate`], from certain blocks. No other is looked at.
    ///
    /// # Errors
    /// When a family is exhausted, a wish cannot be met, or the store cannot be written.
    pub fn allocate_from(&self, owner: &Owner, choice: Choice<'_>) -> Result<Reserved, Error> {
        let Choice { blocks, excluded, wishes } = choice;
        let mut families: Vec<bool> = blocks.iter().map(IpNetwork::is_ipv4).collect();
        // IPv4 first.
        families.sort_unstable_by_key(|is_ipv4| !is_ipv4);
        families.dedup();
        if families.is_empty() {
            return Err(Error::NoBlock);
        }
        let mut opened = open_in_order(blocks.iter().map(|network| self.path(*network)).collect())?;
        opened
            .sort_by_key(|open| blocks.iter().position(|network| *network == open.block.window().network()));
        for wish in wishes {
            if excluded.iter().any(|range| range.contains(*wish)) {
                return Err(Error::Withheld(*wish));
            }
        }
        for wish in wishes {
            if !opened
                .iter()
                .any(|open| open.state == State::Active && open.block.window().offset(*wish).is_some())
            {
                return Err(Error::NotOurs(*wish));
            }
        }
        // All decisions come before the first write, which leaves a failing disk as the only way to half of it.
        let mut chosen = Vec::new();
        let mut held = Held::Newly;
        for is_ipv4 in families {
            let wish = wishes.iter().find(|wish| wish.is_ipv4() == is_ipv4).copied();
            let (place, offset, before) = choose(&opened, owner, is_ipv4, wish, excluded)?;
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

    /// Has an owner hold those of these addresses that are free in a block here, and says which.
    ///
    /// # Errors
    /// When the store cannot be read or written; what could be held is.
    pub fn hold(&self, owner: &Owner, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let mut held = Vec::new();
        for mut open in self.open_all()? {
            for address in addresses {
                let Some(offset) = open.block.window().offset(*address) else { continue };
                if matches!(open.block.slot(offset), Slot::Free { .. }) {
                    open.write(offset, Slot::Held { owner: owner.clone() })?;
                    held.push(*address);
                }
            }
        }
        Ok(held)
    }

    /// Frees all that an owner holds, and says what. Nothing held is success.
    ///
    /// # Errors
    /// When the store cannot be read or written; what could be freed is.
    pub fn release(&self, owner: &Owner) -> Result<Vec<IpAddr>, Error> {
        let mut freed = Vec::new();
        for mut open in self.open_all()? {
            let mut offsets = Vec::new();
            for (offset, slot) in open.block.slots() {
                if matches!(slot, Slot::Held { owner: holder } if holder == owner) {
                    offsets.push(offset);
                }
            }
            for offset in offsets {
                open.free(offset)?;
                freed.push(open.block.window().address(offset));
            }
            if open.state == State::Retired {
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
        for open in self.open_all()?.iter().filter(|open| open.state == State::Active) {
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

    fn open_all(&self) -> Result<Vec<OpenBlock>, Error> {
        let mut opened = open_in_order(self.paths()?)?;
        opened.sort_by_key(|open| (open.block.window().network().is_ipv6(), open.block.window().network()));
        Ok(opened)
    }

    fn open(&self, network: IpNetwork) -> Result<Option<OpenBlock>, Error> {
        Ok(open_in_order([self.path(network)].into())?.pop())
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
        self.blocks.join(file_name(network))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::File { action, path: self.blocks.clone(), source }
    }
}

/// Opens and locks blocks in the order of their names, which is the same for everyone: no deadlock.
fn open_in_order(paths: BTreeSet<PathBuf>) -> Result<Vec<OpenBlock>, Error> {
    let mut opened = Vec::new();
    for path in paths {
        match OpenBlock::open(&path) {
            Ok(open) => opened.push(open),
            // Removed since it was listed.
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(opened)
}

/// The block and offset for an owner, and whether it holds that already.
fn choose(
    opened: &[OpenBlock],
    owner: &Owner,
    is_ipv4: bool,
    wish: Option<IpAddr>,
    excluded: &[IpNetwork],
) -> Result<(usize, Offset, bool), Error> {
    let family = || {
        opened.iter().enumerate().filter(|(_, open)| {
            open.block.window().network().is_ipv4() == is_ipv4 && open.state == State::Active
        })
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
    family().find_map(|(place, open)| Some((place, open.block.next_free_but(excluded)?, false))).ok_or_else(
        || {
            let blocks: Vec<String> =
                family().map(|(_, open)| open.block.window().network().to_string()).collect();
            let held = family()
                .map(|(_, open)| open.block.slots().filter(|(o, _)| open.block.window().usable(*o)).count());
            Error::Exhausted { held: held.sum(), blocks: blocks.join(", ") }
        },
    )
}

#[cfg(test)]
mod tests;
