//! SCTP packets with one chunk (RFC 9260 section 3).

use super::checksum::crc32c;

const HEADER: usize = 12;
const CHECKSUM_AT: usize = 8;
const STATE_COOKIE: u16 = 7;
/// Parameters come after the fixed fields of INIT and INIT ACK.
const INIT_FIXED: usize = 16;

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) verification_tag: u32,
    pub(super) chunk: Chunk,
}

/// The chunks that an association's set-up takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    Init { tag: u32 },
    InitAck { tag: u32, cookie: Vec<u8> },
    Heartbeat { info: Vec<u8> },
    HeartbeatAck { info: Vec<u8> },
    Abort,
    CookieEcho { cookie: Vec<u8> },
    CookieAck,
}

impl Chunk {
    /// Whether it is what a server says.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::InitAck { .. } | Self::HeartbeatAck { .. } | Self::Abort | Self::CookieAck)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Init { .. } => 1,
            Self::InitAck { .. } => 2,
            Self::Heartbeat { .. } => 4,
            Self::HeartbeatAck { .. } => 5,
            Self::Abort => 6,
            Self::CookieEcho { .. } => 10,
            Self::CookieAck => 11,
        }
    }

    fn value(&self) -> Vec<u8> {
        match self {
            Self::Init { tag } => init(*tag),
            Self::InitAck { tag, cookie } => [init(*tag), parameter(STATE_COOKIE, cookie)].concat(),
            // Heartbeat information is parameter 1.
            Self::Heartbeat { info } | Self::HeartbeatAck { info } => parameter(1, info),
            Self::CookieEcho { cookie } => cookie.clone(),
            Self::Abort | Self::CookieAck => Vec::new(),
        }
    }

    fn decode(kind: u8, value: &[u8]) -> Option<Self> {
        let tag = || Some(u32::from_be_bytes(*value.first_chunk()?));
        Some(match kind {
            1 => Self::Init { tag: tag()? },
            2 => Self::InitAck { tag: tag()?, cookie: find(value.get(INIT_FIXED..)?, STATE_COOKIE)? },
            4 => Self::Heartbeat { info: find(value, 1)? },
            5 => Self::HeartbeatAck { info: find(value, 1)? },
            6 => Self::Abort,
            10 => Self::CookieEcho { cookie: value.to_vec() },
            11 => Self::CookieAck,
            _ => return None,
        })
    }
}

impl Packet {
    pub(super) fn encode(&self) -> Vec<u8> {
        let value = self.chunk.value();
        let mut octets = Vec::with_capacity(HEADER + 4 + value.len());
        octets.extend(self.source.to_be_bytes());
        octets.extend(self.destination.to_be_bytes());
        octets.extend(self.verification_tag.to_be_bytes());
        octets.extend([0; 4]);
        octets.extend([self.chunk.kind(), 0]);
        octets.extend(length(value.len()).to_be_bytes());
        octets.extend(value);
        pad(&mut octets);
        // The checksum is the only number that goes least significant octet first (RFC 9260 appendix A).
        let checksum = crc32c(&octets).to_le_bytes();
        if let Some(field) = octets.get_mut(CHECKSUM_AT..HEADER) {
            field.copy_from_slice(&checksum);
        }
        octets
    }

    /// The packet with its first chunk; `None` when it is damaged or holds something else.
    pub(super) fn decode(octets: &[u8]) -> Option<Self> {
        let mut blank = octets.to_vec();
        blank.get_mut(CHECKSUM_AT..HEADER)?.fill(0);
        if octets.get(CHECKSUM_AT..HEADER)? != crc32c(&blank).to_le_bytes() {
            return None;
        }
        let rest = octets.get(HEADER..)?;
        let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        Some(Self {
            source: u16::from_be_bytes(*octets.first_chunk()?),
            destination: u16::from_be_bytes(*octets.get(2..)?.first_chunk()?),
            verification_tag: u32::from_be_bytes(*octets.get(4..)?.first_chunk()?),
            chunk: Chunk::decode(*rest.first()?, rest.get(4..length)?)?,
        })
    }
}

/// The fixed part of INIT and INIT ACK: tag, window, one stream either way, first TSN.
fn init(tag: u32) -> Vec<u8> {
    let window: u32 = 64 * 1024;
    let streams: u16 = 1;
    [
        &tag.to_be_bytes()[..],
        &window.to_be_bytes(),
        &streams.to_be_bytes(),
        &streams.to_be_bytes(),
        &tag.to_be_bytes(),
    ]
    .concat()
}

fn parameter(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut octets = [&kind.to_be_bytes()[..], &length(value.len()).to_be_bytes(), value].concat();
    pad(&mut octets);
    octets
}

fn find(mut parameters: &[u8], wanted: u16) -> Option<Vec<u8>> {
    loop {
        let kind = u16::from_be_bytes(*parameters.first_chunk()?);
        let length = usize::from(u16::from_be_bytes(*parameters.get(2..)?.first_chunk()?));
        if kind == wanted {
            return parameters.get(4..length).map(<[u8]>::to_vec);
        }
        parameters = parameters.get(length.max(4).next_multiple_of(4)..)?;
    }
}

/// A length field counts its own four octets.
fn length(value: usize) -> u16 {
    u16::try_from(value + 4).unwrap_or(u16::MAX)
}

fn pad(octets: &mut Vec<u8>) {
    octets.resize(octets.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::{Chunk, Packet};

    #[test]
    fn what_is_encoded_is_decoded_and_damage_is_seen() {
        for chunk in [
            Chunk::Init { tag: 7 },
            Chunk::InitAck { tag: 9, cookie: b"cookie".to_vec() },
            Chunk::Heartbeat { info: vec![1] },
            Chunk::HeartbeatAck { info: vec![1, 2, 3] },
            Chunk::Abort,
            Chunk::CookieEcho { cookie: b"abcde".to_vec() },
            Chunk::CookieAck,
        ] {
            let packet = Packet { source: 1000, destination: 80, verification_tag: 5, chunk };
            let mut octets = packet.encode();
            assert_eq!(octets.len() % 4, 0);
            assert_eq!(Packet::decode(&octets), Some(packet));
            octets[0] ^= 1;
            assert_eq!(Packet::decode(&octets), None);
        }
        assert_eq!(Packet::decode(b"short"), None);
    }
}
