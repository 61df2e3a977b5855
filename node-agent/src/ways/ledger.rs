//! Which way is tested when, and what is known of each. Pure.
//!
//! ```text
//!   new, or something changed --> asked at once, but few at a time
//!     well, corrected --> again after 10 minutes
//!     silent -----------> again after 10 s twice, then every minute
//!     fault ------------> likewise; it is told when it was seen three times in a row
//! ```
//! So a node that restarts, or a change that not all know of yet, is no fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::judge::{Fault, Verdict};
use crate::decide::Carrier;

/// Ways that are tested at once, and the time to the next that are: a node of thousands asks no more often.
const BATCH: usize = 8;
const PACE: Duration = Duration::from_secs(5);
/// How long a way that was well is left alone, on average.
const REST: Duration = Duration::from_mins(10);
/// How long one is whose fault is known, or whose node does not answer.
const AGAIN: Duration = Duration::from_mins(1);
/// How long one is that may be faulty, and how often it has to be seen so.
const DOUBT: Duration = Duration::from_secs(10);
const TIMES: u32 = 3;

/// A way to another node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// The node's name.
    pub(super) node: String,
    /// The tunnel; `None` for none.
    pub(super) by: Option<Carrier>,
}

/// What is known of a way.
#[derive(Debug, Clone, Copy)]
struct Entry {
    due: Instant,
    /// How often in a row it was faulty, or silent.
    times: u32,
    last: Option<Verdict>,
}

/// What is known of all.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<Way, Entry>,
    /// When the last batch was taken.
    taken: Option<Instant>,
}

/// How many ways are how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) all: usize,
    pub(super) well: usize,
    pub(super) silent: usize,
}

impl Ledger {
    /// There are these ways now; new ones are asked as soon as may be.
    pub(super) fn set(&mut self, ways: BTreeSet<Way>, now: Instant) {
        self.entries.retain(|way, _| ways.contains(way));
        for way in ways {
            self.entries.entry(way).or_insert(Entry { due: now, times: 0, last: None });
        }
    }

    /// Something has changed on which those of a tunnel, or all, depend. What is known of them stays until they are asked.
    pub(super) fn doubt(&mut self, by: Option<Carrier>, now: Instant) {
        for (way, entry) in &mut self.entries {
            if by.is_none() || way.by == by {
                entry.due = entry.due.min(now);
            }
        }
    }

    /// When there is next something to ask.
    pub(super) fn next(&self) -> Option<Instant> {
        let due = self.entries.values().map(|entry| entry.due).min()?;
        Some(self.taken.map_or(due, |taken| due.max(taken + PACE)))
    }

    /// Those to be asked now: of those that are due the ones that have waited longest, and few.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Way> {
        if self.taken.is_some_and(|taken| now < taken + PACE) {
            return Vec::new();
        }
        let due = self.entries.iter().filter(|(_, entry)| entry.due <= now);
        let mut due: Vec<(Instant, Way)> = due.map(|(way, entry)| (entry.due, way.clone())).collect();
        due.sort();
        due.truncate(BATCH);
        if !due.is_empty() {
            self.taken = Some(now);
        }
        due.into_iter().map(|(_, way)| way).collect()
    }

    /// Takes what was found. `share` is from 0 to 1, a different one for each way and time, so that nodes that started together
    /// do not ask together.
    pub(super) fn note(&mut self, way: &Way, verdict: Verdict, share: f32, now: Instant) {
        let Some(entry) = self.entries.get_mut(way) else { return };
        let was_fault = matches!(entry.last, Some(Verdict::Fault(_)));
        let is_again = match verdict {
            Verdict::Fault(_) => was_fault,
            Verdict::Silent => entry.last == Some(Verdict::Silent),
            Verdict::Well | Verdict::Corrected => false,
        };
        entry.times = if is_again { entry.times.saturating_add(1) } else { 1 };
        entry.last = Some(verdict);
        let wait = match verdict {
            Verdict::Well | Verdict::Corrected => REST,
            Verdict::Silent | Verdict::Fault(_) if entry.times < TIMES => DOUBT,
            Verdict::Silent | Verdict::Fault(_) => AGAIN,
        };
        entry.due = now + wait.mul_f32(0.8 + 0.4 * share);
    }

    /// The faults that are certain.
    pub(super) fn faults(&self) -> impl Iterator<Item = (&Way, Fault)> {
        self.entries.iter().filter_map(|(way, entry)| match entry.last {
            Some(Verdict::Fault(fault)) if entry.times >= TIMES => Some((way, fault)),
            _ => None,
        })
    }

    /// Whether all ways were asked once, and none of them is in doubt.
    pub(super) fn is_settled(&self) -> bool {
        let is_known = |entry: &Entry| match entry.last {
            None => false,
            Some(Verdict::Fault(_)) => entry.times >= TIMES,
            Some(Verdict::Well | Verdict::Corrected | Verdict::Silent) => true,
        };
        self.entries.values().all(is_known)
    }

    /// How many are how.
    pub(super) fn counts(&self) -> Counts {
        let count = |wanted: &[Verdict]| {
            let is = |entry: &&Entry| entry.last.is_some_and(|verdict| wanted.contains(&verdict));
            self.entries.values().filter(is).count()
        };
        Counts {
            all: self.entries.len(),
            well: count(&[Verdict::Well, Verdict::Corrected]),
            silent: count(&[Verdict::Silent]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{BATCH, Ledger, Way};
    use crate::{
        decide::Carrier,
        ways::judge::{Fault, Verdict},
    };

    fn way(number: usize) -> Way {
        Way { node: format!("n{number}"), by: Some(Carrier::Vxlan4) }
    }

    /// Asks what is due at each second, and counts for each how often.
    fn asked(
        ledger: &mut Ledger,
        seconds: std::ops::Range<u64>,
        start: Instant,
        verdict: Verdict,
    ) -> Vec<usize> {
        let mut asked = Vec::new();
        for second in seconds {
            let now = start + Duration::from_secs(second);
            for way in ledger.take(now) {
                ledger.note(&way, verdict, 0.5, now);
                let number: usize = way.node[1..].parse().unwrap();
                asked.resize(asked.len().max(number + 1), 0);
                asked[number] += 1;
            }
        }
        asked
    }

    #[test]
    fn all_are_asked_at_first_few_at_a_time_and_then_every_ten_minutes() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        ledger.set((0..100).map(way).collect(), start);
        assert_eq!(ledger.take(start).len(), BATCH);
        let mut ledger = Ledger::default();
        ledger.set((0..100).map(way).collect(), start);
        assert_eq!(asked(&mut ledger, 0..65, start, Verdict::Well), vec![1; 100]);
        assert!(ledger.is_settled());
        assert_eq!(asked(&mut ledger, 65..600, start, Verdict::Well), Vec::<usize>::new());
        assert_eq!(asked(&mut ledger, 600..1200, start, Verdict::Well), vec![1; 100]);
        assert_eq!(ledger.counts().well, 100);
    }

    #[test]
    fn a_fault_is_told_when_it_was_seen_three_times_and_no_more_when_all_is_well() {
        let start = Instant::now();
        let fault = Verdict::Fault(Fault::Filtered);
        let mut ledger = Ledger::default();
        ledger.set([way(1)].into(), start);
        let mut told = Vec::new();
        for (seconds, verdict) in [
            (0, fault),
            (10, fault),
            (20, Verdict::Silent),
            (30, fault),
            (40, fault),
            (50, fault),
            (110, Verdict::Well),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(ledger.take(now), [way(1)], "at {seconds} s");
            ledger.note(&way(1), verdict, 0.5, now);
            told.push(ledger.faults().count());
            assert_eq!(ledger.is_settled(), !matches!(verdict, Verdict::Fault(_)) || told.last() == Some(&1));
        }
        assert_eq!(told, [0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_changes_is_asked_again_and_what_is_gone_is_forgotten() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        let direct = Way { node: "n1".into(), by: None };
        ledger.set([way(1), direct.clone()].into(), start);
        assert_eq!(ledger.take(start).len(), 2);
        for way in [&way(1), &direct] {
            ledger.note(way, Verdict::Well, 0.0, start);
        }
        let later = start + Duration::from_mins(1);
        assert_eq!(ledger.take(later), Vec::<Way>::new());
        ledger.doubt(Some(Carrier::Vxlan4), later);
        assert_eq!(ledger.take(later), [way(1)]);
        ledger.set([direct].into(), later);
        assert_eq!(ledger.counts().all, 1);
        assert_eq!(ledger.next(), Some(start + Duration::from_mins(8)));
    }
}
