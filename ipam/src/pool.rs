//! Pools: ranges that nodes claim blocks of.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::{Offset, Window};

/// A pool as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// When it was made, in seconds: of two that overlap, the older one is right.
    pub created: i64,
    /// What it is a range of, or what is wrong with it.
    pub range: Result<Range, Fault>,
    /// Whether it chooses this node.
    pub selects_node: bool,
    /// Who gets its addresses.
    pub assignment: Assignment,
    /// Whether it gives.
    pub supply: Supply,
}

/// Who gets addresses of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// Also pods that name no pool.
    Automatic,
    /// Pods that name it.
    Manual,
}

/// Whether a pool gives blocks and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// It does.
    Open,
    /// Its owner has turned it off.
    Disabled,
    /// Its object waits for its end.
    Deleting,
}

/// The addresses of a pool, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    cidr: IpNetwork,
    block_size: u8,
    reserved: Vec<IpNetwork>,
}

/// Why a pool gives nothing: a word for programs, words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// In `CamelCase`, as reasons of conditions are.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// A fault.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Range {
    /// Block size of an IPv4 pool that names none.
    pub const DEFAULT_IPV4: u8 = 26;
    /// Block size of an IPv6 pool that names none.
    pub const DEFAULT_IPV6: u8 = 122;

    /// Checks what the object says.
    ///
    /// # Errors
    /// When it is no range that blocks can be made of.
    pub fn new(cidr: &str, block_size: Option<u8>, reserved: &[String]) -> Result<Self, Fault> {
        let parse = |text: &str, field: &str, reason| {
            let network: IpNetwork = text
                .parse()
                .map_err(|error| Fault::new(reason, format!("spec.{field} `{text}`: {error}")))?;
            if network.ip() == network.network() {
                return Ok(network);
            }
            let (network, prefix) = (network.network(), network.prefix());
            Err(Fault::new(
                reason,
                format!("spec.{field} {text} has host bits set; did you mean {network}/{prefix}?"),
            ))
        };
        let cidr = parse(cidr, "cidr", "InvalidCIDR")?;
        let (default, most) =
            if cidr.is_ipv4() { (Self::DEFAULT_IPV4, 30) } else { (Self::DEFAULT_IPV6, 127) };
        // A range smaller than a default block is one block.
        let block_size = block_size.unwrap_or_else(|| default.max(cidr.prefix()));
        if block_size < cidr.prefix() || block_size > most {
            return Err(Fault::new(
                "InvalidBlockSize",
                format!(
                    "spec.blockSize is {block_size}; of {cidr} it takes {} to {most}, which is the prefix length of a block",
                    cidr.prefix()
                ),
            ));
        }
        let reserved = reserved.iter().map(|text| parse(text, "reserved", "InvalidReserved"));
        Ok(Self { cidr, block_size, reserved: reserved.collect::<Result<_, _>>()? })
    }

    /// All of it.
    pub fn cidr(&self) -> IpNetwork {
        self.cidr
    }

    /// Prefix length of new blocks.
    pub fn block_size(&self) -> u8 {
        self.block_size
    }

    /// What is never handed out.
    pub fn reserved(&self) -> &[IpNetwork] {
        &self.reserved
    }

    /// How many blocks it has; the largest number there is when it has more.
    pub fn total_blocks(&self) -> u64 {
        1_u64.checked_shl(u32::from(self.block_size - self.cidr.prefix())).unwrap_or(u64::MAX)
    }

    /// The block with a number from 0, which must be less than [`Self::total_blocks`].
    pub(crate) fn block(&self, number: u64) -> Option<IpNetwork> {
        let width = if self.cidr.is_ipv4() { 32 } else { 128 };
        let step = u128::from(number).checked_shl(u32::from(width - self.block_size))?;
        let address = match self.cidr.network() {
            IpAddr::V4(first) => IpAddr::V4(u32::try_from(u128::from(u32::from(first)) + step).ok()?.into()),
            IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(step)?.into()),
        };
        IpNetwork::new(address, self.block_size).ok()
    }

    /// The block of the current size that an address is in.
    pub fn block_of(&self, address: IpAddr) -> Option<IpNetwork> {
        if !self.cidr.contains(address) {
            return None;
        }
        let network = IpNetwork::new(address, self.block_size).ok()?;
        IpNetwork::new(network.network(), self.block_size).ok()
    }

    /// Whether an address is reserved.
    pub fn reserves(&self, address: IpAddr) -> bool {
        self.reserved.iter().any(|reserved| reserved.contains(address))
    }

    /// Whether a block has an address to hand out.
    pub(crate) fn has_use_for(&self, block: IpNetwork) -> bool {
        if !self.reserved.iter().any(|reserved| overlap(*reserved, block)) {
            return true;
        }
        let Ok(window) = Window::of(block) else { return false };
        let mut offsets = (0..window.len()).map(Offset);
        offsets.any(|offset| window.usable(offset) && !self.reserves(window.address(offset)))
    }
}

/// Whether two networks have an address in common.
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// Whether a network has all addresses of another.
pub fn holds(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// What may come of each pool: nothing of one with a fault. Of pools that overlap the older one is right, then the
/// one whose name comes first.
pub fn judge(pools: &BTreeMap<String, Pool>) -> BTreeMap<&str, Result<&Range, Fault>> {
    let mut verdicts = BTreeMap::new();
    let mut right: Vec<(&str, &Range)> = Vec::new();
    for (name, pool) in by_age(pools) {
        let verdict = pool.range.as_ref().map_err(Clone::clone).and_then(|range| {
            match right.iter().find(|(_, other)| overlap(other.cidr, range.cidr)) {
                None => {
                    right.push((name, range));
                    Ok(range)
                }
                Some((other, theirs)) => Err(Fault::new(
                    "Overlaps",
                    format!(
                        "{} overlaps {} of the older pool {other}; nothing is taken from this one until one of them changes",
                        range.cidr, theirs.cidr
                    ),
                )),
            }
        });
        let verdict = verdict.and_then(|range| match pool.supply {
            Supply::Open => Ok(range),
            Supply::Disabled => {
                Err(Fault::new("Disabled", "spec.disabled is true: what is in use stays, nothing is added"))
            }
            Supply::Deleting => Err(Fault::new(
                "Deleting",
                "the pool is being deleted: what is in use stays, nothing is added",
            )),
        });
        verdicts.insert(name, verdict);
    }
    verdicts
}

/// Pools in the order in which they are asked: the oldest first.
pub fn by_age(pools: &BTreeMap<String, Pool>) -> Vec<(&str, &Pool)> {
    let mut sorted: Vec<_> = pools.iter().map(|(name, pool)| (name.as_str(), pool)).collect();
    sorted.sort_by_key(|(name, pool)| (pool.created, *name));
    sorted
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::{Assignment, Pool, Range, Supply, judge};

    pub(crate) fn pool(created: i64, cidr: &str, block_size: Option<u8>) -> Pool {
        Pool {
            created,
            range: Range::new(cidr, block_size, &[]),
            selects_node: true,
            assignment: Assignment::Automatic,
            supply: Supply::Open,
        }
    }

    fn reason(pools: &BTreeMap<String, Pool>, name: &str) -> Option<&'static str> {
        judge(pools)[name].as_ref().err().map(|fault| fault.reason)
    }

    #[test]
    fn a_range_that_makes_no_blocks_is_refused_and_says_what_it_takes() {
        for (cidr, size, reserved, reason, word) in [
            ("192.0.2.0/24", Some(23), &[][..], "InvalidBlockSize", "24 to 30"),
            ("192.0.2.0/24", Some(31), &[], "InvalidBlockSize", "24 to 30"),
            ("2001:db8::/64", Some(128), &[], "InvalidBlockSize", "64 to 127"),
            ("192.0.2.0/31", None, &[], "InvalidBlockSize", "31"),
            ("192.0.2.1/24", None, &[], "InvalidCIDR", "192.0.2.0/24"),
            ("blue", None, &[], "InvalidCIDR", "blue"),
            ("192.0.2.0/24", None, &["192.0.2.1/25"], "InvalidReserved", "192.0.2.0/25"),
        ] {
            let reserved: Vec<String> = reserved.iter().map(|text| (*text).to_owned()).collect();
            let fault = Range::new(cidr, size, &reserved).unwrap_err();
            assert_eq!(fault.reason, reason, "{cidr}");
            assert!(fault.message.contains(word), "{fault}");
        }
    }

    #[test]
    fn blocks_are_numbered_through_the_range_in_both_families() {
        for (cidr, size, number, block, total) in [
            ("10.0.0.0/16", None, 3, "10.0.0.192/26", 1024),
            ("2001:db8::/64", None, 1, "2001:db8::40/122", 1 << 58),
            ("2001:db8::/48", Some(120), 0, "2001:db8::/120", u64::MAX),
            ("10.0.0.0/28", None, 0, "10.0.0.0/28", 1),
        ] {
            let range = Range::new(cidr, size, &[]).unwrap();
            let block = block.parse().unwrap();
            assert_eq!(range.block(number), Some(block), "{cidr}");
            assert_eq!(range.block_of(block.network()), Some(block), "{cidr}");
            assert_eq!(range.total_blocks(), total, "{cidr}");
        }
    }

    #[test]
    fn a_block_that_is_reserved_whole_is_of_no_use() {
        let reserved = ["10.0.0.0/26".to_owned(), "10.0.0.65".to_owned()];
        let range = Range::new("10.0.0.0/16", None, &reserved).unwrap();
        assert!(!range.has_use_for(range.block(0).unwrap()));
        assert!(range.has_use_for(range.block(1).unwrap()));
    }

    #[test]
    fn the_older_of_two_overlapping_pools_is_right_then_the_first_name() {
        let mut pools: BTreeMap<String, Pool> = [
            ("a".to_owned(), pool(2, "10.0.0.0/24", None)),
            ("b".to_owned(), pool(1, "10.0.0.0/16", None)),
            ("c".to_owned(), pool(2, "10.1.0.0/16", None)),
            ("d".to_owned(), pool(2, "10.1.2.0/24", None)),
            // Overlaps only what is not right itself.
            ("e".to_owned(), pool(3, "2001:db8::/64", None)),
        ]
        .into();
        for (name, expected) in
            [("a", Some("Overlaps")), ("b", None), ("c", None), ("d", Some("Overlaps")), ("e", None)]
        {
            assert_eq!(reason(&pools, name), expected, "{name}");
        }
        // One that is off has its range all the same: its blocks may be in use.
        pools.get_mut("b").unwrap().supply = Supply::Disabled;
        assert_eq!(reason(&pools, "b"), Some("Disabled"));
        assert_eq!(reason(&pools, "a"), Some("Overlaps"));
        pools.remove("b");
        assert_eq!(reason(&pools, "a"), None);
    }
}
