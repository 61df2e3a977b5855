//! How long a neighbour that fails is left alone.

use std::time::Duration;

/// A deterministic source of jitter (splitmix64); the seed is an argument so that tests can repeat a run.
#[derive(Clone, Debug)]
pub(super) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The duration times a factor between 0.75 and 1, as RFC 4271 section 10 asks.
    pub(super) fn apply(&mut self, duration: Duration) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let quarter = duration / 4;
        duration.saturating_sub(
            quarter.mul_f64(f64::from(u32::try_from(mixed >> 32).unwrap_or(0)) / f64::from(u32::MAX)),
        )
    }
}

/// The idle-hold time, which doubles with each failure in a row (RFC 4271 section 8.1.1, `DampPeerOscillations`).
#[derive(Clone, Debug, Default)]
pub(super) struct IdleHold {
    failures: u32,
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

impl IdleHold {
    /// Counts a failure; gives how long to stay idle.
    pub(super) fn failed(&mut self) -> Duration {
        let hold = FIRST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        hold
    }

    /// Forgets failures: the session held.
    pub(super) fn held(&mut self) {
        self.failures = 0;
    }
}
