//! The control packet of RFC 5880 section 4.1.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::fmt;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// Octets in a packet without authentication.
pub const PACKET_LEN: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// The states of a session, in the numbers of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Taken down by an operator, which says nothing of the path.
    AdminDown,
    /// The neighbour is not heard, or does not hear us.
    #[default]
    Down,
    /// The neighbour is heard.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// The name in RFC 5880.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    const fn of(code: u8) -> Self {
        match code & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Why a session changed its state last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// 0: for no reason that has a number.
    pub const NONE: Self = Self(0);
    /// 1: nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// 3: the neighbour said that it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// 7: an operator took the session down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    const MASK: u8 = 0x1f;

    /// The diagnostic with this number; it has five bits.
    pub const fn new(code: u8) -> Self {
        Self(code & Self::MASK)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// What one end says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit of the packet")]
pub struct Packet {
    /// Why it is in this state.
    pub diagnostic: Diagnostic,
    /// Its state.
    pub state: State,
    /// P: answer at once.
    pub poll: bool,
    /// F: the answer to a packet with P.
    pub finish: bool,
    /// C: its packets do not stop when its control plane does.
    pub control_plane_independent: bool,
    /// D: it hears of the path by other means while it is up, and wants no packets.
    pub demand: bool,
    /// How many packets may be missed.
    pub multiplier: NonZeroU8,
    /// Its number of the session.
    pub my_discriminator: NonZeroU32,
    /// Our number of the session, once it knows it.
    pub your_discriminator: Option<NonZeroU32>,
    /// The shortest time between packets that it would like to send; whole microseconds.
    pub desired_min_tx: Duration,
    /// The shortest time between packets that it can take; 0: it wants none.
    pub required_min_rx: Duration,
    /// The same of echo packets, which we never send.
    pub required_min_echo_rx: Duration,
}

/// Why a packet is dropped (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another version.
    #[error("version {0}: expected {VERSION}")]
    Version(u8),
    /// The length does not fit.
    #[error("length {said} in {found} octets: expected at least {PACKET_LEN}, and no more than there are")]
    Length {
        /// What the packet says.
        said: u8,
        /// What was received.
        found: usize,
    },
    /// No packet may be missed, not even one.
    #[error("detection multiplier 0: expected at least 1")]
    Multiplier,
    /// Of a point-to-multipoint session.
    #[error("the multipoint bit is set: expected it clear")]
    Multipoint,
    /// The sender's number is missing.
    #[error("my discriminator 0: expected another number")]
    MyDiscriminator,
    /// In state Init or Up the sender knows our number.
    #[error("your discriminator 0 in state {}: expected another number", .0.name())]
    YourDiscriminator(State),
    /// It is signed, and no key was agreed on.
    #[error("the packet is authenticated: expected none")]
    Authenticated,
}

impl Packet {
    /// Reads the content of a datagram.
    ///
    /// # Errors
    /// Whatever RFC 5880 section 6.8.6 has a receiver drop the packet for, as far as the packet alone shows it.
    pub fn decode(datagram: &[u8]) -> Result<Self, Malformed> {
        let found = datagram.len();
        let said = datagram.get(3).copied().unwrap_or(0);
        let length = Malformed::Length { said, found };
        let Some((head, _)) = datagram.split_first_chunk::<PACKET_LEN>() else { return Err(length) };
        let Some(([first, flags, multiplier, _], words)) = head.split_first_chunk::<4>() else {
            return Err(length);
        };
        let (words, _) = words.as_chunks::<4>();
        let &[mine, yours, tx, rx, echo] = words else { return Err(length) };
        if first >> 5 != VERSION {
            return Err(Malformed::Version(first >> 5));
        }
        if usize::from(said) < PACKET_LEN || usize::from(said) > found {
            return Err(length);
        }
        let multiplier = NonZeroU8::new(*multiplier).ok_or(Malformed::Multiplier)?;
        if flags & MULTIPOINT != 0 {
            return Err(Malformed::Multipoint);
        }
        let my_discriminator = NonZeroU32::new(u32::from_be_bytes(mine)).ok_or(Malformed::MyDiscriminator)?;
        let your_discriminator = NonZeroU32::new(u32::from_be_bytes(yours));
        let state = State::of(flags >> 6);
        if your_discriminator.is_none() && matches!(state, State::Init | State::Up) {
            return Err(Malformed::YourDiscriminator(state));
        }
        if flags & AUTHENTICATION != 0 {
            return Err(Malformed::Authenticated);
        }
        let interval = |word| Duration::from_micros(u32::from_be_bytes(word).into());
        Ok(Self {
            diagnostic: Diagnostic::new(*first),
            state,
            poll: flags & POLL != 0,
            finish: flags & FINAL != 0,
            control_plane_independent: flags & CONTROL_PLANE_INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: interval(tx),
            required_min_rx: interval(rx),
            required_min_echo_rx: interval(echo),
        })
    }

    /// The content of a datagram. Intervals beyond 71 minutes become that.
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let mut flags = self.state.code() << 6;
        for (set, bit) in [
            (self.poll, POLL),
            (self.finish, FINAL),
            (self.control_plane_independent, CONTROL_PLANE_INDEPENDENT),
            (self.demand, DEMAND),
        ] {
            if set {
                flags |= bit;
            }
        }
        let interval = |interval: Duration| u32::try_from(interval.as_micros()).unwrap_or(u32::MAX);
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator.map_or(0, NonZeroU32::get),
            interval(self.desired_min_tx),
            interval(self.required_min_rx),
            interval(self.required_min_echo_rx),
        ];
        let length = u8::try_from(PACKET_LEN).unwrap_or(u8::MAX);
        let head = [(VERSION << 5) | self.diagnostic.0, flags, self.multiplier.get(), length];
        let mut octets = [0; PACKET_LEN];
        let content = head.into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (octet, value) in octets.iter_mut().zip(content) {
            *octet = value;
        }
        octets
    }
}
