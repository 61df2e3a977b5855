//! A range of addresses that one node hands out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::Owner;

/// The place of an address in its block, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u32);

/// The part of a block's network that is handed out.
///
/// The first address is left out (in IPv6 it is the subnet-router anycast address, RFC 4291 section 2.6.1; in
/// IPv4 hosts of old take it for a broadcast), and so is the last of an IPv4 network. Of a large network only
/// the first [`Window::MAX`] addresses are used: no node runs more pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    network: IpNetwork,
}

/// A network that cannot be a block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WindowError {
    /// It has no address left to hand out.
    #[error("block {0} has no address to hand out; use a prefix of at most /{max}", max = if .0.is_ipv4() { 30 } else { 127 })]
    TooSmall(IpNetwork),
    /// Its address has bits beyond its prefix.
    #[error("block {0} has host bits set; did you mean {network}/{prefix}?", network = .0.network(), prefix = .0.prefix())]
    HostBits(IpNetwork),
}

impl Window {
    /// Addresses used of a block, at most.
    pub const MAX: u32 = 4096;

    /// The window of a block.
    ///
    /// # Errors
    /// When the network cannot be a block.
    pub fn of(network: IpNetwork) -> Result<Self, WindowError> {
        if network.ip() != network.network() {
            return Err(WindowError::HostBits(network));
        }
        let most = if network.is_ipv4() { 30 } else { 127 };
        if network.prefix() > most { Err(WindowError::TooSmall(network)) } else { Ok(Self { network }) }
    }

    /// The block's network.
    pub fn network(&self) -> IpNetwork {
        self.network
    }

    /// Offsets in the window, the ones not handed out included.
    pub fn len(&self) -> u32 {
        let width = if self.network.is_ipv4() { 32 } else { 128 };
        1_u32.checked_shl(width - u32::from(self.network.prefix())).map_or(Self::MAX, |n| n.min(Self::MAX))
    }

    /// Never: a window has an address to hand out.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether the address at this offset is handed out.
    pub fn usable(&self, offset: Offset) -> bool {
        let last_of_network = self.network.is_ipv4() && self.address(offset) == self.network.broadcast();
        offset.0 != 0 && offset.0 < self.len() && !last_of_network
    }

    /// The address at an offset.
    pub fn address(&self, offset: Offset) -> IpAddr {
        match self.network.network() {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first).wrapping_add(offset.0))),
            IpAddr::V6(first) => {
                IpAddr::V6(Ipv6Addr::from(u128::from(first).wrapping_add(u128::from(offset.0))))
            }
        }
    }

    /// The offset of an address that can be handed out.
    pub fn offset(&self, address: IpAddr) -> Option<Offset> {
        if !self.network.contains(address) {
            return None;
        }
        let distance = match (address, self.network.network()) {
            (IpAddr::V4(address), IpAddr::V4(first)) => u128::from(u32::from(address) - u32::from(first)),
            (IpAddr::V6(address), IpAddr::V6(first)) => u128::from(address) - u128::from(first),
            _ => return None,
        };
        let offset = Offset(u32::try_from(distance).ok()?);
        self.usable(offset).then_some(offset)
    }
}

/// What is known of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Nobody holds it.
    Free {
        /// When it was freed, by the block's own count; 0 when it was never held.
        freed: u64,
    },
    /// An interface holds it.
    Held {
        /// Whose it is.
        owner: Owner,
    },
    /// What is written there makes no sense. Treated as held, so that it is not handed out twice.
    Damaged,
}

/// A block with what is known of its addresses. Those beyond the end of `slots` were never held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    window: Window,
    slots: Vec<Slot>,
}

impl Block {
    /// A block whose first addresses are in this state.
    pub fn new(window: Window, slots: Vec<Slot>) -> Self {
        Self { window, slots }
    }

    /// Its window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// The state of an address.
    pub fn slot(&self, offset: Offset) -> Slot {
        self.written(offset).cloned().unwrap_or(Slot::Free { freed: 0 })
    }

    pub(crate) fn written(&self, offset: Offset) -> Option<&Slot> {
        self.slots.get(offset.0 as usize)
    }

    /// The states written so far, in order of offset.
    pub fn slots(&self) -> impl Iterator<Item = (Offset, &Slot)> {
        (0..).map(Offset).zip(&self.slots)
    }

    pub(crate) fn put(&mut self, offset: Offset, slot: Slot) {
        let place = offset.0 as usize;
        if self.slots.len() <= place {
            self.slots.resize(place + 1, Slot::Free { freed: 0 });
        }
        self.slots[place] = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::{Offset, Window, WindowError};

    fn window(text: &str) -> Result<Window, WindowError> {
        Window::of(text.parse().unwrap())
    }

    #[test]
    fn first_and_ipv4_last_addresses_are_not_handed_out() {
        for (network, usable) in [
            ("192.0.2.0/30", 2),
            ("192.0.2.0/24", 254),
            ("192.0.0.0/16", 4095),
            ("2001:db8::/127", 1),
            ("2001:db8::/64", 4095),
        ] {
            let window = window(network).unwrap();
            let count = (0..window.len()).filter(|offset| window.usable(Offset(*offset))).count();
            assert_eq!(count, usable, "{network}");
        }
    }

    #[test]
    fn addresses_and_offsets_are_inverse() {
        for network in ["192.0.2.0/24", "2001:db8::/64", "0.0.0.0/0", "::/0"] {
            let window = window(network).unwrap();
            for offset in [1, 2, 100, 253].map(Offset) {
                assert_eq!(window.offset(window.address(offset)), Some(offset), "{network}");
            }
            assert_eq!(window.offset(window.address(Offset(0))), None);
        }
        let beyond = "2001:db8::1:0:0:0".parse().unwrap();
        assert_eq!(window("2001:db8::/64").unwrap().offset(beyond), None);
    }

    #[test]
    fn a_network_without_room_or_with_host_bits_is_refused() {
        assert!(matches!(window("192.0.2.0/31"), Err(WindowError::TooSmall(_))));
        assert!(matches!(window("2001:db8::/128"), Err(WindowError::TooSmall(_))));
        assert_eq!(
            window("192.0.2.1/24").unwrap_err().to_string(),
            "block 192.0.2.1/24 has host bits set; did you mean 192.0.2.0/24?"
        );
    }
}
