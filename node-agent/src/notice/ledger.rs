//! Which notices make an Event, which only a number of one, and which are too many. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{About, Notice, Object, Reason};

/// How long what is the same as an Event counts for that one.
const SAME: Duration = Duration::from_mins(10);
/// Between two writes of one Event's number.
const PAUSE: Duration = Duration::from_secs(30);
/// Events of one reason that one object may have at once, and how long until it may have another: that all is well again is not to be lost
/// over what went wrong.
const OBJECT_BURST: u32 = 5;
const OBJECT_PRICE: Duration = Duration::from_mins(2);
/// The same of all that this node writes, numbers included.
const NODE_BURST: u32 = 30;
const NODE_PRICE: Duration = Duration::from_secs(5);
/// Objects that are wrong and remembered until they are mended, so that whoever speaks next can tell.
const MOST_STANDING: usize = 256;

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    /// A new Event.
    New(Notice),
    /// How often the Event of this notice was seen.
    Again(Notice, u32),
}

/// All Events of the last while.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By object, reason and note.
    series: BTreeMap<(About, Reason), Vec<Series>>,
    objects: BTreeMap<(About, Reason), Bucket>,
    node: Bucket,
    standing: BTreeMap<(Object, Reason), BTreeSet<String>>,
    /// This node tells what is wrong with objects that all read.
    speaks: bool,
    due: Vec<Write>,
}

#[derive(Debug)]
struct Series {
    note: String,
    count: u32,
    /// What the Event says.
    told: u32,
    seen: Instant,
    written: Instant,
}

/// Time that is paid for; none of it before the first purchase.
#[derive(Debug, Default, Clone, Copy)]
struct Bucket(Option<Instant>);

impl Bucket {
    fn takes(&mut self, burst: u32, price: Duration, now: Instant) -> bool {
        let paid = self.0.map_or(now, |paid| paid.max(now));
        if paid.duration_since(now) > price * (burst - 1) {
            return false;
        }
        self.0 = Some(paid + price);
        true
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.0.is_none_or(|paid| paid <= now)
    }
}

impl Ledger {
    /// Takes a notice; false when it is too many and is lost.
    pub(super) fn take(&mut self, notice: Notice, now: Instant) -> bool {
        let key = (notice.about.clone(), notice.reason);
        let series = self.series.entry(key.clone()).or_default();
        series.retain(|series| now.duration_since(series.seen) < SAME);
        if let Some(same) = series.iter_mut().find(|series| series.note == notice.note) {
            same.count = same.count.saturating_add(1);
            same.seen = now;
            return true;
        }
        let object = self.objects.entry(key).or_default();
        let mut of_object = *object;
        let mut of_node = self.node;
        let is_affordable =
            of_object.takes(OBJECT_BURST, OBJECT_PRICE, now) && of_node.takes(NODE_BURST, NODE_PRICE, now);
        if !is_affordable {
            // A flood of other words for the same is a number too.
            let newest = series.iter_mut().max_by_key(|series| series.written);
            return newest.is_some_and(|newest| {
                newest.count = newest.count.saturating_add(1);
                newest.seen = now;
                true
            });
        }
        (*object, self.node) = (of_object, of_node);
        series.push(Series { note: notice.note.clone(), count: 1, told: 1, seen: now, written: now });
        self.due.push(Write::New(notice));
        true
    }

    /// Takes all that is wrong with an object that all nodes read.
    pub(super) fn stand(&mut self, object: Object, reason: Reason, notes: Vec<String>, now: Instant) {
        let key = (object, reason);
        if notes.is_empty() {
            self.standing.remove(&key);
            return;
        }
        if self.speaks {
            for note in &notes {
                self.take(Notice { about: About::Object(key.0.clone()), reason, note: note.clone() }, now);
            }
        }
        if self.standing.len() < MOST_STANDING || self.standing.contains_key(&key) {
            self.standing.insert(key, notes.into_iter().collect());
        }
    }

    /// Whether this node tells what is wrong with objects that all read; it begins with what is known.
    pub(super) fn speak(&mut self, speaks: bool, now: Instant) {
        if std::mem::replace(&mut self.speaks, speaks) || !speaks {
            return;
        }
        let known: Vec<_> = self.standing.iter().map(|(key, notes)| (key.clone(), notes.clone())).collect();
        for ((object, reason), notes) in known {
            for note in notes {
                self.take(Notice { about: About::Object(object.clone()), reason, note }, now);
            }
        }
    }

    /// What is to be written now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Write> {
        let mut due = std::mem::take(&mut self.due);
        for ((about, reason), all) in &mut self.series {
            for series in all.iter_mut().filter(|series| series.count > series.told) {
                let is_due = now.duration_since(series.written) >= PAUSE;
                if !is_due {
                    continue;
                }
                // One that cannot be afforded comes later, too.
                series.written = now;
                if self.node.takes(NODE_BURST, NODE_PRICE, now) {
                    series.told = series.count;
                    let notice = Notice { about: about.clone(), reason: *reason, note: series.note.clone() };
                    due.push(Write::Again(notice, series.count));
                }
            }
            all.retain(|series| series.count > series.told || now.duration_since(series.seen) < SAME);
        }
        self.series.retain(|_, all| !all.is_empty());
        self.objects.retain(|_, bucket| !bucket.is_idle(now));
        due
    }

    /// Whether an Event is still counted for.
    pub(super) fn knows(&self, notice: &Notice) -> bool {
        let series = self.series.get(&(notice.about.clone(), notice.reason));
        series.into_iter().flatten().any(|series| series.note == notice.note)
    }

    /// When there may be something to write although nothing is heard.
    pub(super) fn next(&self) -> Option<Instant> {
        let open = self.series.values().flatten().filter(|series| series.count > series.told);
        open.map(|series| series.written + PAUSE).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Ledger, NODE_BURST, OBJECT_BURST, PAUSE, SAME, Write};
    use crate::notice::{About, Notice, Object, Reason};

    fn pod(name: &str) -> Object {
        Object { kind: "Pod".into(), name: name.to_owned(), ..Object::default() }
    }

    fn notice(name: &str, note: &str) -> Notice {
        let about = About::Object(pod(name));
        Notice { about, reason: Reason::NO_ADDRESS, note: note.to_owned() }
    }

    #[test]
    fn the_same_again_is_a_number_of_the_event_that_is_there() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        for _ in 0..3 {
            assert!(ledger.take(notice("a", "full"), start));
        }
        assert_eq!(ledger.due(start), [Write::New(notice("a", "full"))]);
        assert_eq!(ledger.next(), Some(start + PAUSE));
        assert_eq!(ledger.due(start + PAUSE), [Write::Again(notice("a", "full"), 3)]);
        assert_eq!(ledger.next(), None);
        let later = start + PAUSE + SAME;
        ledger.due(later);
        assert!(ledger.take(notice("a", "full"), later));
        assert_eq!(ledger.due(later), [Write::New(notice("a", "full"))]);
    }

    #[test]
    fn an_object_has_so_many_events_and_more_of_them_are_a_number() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        for number in 0..1000 {
            assert!(ledger.take(notice("a", &number.to_string()), start));
        }
        assert_eq!(ledger.due(start).len(), OBJECT_BURST as usize);
        let again = ledger.due(start + PAUSE);
        assert!(matches!(again[..], [Write::Again(_, number)] if number == 1001 - OBJECT_BURST), "{again:?}");
        // Another object's are its own.
        assert!(ledger.take(notice("b", "0"), start + PAUSE));
        assert_eq!(ledger.due(start + PAUSE).len(), 1);
    }

    #[test]
    fn what_an_object_has_of_one_reason_leaves_room_for_another() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        for number in 0..1000 {
            ledger.take(notice("a", &number.to_string()), start);
        }
        let other = Notice { reason: Reason::READY, ..notice("a", "well") };
        assert!(ledger.take(other.clone(), start));
        assert!(ledger.due(start).contains(&Write::New(other)));
    }

    #[test]
    fn a_node_writes_so_many_of_all_objects_together() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let taken = (0..1000).filter(|number| ledger.take(notice(&number.to_string(), "x"), start)).count();
        assert_eq!((taken, ledger.due(start).len()), (NODE_BURST as usize, NODE_BURST as usize));
        let minute = start + Duration::from_mins(1);
        let taken =
            (1000..2000).filter(|number| ledger.take(notice(&number.to_string(), "x"), minute)).count();
        assert_eq!(taken, 12);
    }

    #[test]
    fn what_all_nodes_read_is_told_by_the_one_that_speaks_also_when_it_begins_to() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        for name in ["a", "b"] {
            ledger.stand(pod(name), Reason::NO_ADDRESS, vec!["wrong".into()], start);
        }
        ledger.stand(pod("b"), Reason::NO_ADDRESS, vec![], start);
        assert_eq!(ledger.due(start), []);
        ledger.speak(true, start);
        assert_eq!(ledger.due(start), [Write::New(notice("a", "wrong"))]);
        ledger.speak(true, start);
        assert_eq!(ledger.due(start), []);
        ledger.stand(pod("c"), Reason::NO_ADDRESS, vec!["wrong".into()], start);
        assert_eq!(ledger.due(start), [Write::New(notice("c", "wrong"))]);
        ledger.speak(false, start);
        ledger.stand(pod("d"), Reason::NO_ADDRESS, vec!["wrong".into()], start);
        assert_eq!(ledger.due(start), []);
    }
}
