//! The virtual network: connections that keep the order of octets and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use margay_bgp::Prefix;
use margay_bgp::fsm::{Direction, Input};

use crate::speaker::{Action, Node};

/// What arrives where.
#[derive(Debug)]
enum Event {
    /// A dial of the first reaches the second.
    Dialled(u32, u32),
    /// Octets on a connection; none is its end.
    Arrives { connection: usize, at: u32, octets: Option<Vec<u8>> },
    /// Something unpleasant.
    Fault,
}

#[derive(Debug)]
struct Connection {
    dialler: u32,
    listener: u32,
    /// Something of it was swallowed, so nothing more arrives: what TCP repeats comes in order or not at all.
    broken: bool,
}

/// Speakers, and what is under way between them.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: Vec<Node>,
    edges: BTreeSet<(u32, u32)>,
    /// Edges that carry nothing now.
    cut: BTreeSet<(u32, u32)>,
    prefixes: Vec<Vec<Prefix>>,
    connections: Vec<Connection>,
    /// The connection of a speaker with a neighbour, of each direction.
    slots: BTreeMap<(u32, u32, bool), usize>,
    events: BTreeMap<(Duration, u64), Event>,
    last_arrival: BTreeMap<(usize, u32), Duration>,
    sequence: u64,
    now: Duration,
    chance: u64,
    faulty: bool,
}

fn edge(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let mut network = Self {
            nodes: Vec::new(),
            edges: BTreeSet::new(),
            cut: BTreeSet::new(),
            prefixes: Vec::new(),
            connections: Vec::new(),
            slots: BTreeMap::new(),
            events: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            sequence: 0,
            now: Duration::ZERO,
            chance: seed,
            faulty: true,
        };
        let size = 3 + network.random(3);
        for number in 1..size {
            // A tree joins all of them, some more edges make loops.
            let parent = network.random(number);
            network.edges.insert(edge(number, parent));
            let other = network.random(number);
            network.edges.insert(edge(number, other));
        }
        for number in 0..size {
            network.prefixes.push(Vec::new());
            let node = network.fresh(number);
            network.nodes.push(node);
        }
        for number in 0..size {
            network.originate(number);
            network.drive(number, Node::start);
        }
        network.schedule_fault();
        network
    }

    pub(crate) fn size(&self) -> u32 {
        u32::try_from(self.nodes.len()).expect("a few")
    }

    pub(crate) fn node(&self, number: u32) -> &Node {
        &self.nodes[number as usize]
    }

    pub(crate) fn prefixes(&self, number: u32) -> Vec<Prefix> {
        self.prefixes[number as usize].clone()
    }

    pub(crate) fn neighbors(&self, number: u32) -> BTreeSet<u32> {
        let ends = self.edges.iter().filter(|(one, other)| *one == number || *other == number);
        ends.map(|(one, other)| if *one == number { *other } else { *one }).collect()
    }

    /// No more faults: what is cut is whole again.
    pub(crate) fn calm(&mut self) {
        self.faulty = false;
        self.cut.clear();
    }

    /// Lets so much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let timers =
                (0..).zip(&self.nodes).filter_map(|(number, node)| Some((node.next_deadline()?, number)));
            let timer = timers.min();
            let next = event.into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next < until) else { break };
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= self.now) {
                let (_, event) = self.events.pop_first().expect("there is one");
                self.happens(event);
            } else if let Some((_, number)) = timer {
                self.drive(number, Node::tick);
            }
        }
        self.now = until;
    }

    fn random(&mut self, below: u32) -> u32 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed >> 33) % u64::from(below)).expect("below a u32")
    }

    fn fresh(&mut self, number: u32) -> Node {
        let neighbors: Vec<u32> = self.neighbors(number).into_iter().collect();
        let seed = u64::from(self.random(u32::MAX));
        Node::new(number, &neighbors, seed, Some(self.now + Duration::from_secs(15)))
    }

    /// Gives a speaker other prefixes, of both families.
    fn originate(&mut self, number: u32) {
        let all =
            [format!("10.{number}.0.0/16"), format!("10.{number}.1.0/24"), format!("2001:db8:{number}::/48")];
        let bits = 1 + self.random(7);
        let chosen = (0..).zip(all).filter(|(bit, _)| bits & (1 << bit) != 0);
        let prefixes: Vec<Prefix> = chosen.map(|(_, text)| text.parse().expect("a prefix")).collect();
        self.prefixes[number as usize].clone_from(&prefixes);
        self.nodes[number as usize].originate(prefixes);
        self.drive(number, |_, _, _| {});
    }

    fn schedule_fault(&mut self) {
        let delay = Duration::from_millis(500 + u64::from(self.random(15_000)));
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), Event::Fault);
    }

    fn schedule(&mut self, event: Event) {
        let mut at = self.now + Duration::from_millis(1 + u64::from(self.random(200)));
        // Connections may overtake one another, octets of one may not.
        if let Event::Arrives { connection, at: number, .. } = event {
            let last = self.last_arrival.entry((connection, number)).or_default();
            at = at.max(*last);
            *last = at;
        }
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn drive(&mut self, number: u32, step: impl FnOnce(&mut Node, Duration, &mut Vec<Action>)) {
        let mut actions = Vec::new();
        let node = &mut self.nodes[number as usize];
        step(node, self.now, &mut actions);
        node.flush(&mut actions);
        for action in actions {
            self.perform(number, action);
        }
    }

    fn perform(&mut self, number: u32, action: Action) {
        match action {
            Action::Dial(neighbor) => self.schedule(Event::Dialled(number, neighbor)),
            Action::AbortDial(neighbor) => self.events.retain(
                |_, event| !matches!(event, Event::Dialled(from, to) if (*from, *to) == (number, neighbor)),
            ),
            Action::Send(neighbor, direction, octets) => {
                let Some(connection) = self.slots.get(&(number, neighbor, direction == Direction::Outgoing))
                else {
                    return;
                };
                let connection = *connection;
                // TCP cuts where it likes.
                let middle = self.random(u32::try_from(octets.len()).expect("a message")) as usize;
                for piece in [&octets[..middle], &octets[middle..]] {
                    self.schedule(Event::Arrives { connection, at: neighbor, octets: Some(piece.to_vec()) });
                }
            }
            Action::Close(neighbor, direction) => self.close(number, neighbor, direction),
        }
    }

    /// Ends a connection at one end; the other hears of it.
    fn close(&mut self, number: u32, neighbor: u32, direction: Direction) {
        if let Some(connection) = self.slots.remove(&(number, neighbor, direction == Direction::Outgoing)) {
            self.schedule(Event::Arrives { connection, at: neighbor, octets: None });
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Dialled(from, to) => {
                let taken = self.slots.contains_key(&(to, from, false));
                if taken || self.cut.contains(&edge(from, to)) || (self.faulty && self.random(10) == 0) {
                    return self.drive(from, |node, now, out| node.input(now, to, Input::DialFailed, out));
                }
                let connection = self.connections.len();
                self.connections.push(Connection { dialler: from, listener: to, broken: false });
                self.slots.insert((from, to, true), connection);
                self.slots.insert((to, from, false), connection);
                let connected = Input::Connected;
                self.drive(to, |node, now, out| node.input(now, from, connected(Direction::Incoming), out));
                self.drive(from, |node, now, out| node.input(now, to, connected(Direction::Outgoing), out));
            }
            Event::Arrives { connection, at, octets } => self.arrives(connection, at, octets),
            Event::Fault if self.faulty => {
                self.fault();
                self.schedule_fault();
            }
            Event::Fault => {}
        }
    }

    fn arrives(&mut self, connection: usize, at: u32, octets: Option<Vec<u8>>) {
        let Connection { dialler, listener, .. } = self.connections[connection];
        self.connections[connection].broken |= self.cut.contains(&edge(dialler, listener));
        let (from, direction) =
            if at == dialler { (listener, Direction::Outgoing) } else { (dialler, Direction::Incoming) };
        let key = (at, from, direction == Direction::Outgoing);
        // It may have ended here meanwhile; a split swallows everything, the end too.
        if self.slots.get(&key) != Some(&connection) || self.connections[connection].broken {
            return;
        }
        if let Some(octets) = octets {
            self.drive(at, |node, now, out| node.octets(now, from, direction, &octets, out));
        } else {
            self.slots.remove(&key);
            self.drive(at, |node, now, out| node.lost(now, from, direction, out));
        }
    }

    fn fault(&mut self) {
        let size = self.size();
        let number = self.random(size);
        let neighbors: Vec<u32> = self.neighbors(number).into_iter().collect();
        let count = u32::try_from(neighbors.len()).expect("a few");
        let neighbor = neighbors[self.random(count) as usize];
        match self.random(5) {
            // One connection breaks.
            0 => {
                for direction in [Direction::Outgoing, Direction::Incoming] {
                    if self.slots.contains_key(&(number, neighbor, direction == Direction::Outgoing)) {
                        self.close(number, neighbor, direction);
                        self.drive(number, |node, now, out| node.lost(now, neighbor, direction, out));
                    }
                }
            }
            // The network splits around a speaker.
            1 => self.cut.extend(neighbors.into_iter().map(|neighbor| edge(number, neighbor))),
            2 => self.cut.clear(),
            3 => self.originate(number),
            // A speaker dies and begins anew, knowing nothing.
            _ => {
                for neighbor in neighbors {
                    for direction in [Direction::Outgoing, Direction::Incoming] {
                        self.close(number, neighbor, direction);
                    }
                    self.perform(number, Action::AbortDial(neighbor));
                }
                self.nodes[number as usize] = self.fresh(number);
                self.originate(number);
                self.drive(number, Node::start);
            }
        }
    }
}
