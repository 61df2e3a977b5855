//! Link-layer addresses.

use std::{fmt, str::FromStr};

/// A 48-bit Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

/// Text that is no Ethernet address.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an Ethernet address; write it as 02:00:00:00:00:01")]
pub struct MacAddrError(String);

impl MacAddr {
    /// The address with these octets.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// A unicast address of the locally administered space, made from six octets of any origin.
    pub const fn local(mut octets: [u8; 6]) -> Self {
        octets[0] = (octets[0] & 0xfc) | 0x02;
        Self(octets)
    }

    /// Its octets, in the order of the wire.
    pub const fn octets(&self) -> [u8; 6] {
        self.0
    }

    /// Whether a single station can have it.
    pub const fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, octet) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || MacAddrError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refused)?;
            *octet = u8::from_str_radix(part, 16).ok().ok_or_else(refused)?;
        }
        if parts.next().is_some() { Err(refused()) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::MacAddr;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let mac: MacAddr = "02:00:5e:00:53:aF".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:00:53:af");
        for bad in ["", "02:00:5e:00:53", "02:00:5e:00:53:af:01", "2:0:5e:0:53:af", "02-00-5e-00-53-af"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn local_addresses_are_unicast_and_locally_administered() {
        let mac = MacAddr::local([0xff; 6]);
        assert!(mac.is_unicast());
        assert_eq!(mac.octets()[0], 0xfe);
    }
}
