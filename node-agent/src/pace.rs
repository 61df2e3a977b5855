//! When a change is written: at once, but many that come fast are written together.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that are written at once, before those after them have to wait for each other.
const BURST: u32 = 8;
/// Shortest time from one write to the next when many come: a rollout of hundreds of pods is some dozens of writes.
const PACE: Duration = Duration::from_millis(40);

/// How many writes have been made lately. What a caller waits for is not asked of it.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When as many writes were free as ever are; each takes one of them, and they come back one in [`PACE`].
    full_at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// When the next may be made: now, or later.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        self.full_at.checked_sub(PACE * (BURST - 1)).unwrap_or(now).max(now)
    }

    /// One was made. Those that somebody waited for, however many, hold up the next by [`PACE`] at most.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.full_at = (self.full_at.max(now) + PACE).min(now + PACE * BURST);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{BURST, PACE, Pace};

    /// How many writes changes cost that come one after the other, so far apart.
    fn writes(changes: u32, apart: Duration) -> u32 {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut writes = 0;
        // When what has come is written, if anything has.
        let mut due: Option<Instant> = None;
        for change in 0..changes {
            let now = start + apart * change;
            if let Some(at) = due.filter(|at| *at <= now) {
                pace.wrote(at);
                writes += 1;
                due = None;
            }
            let next = pace.next(now);
            if next <= now {
                pace.wrote(now);
                writes += 1;
            } else {
                due = Some(next);
            }
        }
        writes + u32::from(due.is_some())
    }

    #[test]
    fn what_somebody_waited_for_does_not_hold_up_what_comes_after_it() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..1000 {
            pace.wrote(now);
        }
        assert_eq!(pace.next(now), now + PACE);
    }

    #[test]
    fn changes_that_come_now_and_then_are_written_at_once_and_a_rollout_is_a_few_writes() {
        assert_eq!(writes(20, PACE), 20);
        assert_eq!(writes(BURST, Duration::ZERO), BURST);
        assert!(writes(500, Duration::from_millis(1)) <= BURST + 500 / 40 + 1);
        assert!(writes(500, Duration::ZERO) <= BURST + 1);
    }
}
