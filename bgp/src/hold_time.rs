//! The hold time of a session.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds without a message after which a session is dead: 0 (never) or 3 to 65535 (RFC 4271 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldTime(u16);

impl HoldTime {
    /// What RFC 4271 section 10 suggests.
    pub const DEFAULT: HoldTime = HoldTime(90);

    /// Silence never ends the session.
    pub const NEVER: HoldTime = HoldTime(0);

    /// The hold time, unless it is 1 or 2 seconds.
    pub const fn new(seconds: u16) -> Option<Self> {
        if seconds == 1 || seconds == 2 { None } else { Some(Self(seconds)) }
    }

    /// Seconds, as they go on the wire.
    pub const fn seconds(self) -> u16 {
        self.0
    }

    /// The time after which silence ends a session; `None` when it never does.
    pub fn duration(self) -> Option<Duration> {
        (self.0 != 0).then(|| Duration::from_secs(self.0.into()))
    }

    /// The interval between two KEEPALIVE messages: a third of the hold time.
    pub fn keepalive(self) -> Option<Duration> {
        self.duration().map(|hold| hold / 3)
    }
}

impl Serialize for HoldTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0)
    }
}

impl<'de> Deserialize<'de> for HoldTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = u16::deserialize(deserializer)?;
        Self::new(seconds).ok_or_else(|| {
            serde::de::Error::custom(format!("hold time {seconds} s: expected 0 (never) or 3 to 65535"))
        })
    }
}
