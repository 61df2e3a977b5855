use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn timers(min_tx: u64, min_rx: u64, multiplier: u8) -> Timers {
    Timers {
        min_tx: milliseconds(min_tx),
        min_rx: milliseconds(min_rx),
        multiplier: NonZeroU8::new(multiplier).unwrap(),
    }
}

const USUAL: fn() -> Timers = || timers(300, 300, 3);

fn machine(discriminator: u32, timers: Timers) -> Session {
    let discriminator = NonZeroU32::new(discriminator).unwrap();
    Session::new(SessionConfig { discriminator, timers, seed: discriminator.get().into() })
}

fn packets(outputs: &[Output]) -> Vec<Packet> {
    let packets = outputs.iter().filter_map(|output| match output {
        Output::Send(packet) => Some(*packet),
        _ => None,
    });
    packets.collect()
}

/// Two machines and a link without delay, which is cut or not in each direction.
struct Pair {
    ends: [Session; 2],
    now: Duration,
    cut: [bool; 2],
    /// What each end did besides sending, and when.
    events: [Vec<(Duration, Output)>; 2],
    /// When each end sent what.
    sent: [Vec<(Duration, Packet)>; 2],
}

impl Pair {
    fn new(timers: [Timers; 2]) -> Self {
        let ends = [machine(1, timers[0]), machine(2, timers[1])];
        Self {
            ends,
            now: Duration::ZERO,
            cut: [false; 2],
            events: Default::default(),
            sent: Default::default(),
        }
    }

    fn up(timers: [Timers; 2]) -> Self {
        let mut pair = Self::new(timers);
        pair.run_until(milliseconds(5000));
        assert_eq!(pair.states(), [State::Up; 2]);
        pair.sent = Default::default();
        pair.events = Default::default();
        pair
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn step(&mut self, end: usize, input: Input) {
        let mut inputs = vec![(end, input)];
        while let Some((end, input)) = inputs.pop() {
            let mut outputs = Vec::new();
            self.ends[end].step(self.now, input, &mut outputs);
            for output in outputs {
                if let Output::Send(packet) = output {
                    self.sent[end].push((self.now, packet));
                    assert!(self.sent[end].len() < 100_000, "a storm of packets");
                    if !self.cut[end] {
                        // Over the wire and back, as its bytes.
                        let packet = Packet::decode(&packet.encode()).unwrap();
                        inputs.insert(0, (1 - end, Input::Packet(packet)));
                    }
                } else {
                    self.events[end].push((self.now, output));
                }
            }
        }
    }

    fn run_until(&mut self, until: Duration) {
        loop {
            let next = (0..2).filter_map(|end| Some((self.ends[end].next_deadline()?, end))).min();
            let Some((at, end)) = next.filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(at);
            self.step(end, Input::Tick);
        }
        self.now = until;
    }

    fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn losses(&self, end: usize) -> Vec<(Duration, Loss)> {
        let losses = self.events[end].iter().filter_map(|(at, event)| match event {
            Output::Lost { loss, .. } => Some((*at, *loss)),
            _ => None,
        });
        losses.collect()
    }
}

#[test]
fn both_ends_come_up_with_their_first_packets() {
    let mut pair = Pair::new([USUAL(), USUAL()]);
    pair.run_until(Duration::ZERO);
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn the_slower_end_decides_in_each_direction_once_up() {
    let pair = Pair::up([timers(100, 400, 3), timers(50, 200, 5)]);
    let intervals = [0, 1].map(|end: usize| pair.ends[end].transmit_interval().unwrap());
    assert_eq!(intervals, [milliseconds(200), milliseconds(400)]);
    let detection = [0, 1].map(|end: usize| pair.ends[end].detection_time().unwrap());
    assert_eq!(detection, [milliseconds(5 * 400), milliseconds(3 * 200)]);
}

#[test]
fn a_cut_link_is_found_within_the_detection_time() {
    let mut pair = Pair::up([USUAL(), USUAL()]);
    pair.cut = [true; 2];
    let cut_at = pair.now;
    pair.run_for(milliseconds(2000));
    for end in 0..2 {
        let losses = pair.losses(end);
        let [(at, Loss::Silence)] = losses[..] else { panic!("{losses:?}") };
        let took = at.checked_sub(cut_at).unwrap();
        assert!((milliseconds(600)..=milliseconds(900)).contains(&took), "{took:?}");
    }
    assert_eq!(pair.states(), [State::Down; 2]);
    assert_eq!(pair.ends[0].diagnostic(), Diagnostic::DETECTION_TIME_EXPIRED);
}

#[test]
fn a_link_cut_in_one_direction_takes_both_ends_down() {
    let mut pair = Pair::up([USUAL(), USUAL()]);
    pair.cut = [true, false];
    pair.run_for(milliseconds(950));
    assert_eq!(pair.losses(1).first().map(|(_, loss)| *loss), Some(Loss::Silence));
    assert_eq!(pair.losses(0).first().map(|(_, loss)| *loss), Some(Loss::NeighborDown));
    pair.cut = [false; 2];
    pair.run_for(milliseconds(2000));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn a_neighbour_that_its_operator_takes_down_is_not_lost() {
    let mut pair = Pair::up([USUAL(), USUAL()]);
    pair.step(0, Input::Disable);
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    pair.run_for(milliseconds(10_000));
    assert_eq!(pair.losses(1), []);
    assert_eq!(pair.ends[1].diagnostic(), Diagnostic::NEIGHBOR_SIGNALED_DOWN);
    let (_, last) = pair.sent[0].last().unwrap();
    assert_eq!((last.state, last.diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
}

#[test]
fn while_not_up_a_packet_goes_once_a_second() {
    let mut pair = Pair::new([USUAL(), USUAL()]);
    pair.cut = [true; 2];
    pair.run_until(milliseconds(10_000));
    let sent = &pair.sent[0];
    assert!(
        sent.windows(2)
            .all(|two| (milliseconds(750)..=milliseconds(1000)).contains(&two[1].0.abs_diff(two[0].0)))
    );
    assert!(sent.iter().all(|(_, packet)| packet.desired_min_tx == milliseconds(1000)));
    assert!(
        sent.iter().all(|(_, packet)| packet.state == State::Down && packet.your_discriminator.is_none())
    );
}

#[test]
fn intervals_are_shortened_at_random_by_up_to_a_quarter() {
    for (multiplier, longest) in [(3, 300), (1, 270)] {
        let pair = {
            let mut pair = Pair::up([timers(300, 300, multiplier), USUAL()]);
            pair.run_for(milliseconds(60_000));
            pair
        };
        let sent: Vec<Duration> =
            pair.sent[0].iter().filter(|sent| !sent.1.finish).map(|sent| sent.0).collect();
        let gaps: Vec<Duration> = sent.windows(2).map(|two| two[1].abs_diff(two[0])).collect();
        assert!(gaps.iter().all(|gap| (milliseconds(225)..=milliseconds(longest)).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap < milliseconds(240)), "multiplier {multiplier}");
        assert!(gaps.iter().any(|gap| *gap > milliseconds(longest - 15)), "multiplier {multiplier}");
    }
}

#[test]
fn a_longer_interval_counts_once_the_neighbour_knows_it() {
    let mut pair = Pair::up([USUAL(), USUAL()]);
    pair.cut = [true, false];
    pair.step(0, Input::Timers(timers(500, 100, 3)));
    assert_eq!(pair.ends[0].transmit_interval(), Some(milliseconds(300)));
    assert_eq!(pair.ends[0].detection_time(), Some(milliseconds(900)));
    // The first packets with P are lost.
    pair.run_for(milliseconds(500));
    assert!(pair.sent[0].iter().all(|(_, packet)| packet.poll && packet.desired_min_tx == milliseconds(500)));
    pair.cut = [false; 2];
    pair.run_for(milliseconds(400));
    assert_eq!(pair.ends[0].transmit_interval(), Some(milliseconds(500)));
    // The neighbour sends no more often than before.
    assert_eq!(pair.ends[0].detection_time(), Some(milliseconds(900)));
    assert_eq!(pair.ends[1].detection_time(), Some(milliseconds(1500)));
    pair.run_for(milliseconds(1000));
    assert!(!pair.sent[0].last().unwrap().1.poll, "the poll sequence has an end");
    assert_eq!((pair.losses(0), pair.losses(1)), (vec![], vec![]));
}

#[test]
fn a_change_during_a_poll_sequence_has_one_of_its_own() {
    let mut end = machine(1, USUAL());
    let heard = |finish, your: Option<u32>| Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Up,
        poll: false,
        finish,
        control_plane_independent: false,
        demand: false,
        multiplier: NonZeroU8::new(3).unwrap(),
        my_discriminator: NonZeroU32::new(9).unwrap(),
        your_discriminator: your.and_then(NonZeroU32::new),
        desired_min_tx: milliseconds(100),
        required_min_rx: milliseconds(100),
        required_min_echo_rx: Duration::ZERO,
    };
    let mut out = Vec::new();
    end.step(Duration::ZERO, Input::Packet(Packet { state: State::Init, ..heard(false, Some(1)) }), &mut out);
    assert_eq!(end.state(), State::Up);
    assert!(packets(&out).last().unwrap().poll, "the interval became shorter");
    end.step(milliseconds(1), Input::Timers(timers(600, 300, 3)), &mut out);
    end.step(milliseconds(2), Input::Packet(heard(true, Some(1))), &mut out);
    assert_eq!(end.transmit_interval(), Some(milliseconds(300)), "the answer was to the change before");
    let mut polls = Vec::new();
    for at in [300, 600, 900] {
        let mut out = Vec::new();
        end.step(milliseconds(at), Input::Packet(heard(false, Some(1))), &mut out);
        end.step(milliseconds(at), Input::Tick, &mut out);
        polls.extend(packets(&out).iter().map(|packet| packet.poll));
    }
    assert_eq!(polls, [false, true, true]);
    end.step(milliseconds(901), Input::Packet(heard(true, Some(1))), &mut out);
    assert_eq!(end.transmit_interval(), Some(milliseconds(600)));
}

#[test]
fn a_neighbour_that_wants_no_packets_gets_none_but_answers() {
    let mut pair = Pair::up([USUAL(), USUAL()]);
    let mut packet = pair.sent_by(1);
    packet.required_min_rx = Duration::ZERO;
    pair.step(0, Input::Packet(packet));
    assert_eq!(pair.ends[0].transmit_interval(), None);
    pair.sent = Default::default();
    pair.step(0, Input::Packet(Packet { poll: true, ..packet }));
    let (_, answer) = pair.sent[0][0];
    assert!(answer.finish && !answer.poll);
    assert_eq!(pair.sent[0].len(), 1);
}

impl Pair {
    /// The next packet of an end.
    fn sent_by(&mut self, end: usize) -> Packet {
        let before = self.sent[end].len();
        while self.sent[end].len() == before {
            self.run_for(milliseconds(10));
        }
        self.sent[end][before].1
    }
}

#[test]
fn the_c_bit_of_the_neighbour_says_whose_loss_it_is() {
    for independent in [false, true] {
        let mut pair = Pair::up([USUAL(), USUAL()]);
        let packet = pair.sent_by(1);
        pair.cut = [true; 2];
        pair.step(0, Input::Packet(Packet { control_plane_independent: independent, ..packet }));
        pair.run_for(milliseconds(1000));
        let lost = Output::Lost { loss: Loss::Silence, independent };
        assert!(pair.events[0].iter().any(|(_, event)| *event == lost), "{:?}", pair.events[0]);
    }
}

#[test]
fn packets_are_dropped_for_the_reasons_of_the_rfc() {
    let whole = packet_of_another();
    assert_eq!(Packet::decode(&whole).unwrap().my_discriminator.get(), 0x0102_0304);
    let with = |at: usize, value: u8| {
        let mut octets = whole;
        octets[at] = value;
        Packet::decode(&octets)
    };
    assert_eq!(with(0, 0x40), Err(Malformed::Version(2)));
    assert_eq!(with(2, 0), Err(Malformed::Multiplier));
    assert_eq!(with(3, 23), Err(Malformed::Length { said: 23, found: 24 }));
    assert_eq!(with(3, 25), Err(Malformed::Length { said: 25, found: 24 }));
    assert_eq!(with(1, 0xc1), Err(Malformed::Multipoint));
    assert_eq!(with(1, 0xc4), Err(Malformed::Authenticated));
    assert_eq!(Packet::decode(&whole[..23]), Err(Malformed::Length { said: 24, found: 23 }));
    let mut nobody = whole;
    nobody[4..8].fill(0);
    assert_eq!(Packet::decode(&nobody), Err(Malformed::MyDiscriminator));
    let mut to_nobody = whole;
    to_nobody[8..12].fill(0);
    assert_eq!(Packet::decode(&to_nobody), Err(Malformed::YourDiscriminator(State::Up)));
    to_nobody[1] = 0x40;
    assert_eq!(Packet::decode(&to_nobody).unwrap().state, State::Down);
}

/// State Up, multiplier 3, 300 ms both ways, as RFC 5880 section 4.1 draws it.
fn packet_of_another() -> [u8; PACKET_LEN] {
    let mut octets = [0; PACKET_LEN];
    octets[..8].copy_from_slice(&[0x20, 0xc0, 3, 24, 1, 2, 3, 4]);
    octets[8..12].copy_from_slice(&[0, 0, 0, 7]);
    octets[12..16].copy_from_slice(&300_000_u32.to_be_bytes());
    octets[16..20].copy_from_slice(&300_000_u32.to_be_bytes());
    octets
}

proptest! {
    #[test]
    fn what_is_understood_is_said_again_in_the_same_words(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(packet) = Packet::decode(&octets) {
            prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        }
    }

    /// Whatever is lost, once nothing is lost any more both ends come up, with each other's intervals.
    #[test]
    fn ends_come_up_whatever_happened_before(
        cuts in proptest::collection::vec((any::<bool>(), any::<bool>(), 1_u64..3000, 10_u64..2000, 10_u64..2000), 0..12),
    ) {
        let mut pair = Pair::new([USUAL(), timers(70, 500, 1)]);
        let mut last = (300, 300);
        for (first, second, time, min_tx, min_rx) in cuts {
            pair.cut = [first, second];
            pair.step(0, Input::Timers(timers(min_tx, min_rx, 3)));
            last = (min_tx, min_rx);
            pair.run_for(milliseconds(time));
        }
        pair.cut = [false; 2];
        // The longest detection time that was ever agreed on, and two slow rounds.
        pair.run_for(milliseconds(20_000));
        prop_assert_eq!(pair.states(), [State::Up; 2]);
        prop_assert_eq!(pair.ends[0].transmit_interval(), Some(milliseconds(last.0.max(500))));
        prop_assert_eq!(pair.ends[0].detection_time(), Some(milliseconds(last.1.max(70))));
        let quiet = pair.events.clone();
        pair.run_for(milliseconds(60_000));
        prop_assert_eq!(pair.events, quiet, "what is up stays up");
    }
}
