//! The machine of one session (RFC 5880 section 6.8).

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use super::packet::{Diagnostic, Packet, State};

/// How often packets go and come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The shortest time between packets that we send while Up.
    pub min_tx: Duration,
    /// The shortest time between packets that we can take.
    pub min_rx: Duration,
    /// How many of our packets the neighbour may miss.
    pub multiplier: NonZeroU8,
}

/// What the machine has to know.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// Our number of the session, which no other session here has.
    pub discriminator: NonZeroU32,
    /// How often packets go and come.
    pub timers: Timers,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// A packet for this session arrived.
    Packet(Packet),
    /// Packets are to go and come as often as this from now on.
    Timers(Timers),
    /// The operator wants the session no longer (section 6.8.16). There is no way back.
    Disable,
    /// Time has passed; timers that are due fire.
    Tick,
}

/// Why a session that was Up says that the path is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing was heard for the detection time.
    Silence,
    /// The neighbour hears nothing.
    NeighborDown,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Send(Packet),
    /// The state is another one now.
    Changed(State),
    /// The path to the neighbour is broken. Nobody's operator meant that: `AdminDown` has no such output
    /// (RFC 5882 section 3.2).
    Lost {
        /// How that shows.
        loss: Loss,
        /// Whether the neighbour's packets outlive its control plane: then it is the path that does not forward,
        /// and not a control plane that restarts (the C bit, RFC 5882 section 4.3).
        independent: bool,
    },
}

/// What the neighbour said last.
#[derive(Clone, Copy, Debug)]
struct Remote {
    discriminator: NonZeroU32,
    state: State,
    independent: bool,
    demand: bool,
    desired_min_tx: Duration,
    required_min_rx: Duration,
    multiplier: NonZeroU8,
    heard: Duration,
}

/// A poll sequence (section 6.5): P until F comes, so that both ends know the new intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    Active,
    /// The intervals changed again meanwhile.
    ActiveThenAgain,
    /// One packet goes without P, so that its F is not taken for the next one's.
    Pause,
}

/// While not Up, nothing is sent more often (section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// The machine of one session. Times are durations since any fixed moment that the caller chose.
#[derive(Clone, Debug)]
pub struct Session {
    discriminator: NonZeroU32,
    timers: Timers,
    state: State,
    diagnostic: Diagnostic,
    remote: Option<Remote>,
    poll: Poll,
    /// `bfd.DesiredMinTxInterval` in use: a longer one counts once the neighbour knows it.
    tx_in_use: Duration,
    /// `bfd.RequiredMinRxInterval` in use: so does a shorter one.
    rx_in_use: Duration,
    sent: Option<Duration>,
    /// What the jitter leaves of the interval that runs, in parts of `u32::MAX`.
    share: u32,
    random: u64,
}

impl Session {
    /// A machine in state Down, which sends its first packet at the first [`Input::Tick`].
    pub fn new(config: SessionConfig) -> Self {
        Self {
            discriminator: config.discriminator,
            timers: config.timers,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: None,
            poll: Poll::Idle,
            tx_in_use: config.timers.min_tx.max(SLOW),
            rx_in_use: config.timers.min_rx,
            sent: None,
            share: u32::MAX,
            random: config.seed,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the state changed last.
    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// The time between packets that we send, before jitter; `None` while the neighbour wants none.
    pub fn transmit_interval(&self) -> Option<Duration> {
        let Some(remote) = &self.remote else { return Some(self.tx_in_use) };
        let quiet =
            remote.demand && self.state == State::Up && remote.state == State::Up && self.poll == Poll::Idle;
        (!quiet && !remote.required_min_rx.is_zero()).then(|| self.tx_in_use.max(remote.required_min_rx))
    }

    /// The silence after which the neighbour is lost (section 6.8.4), once it was heard.
    pub fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote.as_ref()?;
        Some(self.rx_in_use.max(remote.desired_min_tx) * u32::from(remote.multiplier.get()))
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        [self.next_packet(), self.silent_at()].into_iter().flatten().min()
    }

    /// Takes one input at a time that never goes back; appends what follows from it.
    pub fn step(&mut self, now: Duration, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Packet(packet) => self.received(now, &packet, out),
            Input::Timers(timers) => {
                let changed = self.timers != timers;
                self.timers = timers;
                if changed {
                    self.use_intervals();
                }
            }
            Input::Disable => {
                if self.state != State::AdminDown {
                    self.change(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN, out);
                }
            }
            Input::Tick => self.tick(now, out),
        }
    }

    fn desired_min_tx(&self) -> Duration {
        if self.state == State::Up { self.timers.min_tx } else { self.timers.min_tx.max(SLOW) }
    }

    /// Section 6.8.3: what the neighbour must know before it may count waits for the end of a poll sequence.
    fn use_intervals(&mut self) {
        let (tx, rx) = (self.desired_min_tx(), self.timers.min_rx);
        if self.state != State::Up || tx <= self.tx_in_use {
            self.tx_in_use = tx;
        }
        if self.state != State::Up || rx >= self.rx_in_use {
            self.rx_in_use = rx;
        }
        // Whoever is not there hears of it with the first packet.
        if self.remote.is_some() {
            self.poll = match self.poll {
                Poll::Idle => Poll::Active,
                Poll::Active | Poll::ActiveThenAgain => Poll::ActiveThenAgain,
                Poll::Pause => Poll::Pause,
            };
        }
    }

    fn polled(&mut self) {
        self.poll = match self.poll {
            Poll::Active => {
                (self.tx_in_use, self.rx_in_use) = (self.desired_min_tx(), self.timers.min_rx);
                Poll::Idle
            }
            Poll::ActiveThenAgain => Poll::Pause,
            other => other,
        };
    }

    fn received(&mut self, now: Duration, packet: &Packet, out: &mut Vec<Output>) {
        self.remote = Some(Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            independent: packet.control_plane_independent,
            demand: packet.demand,
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
            multiplier: packet.multiplier,
            heard: now,
        });
        if packet.finish {
            self.polled();
        }
        let down = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
        match (self.state, packet.state) {
            (State::AdminDown, _) => return,
            (State::Init | State::Up, State::AdminDown) => self.change(now, State::Down, down, out),
            (State::Up, State::Down) => {
                let lost =
                    Output::Lost { loss: Loss::NeighborDown, independent: packet.control_plane_independent };
                self.change(now, State::Down, down, out);
                out.push(lost);
            }
            (State::Down, State::Down) => self.change(now, State::Init, Diagnostic::NONE, out),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.change(now, State::Up, Diagnostic::NONE, out);
            }
            (State::Down, State::AdminDown | State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up) => {}
        }
        if packet.poll {
            // In place of P: no packet has both (section 6.5).
            out.push(Output::Send(Packet { poll: false, finish: true, ..self.packet() }));
        }
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.silent_at().is_some_and(|at| at <= now) {
            let independent = self.remote.take().is_some_and(|remote| remote.independent);
            // Nobody is left to answer.
            self.poll = Poll::Idle;
            let was = self.state;
            if matches!(was, State::Init | State::Up) {
                self.change(now, State::Down, Diagnostic::DETECTION_TIME_EXPIRED, out);
            }
            if was == State::Up {
                out.push(Output::Lost { loss: Loss::Silence, independent });
            }
        }
        if self.next_packet().is_some_and(|at| at <= now) {
            self.send(now, out);
        }
    }

    /// Another state, of which the neighbour hears at once.
    fn change(&mut self, now: Duration, state: State, diagnostic: Diagnostic, out: &mut Vec<Output>) {
        self.state = state;
        self.diagnostic = diagnostic;
        if (self.desired_min_tx(), self.timers.min_rx) != (self.tx_in_use, self.rx_in_use) {
            self.use_intervals();
        }
        out.push(Output::Changed(state));
        if self.transmit_interval().is_some() {
            self.send(now, out);
        }
    }

    fn send(&mut self, now: Duration, out: &mut Vec<Output>) {
        out.push(Output::Send(self.packet()));
        if self.poll == Poll::Pause {
            self.poll = Poll::Active;
        }
        self.sent = Some(now);
        self.share = self.draw();
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: matches!(self.poll, Poll::Active | Poll::ActiveThenAgain),
            finish: false,
            // Our packets come from the process that speaks BGP.
            control_plane_independent: false,
            demand: false,
            multiplier: self.timers.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.map(|remote| remote.discriminator),
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.timers.min_rx,
            required_min_echo_rx: Duration::ZERO,
        }
    }

    fn next_packet(&self) -> Option<Duration> {
        let Some(sent) = self.sent else { return Some(Duration::ZERO) };
        let share = f64::from(self.share) / f64::from(u32::MAX);
        // A packet of one that is missed must not be: the interval never reaches its length (section 6.8.7).
        let (shortest, longest) = if self.timers.multiplier.get() == 1 { (0.75, 0.9) } else { (0.75, 1.0) };
        self.transmit_interval()
            .map(|interval| sent + interval.mul_f64(shortest + (longest - shortest) * share))
    }

    fn silent_at(&self) -> Option<Duration> {
        Some(self.remote?.heard + self.detection_time()?)
    }

    /// The next random number (splitmix64).
    fn draw(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        u32::try_from(mixed >> 32).unwrap_or(u32::MAX)
    }
}
