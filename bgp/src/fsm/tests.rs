//! Rules of the session machine, then two machines joined by a network that fails.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::backoff::Jitter;
use super::*;
use crate::wire::{Capabilities, GracefulRestart, Notification, Open};
use crate::{Asn, BgpIdentifier, Family, FamilySet, HoldTime};

const ZERO: Duration = Duration::ZERO;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn identifier(last: u8) -> BgpIdentifier {
    BgpIdentifier::new(Ipv4Addr::new(192, 0, 2, last)).unwrap()
}

/// Speaker `last` of AS 64496 + `last`, whose neighbour is speaker `remote`.
fn config(last: u8, remote: u8) -> SessionConfig {
    SessionConfig {
        local_as: Asn::new(64496 + u32::from(last)).unwrap(),
        local_identifier: identifier(last),
        remote_as: Asn::new(64496 + u32::from(remote)).unwrap(),
        hold_time: HoldTime::DEFAULT,
        connect_retry: seconds(5),
        passive: false,
        capabilities: capabilities(64496 + u32::from(last)),
        restarting_until: None,
        kept: FamilySet::from_iter(Family::ALL),
        seed: last.into(),
    }
}

fn open(last: u8) -> Open {
    Open {
        asn: Asn::new(64496 + u32::from(last)).unwrap(),
        hold_time: HoldTime::new(30).unwrap(),
        identifier: identifier(last),
        capabilities: capabilities(64496 + u32::from(last)),
    }
}

fn capabilities(asn: u32) -> Capabilities {
    Capabilities {
        families: FamilySet::from_iter(Family::ALL),
        four_octet_as: Some(asn),
        route_refresh: true,
        ..Capabilities::default()
    }
}

fn step(session: &mut Session, now: Duration, input: Input) -> Vec<Output> {
    let mut out = Vec::new();
    session.step(now, input, &mut out);
    out
}

/// Speaker 2, started, with the given inputs behind it.
fn session(inputs: impl IntoIterator<Item = Input>) -> Session {
    let mut session = Session::new(config(2, 1));
    step(&mut session, ZERO, Input::Start);
    for input in inputs {
        step(&mut session, ZERO, input);
    }
    session
}

use Direction::{Incoming, Outgoing};

fn to_open_confirm(direction: Direction) -> [Input; 2] {
    [Input::Connected(direction), Input::Message(direction, Received::Open(open(1)))]
}

fn established() -> Session {
    let keepalive = Input::Message(Outgoing, Received::Keepalive);
    let session = session(to_open_confirm(Outgoing).into_iter().chain([keepalive]));
    assert_eq!(session.state(), State::Established);
    session
}

/// Both the notification and what becomes of the connection.
fn assert_fails(out: &[Output], direction: Direction, notification: &Notification) {
    assert!(out.contains(&Output::SendNotification(direction, notification.clone())), "{out:?}");
    assert!(out.contains(&Output::Close(direction)), "{out:?}");
}

#[test]
fn start_dials_unless_passive() {
    let mut active = Session::new(config(2, 1));
    assert_eq!(step(&mut active, ZERO, Input::Start), [Output::Dial]);
    assert_eq!(active.state(), State::Connect);

    let mut passive = Session::new(SessionConfig { passive: true, ..config(2, 1) });
    assert_eq!(step(&mut passive, ZERO, Input::Start), []);
    assert_eq!(passive.state(), State::Active);
    assert_eq!(passive.next_deadline(), None);
}

#[test]
fn a_failed_dial_is_retried_after_connect_retry_with_jitter() {
    let mut session = session([Input::DialFailed]);
    assert_eq!(session.state(), State::Active);
    let deadline = session.next_deadline().unwrap();
    assert!((Duration::from_millis(3750)..=seconds(5)).contains(&deadline), "{deadline:?}");
    assert_eq!(step(&mut session, deadline, Input::Tick), [Output::Dial]);
}

#[test]
fn open_keepalive_establishes_with_the_shorter_hold_time() {
    let session = established();
    let (direction, negotiated) = session.established().unwrap();
    assert_eq!(direction, Outgoing);
    assert_eq!(negotiated.hold_time, HoldTime::new(30).unwrap());
}

#[test]
fn incoming_connections_are_refused_before_start() {
    let mut session = Session::new(config(2, 1));
    let out = step(&mut session, ZERO, Input::Connected(Incoming));
    assert_fails(&out, Incoming, &Notification::connection_rejected());
}

#[test]
fn incoming_connections_are_accepted_while_a_failed_neighbour_is_not_dialled() {
    let mut session = session([Input::Connected(Outgoing), Input::Lost(Outgoing)]);
    assert_eq!(session.state(), State::Idle);
    let out = step(&mut session, ZERO, Input::Connected(Incoming));
    assert!(matches!(out[..], [Output::SendOpen(Incoming, _)]), "{out:?}");
    assert_eq!(session.state(), State::OpenSent);
}

#[test]
fn open_faults_get_the_notification_of_section_6_2() {
    let cases = [
        (Open { asn: Asn::new(65000).unwrap(), ..open(1) }, Notification::bad_peer_as()),
        (
            Open { capabilities: Capabilities::default(), ..open(1) },
            Notification::unsupported_capability([1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1]),
        ),
    ];
    for (open, notification) in cases {
        let mut session = session([Input::Connected(Outgoing)]);
        let out = step(&mut session, ZERO, Input::Message(Outgoing, Received::Open(open)));
        assert_fails(&out, Outgoing, &notification);
        assert_eq!(session.state(), State::Idle);
    }
}

#[test]
fn an_internal_peer_with_our_identifier_is_refused() {
    let mut session = Session::new(SessionConfig { remote_as: config(2, 1).local_as, ..config(2, 1) });
    step(&mut session, ZERO, Input::Start);
    step(&mut session, ZERO, Input::Connected(Outgoing));
    let open = Open { asn: config(2, 1).local_as, identifier: identifier(2), ..open(1) };
    let out = step(&mut session, ZERO, Input::Message(Outgoing, Received::Open(open)));
    assert_fails(&out, Outgoing, &Notification::bad_bgp_identifier());
}

#[test]
fn unexpected_messages_get_code_5_with_the_state_as_subcode() {
    let cases = [
        (session([Input::Connected(Outgoing)]), Received::Keepalive, (1, 4)),
        (session([Input::Connected(Outgoing)]), Received::Update, (1, 2)),
        (session(to_open_confirm(Outgoing)), Received::Update, (2, 2)),
        (session(to_open_confirm(Outgoing)), Received::RouteRefresh, (2, 5)),
        (established(), Received::Open(open(1)), (3, 1)),
    ];
    for (mut session, received, (subcode, kind)) in cases {
        let out = step(&mut session, ZERO, Input::Message(Outgoing, received));
        assert_fails(&out, Outgoing, &Notification { code: 5, subcode, data: vec![kind] });
    }
}

#[test]
fn hold_timer_expiry_sends_notification_4_and_goes_idle() {
    let mut session = established();
    let out = step(&mut session, seconds(30), Input::Tick);
    assert_fails(&out, Outgoing, &Notification::hold_timer_expired());
    assert!(out.contains(&Output::Down(DownReason::Sent(Notification::hold_timer_expired()))));
    assert_eq!(session.state(), State::Idle);
}

#[test]
fn every_message_and_a_backlog_restart_the_hold_timer() {
    let inputs = [
        Input::Message(Outgoing, Received::Update),
        Input::Message(Outgoing, Received::Keepalive),
        Input::Message(Outgoing, Received::RouteRefresh),
        Input::Backlogged(Outgoing),
    ];
    for input in inputs {
        let mut session = established();
        step(&mut session, seconds(29), input.clone());
        step(&mut session, seconds(58), Input::Tick);
        assert_eq!(session.state(), State::Established, "{input:?}");
    }
}

#[test]
fn keepalives_go_out_within_a_third_of_the_hold_time() {
    let mut session = established();
    let mut now = ZERO;
    for _ in 0..5 {
        let deadline = session.next_deadline().unwrap();
        let interval = deadline.saturating_sub(now);
        assert!((Duration::from_millis(7500)..=seconds(10)).contains(&interval), "{interval:?}");
        now = deadline;
        assert_eq!(step(&mut session, now, Input::Tick), [Output::SendKeepalive(Outgoing)]);
        step(&mut session, now, Input::Message(Outgoing, Received::Keepalive));
    }
}

#[test]
fn hold_time_zero_runs_no_timer() {
    let mut session = session([Input::Connected(Outgoing)]);
    let open = Open { hold_time: HoldTime::new(0).unwrap(), ..open(1) };
    step(&mut session, ZERO, Input::Message(Outgoing, Received::Open(open)));
    step(&mut session, ZERO, Input::Message(Outgoing, Received::Keepalive));
    assert_eq!(session.state(), State::Established);
    assert_eq!(session.next_deadline(), None);
}

#[test]
fn a_received_notification_ends_the_session_without_an_answer() {
    let mut session = established();
    let notification = Notification::administrative_shutdown();
    let out =
        step(&mut session, ZERO, Input::Message(Outgoing, Received::Notification(notification.clone())));
    assert_eq!(out, [Output::Close(Outgoing), Output::Down(DownReason::Received(notification))]);
}

#[test]
fn stop_sends_the_given_notification_and_stays_idle() {
    let mut session = established();
    let out = step(&mut session, ZERO, Input::Stop(Notification::administrative_shutdown()));
    assert_fails(&out, Outgoing, &Notification::administrative_shutdown());
    assert_eq!(session.state(), State::Idle);
    assert_eq!(session.next_deadline(), None);
}

#[test]
fn failures_in_a_row_double_the_idle_hold_time_up_to_a_minute() {
    let mut session = session([]);
    let mut now = ZERO;
    let mut holds = Vec::new();
    for _ in 0..9 {
        step(&mut session, now, Input::Connected(Outgoing));
        step(&mut session, now, Input::Lost(Outgoing));
        assert_eq!(session.state(), State::Idle);
        let deadline = session.next_deadline().unwrap();
        holds.push(deadline.saturating_sub(now).as_secs_f64());
        now = deadline;
        assert_eq!(step(&mut session, now, Input::Tick), [Output::Dial]);
    }
    let longest = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0];
    for (hold, longest) in holds.iter().zip(longest) {
        assert!((longest * 0.75..=longest).contains(hold), "{holds:?}");
    }
}

#[test]
fn a_session_that_held_is_dialled_again_soon() {
    let mut session = session([Input::Connected(Outgoing), Input::Lost(Outgoing)]);
    let now = session.next_deadline().unwrap();
    step(&mut session, now, Input::Tick);
    for input in to_open_confirm(Outgoing) {
        step(&mut session, now, input);
    }
    step(&mut session, now, Input::Message(Outgoing, Received::Keepalive));
    let later = now + seconds(30);
    step(&mut session, later, Input::Lost(Outgoing));
    assert!(session.next_deadline().unwrap().saturating_sub(later) <= seconds(1));
}

#[test]
fn of_two_connections_the_one_of_the_larger_identifier_survives() {
    // Speaker 2 has the larger identifier than speaker 1, the smaller than speaker 3.
    for (remote, loser) in [(1, Incoming), (3, Outgoing)] {
        for first in [Incoming, Outgoing] {
            let mut session = Session::new(config(2, remote));
            step(&mut session, ZERO, Input::Start);
            step(&mut session, ZERO, Input::Connected(first));
            step(&mut session, ZERO, Input::Connected(first.other()));
            step(&mut session, ZERO, Input::Message(first, Received::Open(open(remote))));
            let out = step(&mut session, ZERO, Input::Message(first.other(), Received::Open(open(remote))));
            assert_fails(&out, loser, &Notification::connection_collision());
            step(&mut session, ZERO, Input::Message(loser.other(), Received::Keepalive));
            assert_eq!(session.established().unwrap().0, loser.other());
        }
    }
}

#[test]
fn an_established_session_survives_a_new_connection() {
    let mut session = established();
    step(&mut session, ZERO, Input::Connected(Incoming));
    let out = step(&mut session, ZERO, Input::Message(Incoming, Received::Open(open(1))));
    assert_fails(&out, Incoming, &Notification::connection_collision());
    assert_eq!(session.state(), State::Established);
}

/// With graceful restart and the N bit.
fn restarts(asn: u32) -> Capabilities {
    let restart = GracefulRestart { notification: true, restart_time: 30, ..GracefulRestart::default() };
    Capabilities { graceful_restart: Some(restart), ..capabilities(asn) }
}

/// The neighbour's, which does graceful restart.
fn open_graceful() -> Open {
    Open { capabilities: restarts(64497), ..open(1) }
}

/// Both ends do graceful restart.
fn graceful() -> Session {
    let mut session = Session::new(SessionConfig { capabilities: restarts(64498), ..config(2, 1) });
    let opened = Input::Message(Outgoing, Received::Open(open_graceful()));
    let keepalive = Input::Message(Outgoing, Received::Keepalive);
    for input in [Input::Start, Input::Connected(Outgoing), opened, keepalive] {
        step(&mut session, ZERO, input);
    }
    assert_eq!(session.state(), State::Established);
    session
}

#[test]
fn a_peer_that_announced_too_much_is_left_alone_as_long_as_the_penalty_says() {
    let exceed = |penalty| {
        let mut session = established();
        step(&mut session, ZERO, Input::Connected(Incoming));
        let out = step(&mut session, ZERO, Input::Exceeded(Outgoing, penalty));
        assert_fails(&out, Outgoing, &Notification::maximum_prefixes_reached());
        (session, out)
    };
    let (session, out) = exceed(Penalty::BackOff);
    assert!(!out.contains(&Output::Close(Incoming)), "the other connection may go on: {out:?}");
    assert_eq!(session.state(), State::OpenSent);

    for (penalty, deadline) in [(Penalty::For(seconds(300)), Some(seconds(300))), (Penalty::UntilReset, None)]
    {
        let (mut session, out) = exceed(penalty);
        assert_fails(&out, Incoming, &Notification::connection_rejected());
        assert_eq!(session.state(), State::Idle);
        assert_eq!(session.next_deadline(), deadline);
        let out = step(&mut session, seconds(299), Input::Connected(Incoming));
        assert_fails(&out, Incoming, &Notification::connection_rejected());
        let dials = step(&mut session, seconds(300), Input::Tick) == [Output::Dial];
        assert_eq!(dials, deadline.is_some(), "{penalty:?}");
    }
}

#[test]
fn a_restart_is_silent_to_peers_that_keep_our_routes_only() {
    let farewell = Notification::administrative_shutdown();
    let out = step(&mut graceful(), ZERO, Input::Restart(farewell.clone()));
    assert_eq!(out, [Output::Close(Outgoing), Output::Down(DownReason::ConnectionLost)]);
    let out = step(&mut established(), ZERO, Input::Restart(farewell.clone()));
    assert_fails(&out, Outgoing, &farewell);
}

#[test]
fn what_ends_a_session_for_good_is_a_hard_reset_where_routes_would_be_kept() {
    let shutdown = Notification::administrative_shutdown();
    let out = step(&mut graceful(), ZERO, Input::Stop(shutdown.clone()));
    assert_fails(&out, Outgoing, &Notification::hard_reset(&shutdown));
    let reset = Notification::administrative_reset();
    let out = step(&mut graceful(), ZERO, Input::Stop(reset.clone()));
    assert_fails(&out, Outgoing, &reset);
}

#[test]
fn a_peer_that_comes_back_before_its_end_was_noticed_takes_the_place_of_its_session() {
    let mut session = graceful();
    step(&mut session, seconds(60), Input::Connected(Incoming));
    let out = step(&mut session, seconds(60), Input::Message(Incoming, Received::Open(open(1))));
    let down = Output::Down(DownReason::ConnectionLost);
    assert_eq!(out, [Output::Close(Outgoing), down, Output::SendKeepalive(Incoming)], "its routes stay");
    let out = step(&mut session, seconds(60), Input::Message(Incoming, Received::Keepalive));
    assert!(matches!(out[..], [Output::Up(Incoming, _)]), "{out:?}");
}

#[test]
fn the_place_of_a_session_is_taken_by_connections_from_the_same_side_too() {
    let mut session = graceful();
    assert!(!session.make_room(), "there is room for an incoming one");
    for at in [60, 120] {
        session.make_room();
        step(&mut session, seconds(at), Input::Connected(Incoming));
        step(&mut session, seconds(at), Input::Message(Incoming, Received::Open(open_graceful())));
        step(&mut session, seconds(at), Input::Message(Incoming, Received::Keepalive));
        assert_eq!(session.established().map(|(direction, _)| direction), Some(Incoming), "at {at} s");
    }
}

#[test]
fn nothing_is_due_for_the_dialler_while_the_session_is_up() {
    for failure in [
        vec![Input::DialFailed],
        to_open_confirm(Outgoing).into_iter().chain([Input::Lost(Outgoing)]).collect(),
    ] {
        let mut session = Session::new(SessionConfig { capabilities: restarts(64498), ..config(2, 1) });
        let opened = Input::Message(Incoming, Received::Open(open_graceful()));
        let keepalive = Input::Message(Incoming, Received::Keepalive);
        let up = [Input::Connected(Incoming), opened, keepalive];
        for input in [Input::Start].into_iter().chain(failure).chain(up) {
            step(&mut session, ZERO, input);
        }
        assert!(session.make_room());
        step(&mut session, ZERO, Input::Tick);
        let (_, negotiated) = session.established().unwrap();
        let next = session.next_deadline().unwrap();
        assert!(next >= negotiated.hold_time.keepalive().unwrap() * 3 / 4, "due at {next:?}");
    }
}

#[test]
fn connections_that_crossed_and_those_of_peers_without_graceful_restart_take_nobodys_place() {
    for (mut session, at) in [(graceful(), 9), (established(), 60)] {
        step(&mut session, seconds(at), Input::Connected(Incoming));
        let out = step(&mut session, seconds(at), Input::Message(Incoming, Received::Open(open(1))));
        assert_fails(&out, Incoming, &Notification::connection_collision());
        assert_eq!(session.state(), State::Established);
    }
}

#[test]
fn the_restart_bit_is_set_until_the_restart_is_over() {
    let mut capabilities = capabilities(64498);
    capabilities.graceful_restart = Some(GracefulRestart::default());
    let config = SessionConfig { capabilities, restarting_until: Some(seconds(15)), ..config(2, 1) };
    for (at, restarting) in [(14, true), (15, false)] {
        let mut session = Session::new(config.clone());
        step(&mut session, ZERO, Input::Start);
        let out = step(&mut session, seconds(at), Input::Connected(Outgoing));
        let [Output::SendOpen(_, open)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(open.capabilities.graceful_restart.unwrap().restarting, restarting, "at {at} s");
    }
    let mut session = Session::new(config);
    step(&mut session, ZERO, Input::Start);
    session.restart_is_over();
    let out = step(&mut session, seconds(1), Input::Connected(Outgoing));
    let [Output::SendOpen(_, open)] = &out[..] else { panic!("{out:?}") };
    assert!(!open.capabilities.graceful_restart.unwrap().restarting, "over before its time");
}

#[test]
fn the_first_session_says_what_was_kept_and_later_ones_that_all_was() {
    let both = FamilySet::from_iter(Family::ALL);
    let ipv6 = FamilySet::from_iter([Family::Ipv6Unicast]);
    let mut capabilities = capabilities(64498);
    capabilities.graceful_restart =
        Some(GracefulRestart { families: both, forwarding: both, ..GracefulRestart::default() });
    capabilities.long_lived.forwarding = both;
    let mut session = Session::new(SessionConfig { capabilities, kept: ipv6, ..config(2, 1) });
    step(&mut session, ZERO, Input::Start);
    let forwarding = |out: &[Output]| {
        let Some(Output::SendOpen(_, open)) = out.last() else { panic!("{out:?}") };
        let restart = open.capabilities.graceful_restart.unwrap();
        (restart.forwarding, open.capabilities.long_lived.forwarding)
    };
    let out = step(&mut session, ZERO, Input::Connected(Outgoing));
    assert_eq!(forwarding(&out), (ipv6, ipv6));
    step(&mut session, ZERO, Input::Message(Outgoing, Received::Open(open(1))));
    step(&mut session, ZERO, Input::Message(Outgoing, Received::Keepalive));
    assert_eq!(session.state(), State::Established);
    step(&mut session, seconds(1), Input::Lost(Outgoing));
    let out = step(&mut session, seconds(1), Input::Connected(Incoming));
    assert_eq!(forwarding(&out), (both, both));
}

#[test]
fn a_peer_that_takes_nothing_for_eight_minutes_gets_notification_8() {
    let mut session = established();
    step(&mut session, ZERO, Input::Sending(Outgoing, Sending::Blocked));
    let hear = |session: &mut Session, at| {
        step(session, at, Input::Message(Outgoing, Received::Keepalive));
        step(session, at, Input::Tick)
    };
    for at in (0..480).step_by(10) {
        hear(&mut session, seconds(at));
        step(&mut session, seconds(at), Input::Sending(Outgoing, Sending::Blocked));
    }
    let mut moving = session.clone();
    step(&mut moving, seconds(479), Input::Sending(Outgoing, Sending::Progress));
    hear(&mut moving, seconds(480));
    assert_eq!(moving.state(), State::Established);
    let out = hear(&mut session, seconds(480));
    assert_fails(&out, Outgoing, &Notification::send_hold_timer_expired());
}

#[test]
fn both_ends_negotiate_what_both_offer() {
    let offer = |families: &[Family]| families.iter().copied().collect::<FamilySet>();
    let mut theirs = Capabilities {
        extended_messages: true,
        enhanced_route_refresh: true,
        extended_next_hop: true,
        ..capabilities(64497)
    };
    theirs.add_path.send = offer(&Family::ALL);
    theirs.long_lived.insert(Family::Ipv4Unicast, 100);
    let mut ours = Capabilities { families: offer(&[Family::Ipv4Unicast]), ..capabilities(64498) };
    ours.extended_messages = true;
    ours.add_path.receive = offer(&Family::ALL);
    ours.long_lived.insert(Family::Ipv4Unicast, 60);
    let mut session = Session::new(SessionConfig { capabilities: ours, ..config(2, 1) });
    let open = Open { capabilities: theirs, ..open(1) };
    let opened = Input::Message(Outgoing, Received::Open(open));
    for input in [Input::Start, Input::Connected(Outgoing), opened] {
        step(&mut session, ZERO, input);
    }
    step(&mut session, ZERO, Input::Message(Outgoing, Received::Keepalive));
    let (_, negotiated) = session.established().unwrap();
    assert_eq!(negotiated.families, offer(&[Family::Ipv4Unicast]));
    assert_eq!(negotiated.message_limit, 65535);
    assert!(!negotiated.enhanced_route_refresh && !negotiated.extended_next_hop);
    assert_eq!(negotiated.add_path.receive, offer(&[Family::Ipv4Unicast]));
    assert_eq!(negotiated.add_path.send, FamilySet::EMPTY);
    assert!(negotiated.long_lived.families.is_empty(), "it means nothing without graceful restart");
}

/// What travels between two speakers.
#[derive(Clone, Debug)]
enum Event {
    DialDone { machine: usize },
    Arrives { connection: usize, machine: usize, received: Option<Received> },
}

/// Two machines and the network between them; connections keep order and may break.
struct Network {
    sessions: [Session; 2],
    slots: [[Option<usize>; 2]; 2],
    connections: usize,
    events: BTreeMap<(Duration, usize), Event>,
    last_arrival: BTreeMap<(usize, usize), Duration>,
    sequence: usize,
    chance: Jitter,
    up: [bool; 2],
    /// Out of 1000 deliveries, how many break the connection instead.
    loss: u64,
}

fn index(direction: Direction) -> usize {
    usize::from(direction == Incoming)
}

impl Network {
    fn new(seed: u64) -> Self {
        Self {
            sessions: [(1, 2), (2, 1)].map(|(local, remote)| {
                Session::new(SessionConfig { seed: seed ^ u64::from(local), ..config(local, remote) })
            }),
            slots: [[None; 2]; 2],
            connections: 0,
            events: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            sequence: 0,
            chance: Jitter::new(seed),
            up: [false; 2],
            loss: 0,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        let span = self.chance.apply(seconds(4)).saturating_sub(seconds(3));
        u64::try_from(span.as_nanos()).unwrap() % below
    }

    fn schedule(&mut self, now: Duration, event: Event) {
        let mut at = now + Duration::from_millis(1 + self.random(200));
        if let Event::Arrives { connection, machine, .. } = event {
            let last = self.last_arrival.entry((connection, machine)).or_default();
            at = at.max(*last);
            *last = at;
        }
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn direction_of(&self, machine: usize, connection: usize) -> Option<Direction> {
        [Outgoing, Incoming]
            .into_iter()
            .find(|direction| self.slots[machine][index(*direction)] == Some(connection))
    }

    fn feed(&mut self, machine: usize, now: Duration, input: Input) {
        let mut out = Vec::new();
        self.sessions[machine].step(now, input, &mut out);
        for output in out {
            self.perform(machine, now, output);
        }
    }

    fn send(&mut self, machine: usize, direction: Direction, now: Duration, received: Option<Received>) {
        if let Some(connection) = self.slots[machine][index(direction)] {
            self.schedule(now, Event::Arrives { connection, machine: 1 - machine, received });
        }
    }

    fn perform(&mut self, machine: usize, now: Duration, output: Output) {
        match output {
            Output::Dial => self.schedule(now, Event::DialDone { machine }),
            Output::AbortDial => self
                .events
                .retain(|_, event| !matches!(event, Event::DialDone { machine: other } if *other == machine)),
            Output::SendOpen(direction, open) => {
                self.send(machine, direction, now, Some(Received::Open(open)));
            }
            Output::SendKeepalive(direction) => {
                self.send(machine, direction, now, Some(Received::Keepalive));
            }
            Output::SendNotification(direction, notification) => {
                self.send(machine, direction, now, Some(Received::Notification(notification)));
            }
            Output::Close(direction) => {
                self.send(machine, direction, now, None);
                self.slots[machine][index(direction)] = None;
            }
            Output::Up(..) => {
                assert!(!self.up[machine], "an Up follows an Up");
                self.up[machine] = true;
            }
            Output::Down(_) => {
                assert!(self.up[machine], "a Down without an Up");
                self.up[machine] = false;
            }
            Output::Failed(_) => {}
        }
    }

    fn break_connection(&mut self, machine: usize, direction: Direction, now: Duration) {
        self.send(machine, direction, now, None);
        self.slots[machine][index(direction)] = None;
        self.feed(machine, now, Input::Lost(direction));
    }

    fn happens(&mut self, now: Duration, event: Event) {
        let lost = self.random(1000) < self.loss;
        match event {
            Event::DialDone { machine } if lost || self.slots[1 - machine][1].is_some() => {
                self.feed(machine, now, Input::DialFailed);
            }
            Event::DialDone { machine } => {
                let connection = self.connections;
                self.connections += 1;
                self.slots[machine][0] = Some(connection);
                self.slots[1 - machine][1] = Some(connection);
                self.feed(machine, now, Input::Connected(Outgoing));
                self.feed(1 - machine, now, Input::Connected(Incoming));
            }
            Event::Arrives { connection, machine, received } => {
                let Some(direction) = self.direction_of(machine, connection) else { return };
                match received {
                    _ if lost => self.break_connection(machine, direction, now),
                    Some(received) => self.feed(machine, now, Input::Message(direction, received)),
                    None => {
                        self.slots[machine][index(direction)] = None;
                        self.feed(machine, now, Input::Lost(direction));
                    }
                }
            }
        }
    }

    fn run(&mut self, from: Duration, until: Duration) {
        let mut now = from;
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let timer = self.sessions.iter().filter_map(Session::next_deadline).min();
            let Some(next) = event.into_iter().chain(timer).min().filter(|next| *next < until) else {
                return;
            };
            now = now.max(next);
            if event.is_some_and(|at| at <= now) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happens(now, event);
            } else {
                for machine in 0..2 {
                    self.feed(machine, now, Input::Tick);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn two_machines_meet_on_one_connection_once_the_network_stops_failing(seed: u64, loss in 0_u64..400) {
        let mut network = Network::new(seed);
        for machine in 0..2 {
            network.feed(machine, ZERO, Input::Start);
        }
        network.loss = loss;
        network.run(ZERO, seconds(600));
        network.loss = 0;
        network.run(seconds(600), seconds(1200));
        let ends = [0, 1].map(|machine| {
            let (direction, _) = network.sessions[machine].established().expect("established");
            network.slots[machine][index(direction)]
        });
        prop_assert_eq!(ends[0], ends[1]);
        prop_assert_eq!(network.up, [true, true]);
    }
}
