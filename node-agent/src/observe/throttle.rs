//! How many lines of the log a namespace may have.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// Lines in a second, and at once.
const PER_SECOND: u32 = 10;
const BURST: u32 = 20;
/// How long those that are too many are gathered before they are told as a number.
const GATHERED: Duration = Duration::from_secs(1);

/// Counts lines, and those that are too many.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    namespaces: BTreeMap<String, Account>,
}

#[derive(Debug)]
struct Account {
    /// When all lines that were had are paid for.
    paid: Instant,
    /// Those that were too many, and when the first of them was.
    more: Option<(u64, Instant)>,
}

impl Throttle {
    /// Whether a namespace may have another line.
    pub(super) fn admits(&mut self, namespace: &str, now: Instant) -> bool {
        let account = self.account(namespace, now);
        let price = Duration::from_secs(1) / PER_SECOND;
        let paid = account.paid.max(now);
        if paid.duration_since(now) > price * (BURST - 1) {
            account.more.get_or_insert((0, now)).0 += 1;
            return false;
        }
        account.paid = paid + price;
        true
    }

    /// Takes note that so many lines may be missing.
    pub(super) fn miss(&mut self, namespace: &str, number: u64, now: Instant) {
        let account = self.account(namespace, now);
        account.more.get_or_insert((0, now)).0 += number;
    }

    /// When there will be something to tell.
    pub(super) fn next(&self) -> Option<Instant> {
        self.namespaces.values().filter_map(|account| account.more).map(|(_, since)| since + GATHERED).min()
    }

    /// The namespaces that had too many lines some time ago, and how many; they are told of once. Those that are not
    /// asked about any more are forgotten.
    pub(super) fn take(&mut self, asked: &BTreeSet<String>, now: Instant) -> Vec<(String, u64)> {
        self.namespaces.retain(|namespace, _| asked.contains(namespace));
        let mut told = Vec::new();
        for (namespace, account) in &mut self.namespaces {
            if let Some((more, _)) = account.more.take_if(|(_, since)| *since + GATHERED <= now) {
                told.push((namespace.clone(), more));
            }
        }
        told
    }

    fn account(&mut self, namespace: &str, now: Instant) -> &mut Account {
        self.namespaces.entry(namespace.to_owned()).or_insert(Account { paid: now, more: None })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Throttle;

    #[test]
    fn a_burst_of_20_then_10_a_second_and_the_rest_as_a_number() {
        let mut throttle = Throttle::default();
        #[expect(clippy::disallowed_methods, reason = "tokio has no other beginning of time")]
        let start = Instant::from_std(std::time::Instant::now());
        let admitted = |throttle: &mut Throttle, namespace, at: Duration, number| {
            (0..number).filter(|_| throttle.admits(namespace, start + at)).count()
        };
        let asked = ["x", "y"].map(str::to_owned).into();
        assert_eq!(admitted(&mut throttle, "x", Duration::ZERO, 30), 20);
        assert_eq!(admitted(&mut throttle, "y", Duration::ZERO, 20), 20);
        assert_eq!(admitted(&mut throttle, "x", Duration::from_millis(500), 30), 5);
        assert_eq!(throttle.next(), Some(start + Duration::from_secs(1)));
        assert_eq!(throttle.take(&asked, start + Duration::from_millis(900)), []);
        assert_eq!(throttle.take(&asked, start + Duration::from_secs(1)), [("x".to_owned(), 35)]);
        assert_eq!(throttle.next(), None);
        assert_eq!(admitted(&mut throttle, "x", Duration::from_mins(1), 30), 20);
        assert_eq!(throttle.take(&["y".to_owned()].into(), start + Duration::from_secs(90)), []);
    }
}
