//! What becomes of a peer's routes while its session is away: the helper of RFC 4724, 8538 and 9494 as a pure core.
//!
//! [`Helper`] is told of each end and return of the session and of End-of-RIB; it answers with [`Order`]s for the
//! tables. Its invariant: whatever it keeps has a deadline, so that no peer's silence keeps a route for ever.

use std::time::Duration;

use super::connection::Negotiated;
use super::session::DownReason;
use crate::family::{Family, FamilySet};
use crate::wire::LongLived;

/// What the tables must do with a peer's routes, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Routes of these families that are still stale go.
    Sweep(FamilySet),
    /// The session is down: routes of these families stay, stale, all others go.
    Down(FamilySet),
    /// Routes of these families that are still stale become those of last resort.
    LongLived(FamilySet),
}

/// A peer that is back must tell its routes within this time; what it has not told again by then goes.
const END_OF_RIB_TIME: Duration = Duration::from_mins(6);

/// The stale routes of one peer.
#[derive(Clone, Debug, Default)]
pub struct Helper {
    /// Families with stale routes, each with when that has an end.
    stale: Vec<Stale>,
    /// What the peer said when its session was up last.
    long_lived: LongLived,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stale {
    family: Family,
    until: Duration,
    awaited: Awaited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The session within the restart time.
    Restart,
    /// The session within the long-lived stale time.
    LongLived,
    /// End-of-RIB on the session that is up.
    EndOfRib,
}

impl Helper {
    /// Families of which stale routes are kept.
    pub fn stale(&self) -> FamilySet {
        self.stale.iter().map(|stale| stale.family).collect()
    }

    /// When to call [`Helper::tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.stale.iter().map(|stale| stale.until).min()
    }

    /// The session that negotiated this is down.
    pub fn down(&mut self, now: Duration, session: &Negotiated, reason: &DownReason, out: &mut Vec<Order>) {
        // RFC 4724 section 4.2: of a second restart in a row, what the first left goes.
        self.sweep(self.stale(), out);
        let families = retained(session, reason);
        self.long_lived = session.long_lived;
        let restart_time = session.graceful_restart.map_or(0, |restart| restart.restart_time);
        let until = now + Duration::from_secs(restart_time.into());
        self.stale.extend(families.iter().map(|family| Stale { family, until, awaited: Awaited::Restart }));
        out.push(Order::Down(families));
        // A restart time of zero has the long-lived phase follow at once (RFC 9494 section 4.2).
        self.tick(now, out);
    }

    /// The session is up again.
    pub fn up(&mut self, now: Duration, session: &Negotiated, out: &mut Vec<Order>) {
        let kept = |stale: &Stale| {
            let restart =
                session.graceful_restart.is_some_and(|restart| restart.families.contains(stale.family));
            let long_lived =
                stale.awaited == Awaited::LongLived && session.long_lived.forwarding.contains(stale.family);
            restart && (session.kept_forwarding(stale.family) || long_lived)
        };
        let lost = self.stale.iter().filter(|stale| !kept(stale)).map(|stale| stale.family).collect();
        self.sweep(lost, out);
        for stale in &mut self.stale {
            *stale = Stale { until: now + END_OF_RIB_TIME, awaited: Awaited::EndOfRib, ..*stale };
        }
    }

    /// The path to the peer is broken, and not only its control plane: nothing of what was kept forwards
    /// (RFC 5882 section 4.3).
    pub fn path_broken(&mut self, out: &mut Vec<Order>) {
        self.sweep(self.stale(), out);
    }

    /// The peer has told all its routes of a family; the tables drop what is stale of it by themselves.
    pub fn end_of_rib(&mut self, family: Family) {
        self.stale.retain(|stale| stale.family != family);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Order>) {
        let mut long_lived = FamilySet::EMPTY;
        let mut over = FamilySet::EMPTY;
        for stale in self.stale.iter_mut().filter(|stale| stale.until <= now) {
            let seconds = self.long_lived.seconds(stale.family);
            if stale.awaited == Awaited::Restart && seconds > 0 {
                stale.awaited = Awaited::LongLived;
                stale.until = now + Duration::from_secs(seconds.into());
                long_lived.insert(stale.family);
            } else {
                over.insert(stale.family);
            }
        }
        if !long_lived.is_empty() {
            out.push(Order::LongLived(long_lived));
        }
        self.sweep(over, out);
    }

    fn sweep(&mut self, families: FamilySet, out: &mut Vec<Order>) {
        if !families.is_empty() {
            self.stale.retain(|stale| !families.contains(stale.family));
            out.push(Order::Sweep(families));
        }
    }
}

/// Families whose routes outlive a session that ended so.
fn retained(session: &Negotiated, reason: &DownReason) -> FamilySet {
    let Some(restart) = session.graceful_restart else { return FamilySet::EMPTY };
    let graceful = match reason {
        DownReason::ConnectionLost => true,
        // RFC 8538 section 4; without the N bit, a NOTIFICATION ends all (RFC 4724 section 4).
        DownReason::Sent(notification) | DownReason::Received(notification) => {
            restart.notification && !notification.is_hard_reset()
        }
    };
    if !graceful {
        return FamilySet::EMPTY;
    }
    let lasting = |family: &Family| restart.restart_time > 0 || session.long_lived.seconds(*family) > 0;
    restart.families.iter().filter(lasting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AddPath, AsWidth, GracefulRestart, MAX_MESSAGE_LEN, Notification};
    use crate::{Asn, BgpIdentifier, HoldTime};

    const V4: Family = Family::Ipv4Unicast;
    const V6: Family = Family::Ipv6Unicast;

    fn set(families: &[Family]) -> FamilySet {
        families.iter().copied().collect()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A session on which the peer may restart within 30 s, having kept forwarding for `forwarding`.
    fn session(forwarding: &[Family]) -> Negotiated {
        Negotiated {
            asn: Asn::new(64496).unwrap(),
            identifier: BgpIdentifier::new("192.0.2.1".parse().unwrap()).unwrap(),
            hold_time: HoldTime::DEFAULT,
            families: set(&[V4, V6]),
            as_width: AsWidth::Four,
            route_refresh: true,
            enhanced_route_refresh: true,
            message_limit: MAX_MESSAGE_LEN,
            extended_next_hop: false,
            add_path: AddPath::default(),
            graceful_restart: Some(GracefulRestart {
                restarting: true,
                notification: false,
                restart_time: 30,
                families: set(&[V4, V6]),
                forwarding: set(forwarding),
            }),
            long_lived: LongLived::default(),
        }
    }

    fn with_notification(session: Negotiated) -> Negotiated {
        let restart =
            session.graceful_restart.map(|restart| GracefulRestart { notification: true, ..restart });
        Negotiated { graceful_restart: restart, ..session }
    }

    fn with_long_lived(mut session: Negotiated, time: u32) -> Negotiated {
        session.long_lived.insert(V4, time);
        session
    }

    fn down(helper: &mut Helper, at: u64, session: &Negotiated) -> Vec<Order> {
        let mut out = Vec::new();
        helper.down(seconds(at), session, &DownReason::ConnectionLost, &mut out);
        out
    }

    fn up(helper: &mut Helper, at: u64, session: &Negotiated) -> Vec<Order> {
        let mut out = Vec::new();
        helper.up(seconds(at), session, &mut out);
        out
    }

    fn tick(helper: &mut Helper, at: u64) -> Vec<Order> {
        let mut out = Vec::new();
        helper.tick(seconds(at), &mut out);
        out
    }

    #[test]
    fn a_broken_path_ends_what_is_kept() {
        let mut helper = Helper::default();
        down(&mut helper, 0, &session(&[]));
        let mut out = Vec::new();
        helper.path_broken(&mut out);
        assert_eq!(out, [Order::Sweep(set(&[V4, V6]))]);
        assert_eq!(helper.next_deadline(), None);
    }

    #[test]
    fn how_a_session_ends_decides_what_is_kept() {
        let (plain, n) = (session(&[]), with_notification(session(&[])));
        let none = Negotiated { graceful_restart: None, ..plain };
        let reset = DownReason::Received(Notification::administrative_reset());
        let hard = DownReason::Received(Notification::hard_reset(&Notification::administrative_reset()));
        let silent = DownReason::Sent(Notification::hold_timer_expired());
        let cases = [
            ("connection lost, no graceful restart", none, DownReason::ConnectionLost, &[][..]),
            ("connection lost", plain, DownReason::ConnectionLost, &[V4, V6]),
            ("NOTIFICATION without N bit", plain, reset.clone(), &[]),
            ("NOTIFICATION with N bit", n, reset, &[V4, V6]),
            ("hard reset with N bit", n, hard, &[]),
            ("hold timer without N bit", plain, silent.clone(), &[]),
            ("hold timer with N bit", n, silent, &[V4, V6]),
        ];
        for (what, session, reason, kept) in cases {
            let (mut helper, mut out) = (Helper::default(), Vec::new());
            helper.down(seconds(0), &session, &reason, &mut out);
            assert_eq!(out, [Order::Down(set(kept))], "{what}");
            assert_eq!(helper.stale(), set(kept), "{what}");
        }
    }

    #[test]
    fn routes_of_a_peer_that_does_not_return_go_after_the_restart_time() {
        let mut helper = Helper::default();
        down(&mut helper, 10, &session(&[]));
        assert_eq!(helper.next_deadline(), Some(seconds(40)));
        assert_eq!(tick(&mut helper, 39), []);
        assert_eq!(tick(&mut helper, 40), [Order::Sweep(set(&[V4, V6]))]);
        assert_eq!(helper.next_deadline(), None);
    }

    #[test]
    fn a_family_without_f_bit_loses_its_stale_routes_when_the_peer_is_back() {
        let mut helper = Helper::default();
        down(&mut helper, 0, &session(&[]));
        assert_eq!(up(&mut helper, 5, &session(&[V6])), [Order::Sweep(set(&[V4]))]);
        assert_eq!(helper.stale(), set(&[V6]));
        helper.end_of_rib(V6);
        assert_eq!(helper.next_deadline(), None);
    }

    #[test]
    fn a_peer_back_without_the_capability_keeps_nothing() {
        let mut helper = Helper::default();
        down(&mut helper, 0, &session(&[]));
        let back = Negotiated { graceful_restart: None, ..session(&[]) };
        assert_eq!(up(&mut helper, 5, &back), [Order::Sweep(set(&[V4, V6]))]);
    }

    #[test]
    fn a_peer_that_never_sends_end_of_rib_does_not_keep_routes_for_ever() {
        let mut helper = Helper::default();
        down(&mut helper, 0, &session(&[]));
        assert_eq!(up(&mut helper, 5, &session(&[V4, V6])), []);
        assert_eq!(tick(&mut helper, 40), [], "the restart timer has stopped");
        assert_eq!(tick(&mut helper, 5 + 360), [Order::Sweep(set(&[V4, V6]))]);
    }

    #[test]
    fn a_second_restart_before_end_of_rib_drops_what_the_first_left() {
        let mut helper = Helper::default();
        down(&mut helper, 0, &session(&[]));
        up(&mut helper, 5, &session(&[V4, V6]));
        helper.end_of_rib(V4);
        let orders = down(&mut helper, 6, &session(&[V4, V6]));
        assert_eq!(orders, [Order::Sweep(set(&[V6])), Order::Down(set(&[V4, V6]))]);
        assert_eq!(helper.next_deadline(), Some(seconds(36)));
    }

    #[test]
    fn long_lived_routes_are_those_of_last_resort_after_the_restart_time() {
        let mut helper = Helper::default();
        down(&mut helper, 0, &with_long_lived(session(&[]), 100));
        let orders = tick(&mut helper, 30);
        assert_eq!(orders, [Order::LongLived(set(&[V4])), Order::Sweep(set(&[V6]))]);
        assert_eq!(tick(&mut helper, 130), [Order::Sweep(set(&[V4]))]);
    }

    #[test]
    fn a_restart_time_of_zero_makes_routes_long_lived_at_once() {
        let mut session = with_long_lived(session(&[]), 100);
        session.graceful_restart.as_mut().unwrap().restart_time = 0;
        let orders = down(&mut Helper::default(), 0, &session);
        assert_eq!(orders, [Order::Down(set(&[V4])), Order::LongLived(set(&[V4]))]);
    }
}
