//! Whether the API server has a kind that a cluster may be without.
//!
//! - Not installed (404): at the start that is so at once, as servers that have not heard yet which kinds they serve
//!   answer 503. Once objects were listed it takes several answers, one after the other: a server that has forgotten the
//!   kind for a moment must not open what its policies close.
//! - Not allowed (403): what was listed stays (fail static). At the start it counts as not installed, after several
//!   answers, with a warning: an agent that has no role for the kind has never enforced it, and must not keep the node from
//!   getting pods.
//!
//! Either way the watcher goes on asking, with a growing wait between attempts.

/// Answers after which there is no doubt.
const CERTAIN: u32 = 3;

/// What is known of a kind.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Objects of it were listed.
    listed: bool,
    /// The core was told that there are none.
    absent: bool,
    /// Answers without it, one after the other.
    refusals: u32,
}

/// Why there are no objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// The API server has no such kind.
    NotInstalled,
    /// The agent may not read it.
    Forbidden,
}

impl Presence {
    /// Notes that the API server serves it.
    pub(super) fn served(&mut self) {
        *self = Self { listed: true, ..Self::default() };
    }

    /// Whether the core was told that there is none of it.
    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }

    /// Notes that an attempt failed, with this HTTP status; when the objects are to count as gone from now on, says why.
    pub(super) fn failed(&mut self, status: Option<u16>) -> Option<Absence> {
        let absence = match status {
            Some(404) => Absence::NotInstalled,
            Some(403) => Absence::Forbidden,
            _ => {
                self.refusals = 0;
                return None;
            }
        };
        self.refusals = self.refusals.saturating_add(1);
        let certain = match (absence, self.listed) {
            (Absence::NotInstalled, false) => true,
            (Absence::Forbidden, true) => false,
            (Absence::NotInstalled, true) | (Absence::Forbidden, false) => self.refusals >= CERTAIN,
        };
        if self.absent || !certain {
            return None;
        }
        *self = Self { absent: true, ..Self::default() };
        Some(absence)
    }
}

#[cfg(test)]
mod tests {
    use super::{Absence, Presence};

    fn check(listed: bool, answers: &[Option<u16>], expected: &[Option<Absence>]) {
        let mut presence = Presence::default();
        if listed {
            presence.served();
        }
        let said: Vec<_> = answers.iter().map(|answer| presence.failed(*answer)).collect();
        assert_eq!(said, expected, "{listed} {answers:?}");
    }

    #[test]
    fn at_the_start_a_kind_that_is_not_there_is_not_waited_for() {
        check(false, &[Some(404), Some(404)], &[Some(Absence::NotInstalled), None]);
        check(false, &[None, Some(500), Some(404)], &[None, None, Some(Absence::NotInstalled)]);
    }

    #[test]
    fn at_the_start_a_kind_that_may_not_be_read_is_waited_for_a_while() {
        let forbidden = Some(Absence::Forbidden);
        check(false, &[Some(403), Some(403), Some(403), Some(403)], &[None, None, forbidden, None]);
        check(false, &[Some(403), None, Some(403), Some(403)], &[None; 4]);
    }

    #[test]
    fn what_was_listed_goes_when_the_kind_has_certainly_gone_and_stays_when_it_may_not_be_read() {
        check(true, &[Some(404), Some(404), Some(404)], &[None, None, Some(Absence::NotInstalled)]);
        check(true, &[Some(404), Some(503), Some(404), Some(404)], &[None; 4]);
        check(true, &[Some(403); 9], &[None; 9]);
    }

    #[test]
    fn a_kind_that_came_is_watched_like_any_other() {
        let mut presence = Presence::default();
        assert_eq!(presence.failed(Some(404)), Some(Absence::NotInstalled));
        presence.served();
        assert_eq!(
            [404, 404, 404].map(|status| presence.failed(Some(status))),
            [None, None, Some(Absence::NotInstalled)]
        );
    }
}
