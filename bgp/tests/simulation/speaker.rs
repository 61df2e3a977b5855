//! A whole speaker without a daemon: machines, helpers, tables and the wire, driven from outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use margay_bgp::fsm::{
    Direction, Helper, Input, Negotiated, Order, Output, Received, Session, SessionConfig,
};
use margay_bgp::rib::{AddPath, ExportView, PeerId, PeerInfo, Policies, Rib, Speaker};
use margay_bgp::wire::{
    Capabilities, Frame, GracefulRestart, MAX_MESSAGE_LEN, Message, PeerKind, Update, UpdateContext, header,
};
use margay_bgp::{Asn, BgpIdentifier, Family, FamilySet, HoldTime, Prefix};

/// What the world around a speaker must do.
#[derive(Debug)]
pub(crate) enum Action {
    Dial(u32),
    AbortDial(u32),
    Send(u32, Direction, Vec<u8>),
    Close(u32, Direction),
}

/// The session with one neighbour.
#[derive(Debug)]
struct Link {
    machine: Session,
    helper: Helper,
    session: Option<Negotiated>,
    /// Octets that are no whole message yet, of each direction.
    received: [Vec<u8>; 2],
}

/// Speaker `number` of AS 64496 + `number`.
#[derive(Debug)]
pub(crate) struct Node {
    number: u32,
    links: BTreeMap<u32, Link>,
    pub(crate) rib: Rib,
    /// Until when a restarted speaker waits for what its neighbours have to tell.
    deferred_until: Option<Duration>,
}

pub(crate) fn asn(number: u32) -> Asn {
    Asn::new(64496 + number).expect("not 0")
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc000_0200 + number)
}

fn identifier(number: u32) -> BgpIdentifier {
    BgpIdentifier::new(address(number)).expect("not 0")
}

/// The number of a neighbour in the tables, where 0 is the speaker itself.
fn peer_id(neighbor: u32) -> PeerId {
    PeerId(neighbor + 1)
}

fn index(direction: Direction) -> usize {
    usize::from(direction == Direction::Incoming)
}

impl Node {
    pub(crate) fn new(number: u32, neighbors: &[u32], seed: u64, restarting_until: Option<Duration>) -> Self {
        let families = FamilySet::from_iter(Family::ALL);
        let restart = GracefulRestart {
            notification: true,
            restart_time: 30,
            families,
            forwarding: families,
            ..GracefulRestart::default()
        };
        let links = neighbors.iter().map(|neighbor| {
            let config = SessionConfig {
                local_as: asn(number),
                local_identifier: identifier(number),
                remote_as: asn(*neighbor),
                hold_time: HoldTime::new(9).expect("at least 3"),
                connect_retry: Duration::from_secs(2),
                passive: false,
                capabilities: Capabilities {
                    families,
                    four_octet_as: Some(asn(number).number()),
                    route_refresh: true,
                    graceful_restart: Some(restart),
                    ..Capabilities::default()
                },
                restarting_until,
                kept: families,
                seed: seed ^ u64::from(*neighbor),
            };
            let machine = Session::new(config);
            let link =
                Link { machine, helper: Helper::default(), session: None, received: Default::default() };
            (*neighbor, link)
        });
        let mut rib = Rib::new(Speaker::new(asn(number), identifier(number)));
        if restarting_until.is_some() {
            rib.defer(families);
        }
        Self { number, links: links.collect(), rib, deferred_until: restarting_until }
    }

    pub(crate) fn originate(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        self.rib.originate(prefixes.into_iter().map(|prefix| (prefix, true)).collect());
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let links = self.links.values();
        let of_links = links.flat_map(|link| [link.machine.next_deadline(), link.helper.next_deadline()]);
        of_links.chain([self.deferred_until]).flatten().min()
    }

    /// Everything that is up.
    pub(crate) fn established(&self) -> impl Iterator<Item = u32> {
        let up = self.links.iter().filter(|(_, link)| link.machine.established().is_some());
        up.map(|(neighbor, _)| *neighbor)
    }

    pub(crate) fn start(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for neighbor in self.links.keys().copied().collect::<Vec<_>>() {
            self.input(now, neighbor, Input::Start, actions);
        }
    }

    pub(crate) fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.deferred_until.take_if(|until| *until <= now).is_some() {
            self.rib.proceed();
        }
        for neighbor in self.links.keys().copied().collect::<Vec<_>>() {
            self.input(now, neighbor, Input::Tick, actions);
            let mut orders = Vec::new();
            if let Some(link) = self.links.get_mut(&neighbor) {
                link.helper.tick(now, &mut orders);
            }
            self.obey(neighbor, &orders);
        }
    }

    pub(crate) fn input(&mut self, now: Duration, neighbor: u32, input: Input, actions: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&neighbor) else { return };
        let mut outputs = Vec::new();
        link.machine.step(now, input, &mut outputs);
        for output in outputs {
            self.perform(now, neighbor, output, actions);
        }
    }

    fn perform(&mut self, now: Duration, neighbor: u32, output: Output, actions: &mut Vec<Action>) {
        let mut message = Vec::new();
        match output {
            Output::Dial => actions.push(Action::Dial(neighbor)),
            Output::AbortDial => actions.push(Action::AbortDial(neighbor)),
            Output::SendOpen(direction, open) => {
                open.encode(&mut message);
                actions.push(Action::Send(neighbor, direction, message));
            }
            Output::SendKeepalive(direction) => {
                header::encode_keepalive(&mut message);
                actions.push(Action::Send(neighbor, direction, message));
            }
            Output::SendNotification(direction, notification) => {
                notification.encode(&mut message);
                actions.push(Action::Send(neighbor, direction, message));
            }
            Output::Close(direction) => {
                self.forget(neighbor, direction);
                actions.push(Action::Close(neighbor, direction));
            }
            Output::Up(_, negotiated) => self.up(now, neighbor, negotiated),
            Output::Down(reason) => {
                let Some(link) = self.links.get_mut(&neighbor) else { return };
                let session = link.session.take().expect("it was up");
                let mut orders = Vec::new();
                link.helper.down(now, &session, &reason, &mut orders);
                self.obey(neighbor, &orders);
            }
            Output::Failed(_) => {}
        }
    }

    fn up(&mut self, now: Duration, neighbor: u32, negotiated: Negotiated) {
        let Some(link) = self.links.get_mut(&neighbor) else { return };
        assert!(link.session.replace(negotiated).is_none(), "an Up follows an Up");
        let mut orders = Vec::new();
        link.helper.up(now, &negotiated, &mut orders);
        self.obey(neighbor, &orders);
        let info = PeerInfo {
            identifier: negotiated.identifier,
            remote_as: negotiated.asn,
            address: IpAddr::V4(address(neighbor)),
            families: negotiated.families,
            view: ExportView {
                kind: PeerKind::External,
                local_as: asn(self.number),
                as_width: negotiated.as_width,
                next_hop_ipv4: Some(address(self.number)),
                next_hop_ipv6: Some(address(self.number).to_ipv6_compatible()),
            },
            ifindex: None,
            add_path: AddPath::default(),
            message_limit: negotiated.message_limit,
            extended_next_hop: false,
            route_reflector_client: false,
            long_lived: false,
            policy: Policies::default(),
            prefix_limit: None,
        };
        self.rib.peer_up(peer_id(neighbor), info);
    }

    fn obey(&mut self, neighbor: u32, orders: &[Order]) {
        let peer = peer_id(neighbor);
        for order in orders {
            match order {
                Order::Sweep(families) => self.rib.sweep(peer, *families),
                Order::Down(families) => {
                    self.rib.peer_down(peer, Some(*families).filter(|families| !families.is_empty()));
                }
                Order::LongLived(families) => self.rib.long_lived(peer, *families),
            }
        }
    }

    fn forget(&mut self, neighbor: u32, direction: Direction) {
        if let Some(link) = self.links.get_mut(&neighbor) {
            link.received[index(direction)].clear();
        }
    }

    /// A connection broke.
    pub(crate) fn lost(
        &mut self,
        now: Duration,
        neighbor: u32,
        direction: Direction,
        actions: &mut Vec<Action>,
    ) {
        self.forget(neighbor, direction);
        self.input(now, neighbor, Input::Lost(direction), actions);
    }

    /// Octets arrived, cut anywhere.
    pub(crate) fn octets(
        &mut self,
        now: Duration,
        neighbor: u32,
        direction: Direction,
        octets: &[u8],
        actions: &mut Vec<Action>,
    ) {
        let Some(link) = self.links.get_mut(&neighbor) else { return };
        let mut stream = std::mem::take(&mut link.received[index(direction)]);
        stream.extend_from_slice(octets);
        let mut rest = &stream[..];
        loop {
            let session = self.session(neighbor, direction);
            let limit = session.map_or(MAX_MESSAGE_LEN, |session| session.message_limit);
            let input = match Frame::split_within(rest, limit) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    rest = &rest[frame.length..];
                    match Message::decode(frame) {
                        Ok(Message::Update(body)) => {
                            self.input(now, neighbor, Input::Message(direction, Received::Update), actions);
                            self.update(now, neighbor, direction, body, actions);
                            continue;
                        }
                        Ok(Message::Open(open)) => Input::Message(direction, Received::Open(open)),
                        Ok(Message::Keepalive) => Input::Message(direction, Received::Keepalive),
                        Ok(Message::RouteRefresh(refresh)) => {
                            if let (Some(_), Some((family, _))) = (session, refresh.content) {
                                self.rib.refresh(peer_id(neighbor), family);
                            }
                            Input::Message(direction, Received::RouteRefresh)
                        }
                        Ok(Message::Notification(notification)) => {
                            Input::Message(direction, Received::Notification(notification))
                        }
                        Err(notification) => Input::Malformed(direction, notification),
                    }
                }
                Err(notification) => {
                    rest = &[];
                    Input::Malformed(direction, notification)
                }
            };
            self.input(now, neighbor, input, actions);
        }
        // What follows a fault means nothing.
        if let Some(link) = self.links.get_mut(&neighbor)
            && !actions
                .iter()
                .any(|action| matches!(action, Action::Close(_, closed) if *closed == direction))
        {
            link.received[index(direction)] = rest.to_vec();
        }
    }

    fn session(&self, neighbor: u32, direction: Direction) -> Option<Negotiated> {
        let (up, session) = self.links.get(&neighbor)?.machine.established()?;
        (up == direction).then_some(session)
    }

    fn update(
        &mut self,
        now: Duration,
        neighbor: u32,
        direction: Direction,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) {
        let Some(session) = self.session(neighbor, direction) else { return };
        let context = UpdateContext {
            as_width: session.as_width,
            peer: PeerKind::External,
            families: session.families,
            add_path: FamilySet::EMPTY,
            extended_next_hop: false,
        };
        match Update::decode(body, context) {
            Ok(update) => {
                if let (Some(family), Some(link)) = (update.end_of_rib, self.links.get_mut(&neighbor)) {
                    link.helper.end_of_rib(family);
                }
                self.rib.update(peer_id(neighbor), update.into());
            }
            Err(notification) => {
                self.input(now, neighbor, Input::Malformed(direction, notification), actions);
            }
        }
    }

    /// Tells each neighbour what it does not know yet.
    pub(crate) fn flush(&mut self, actions: &mut Vec<Action>) {
        self.rib.decide();
        self.rib.write_pending();
        for (neighbor, link) in &self.links {
            let Some((direction, _)) = link.machine.established() else { continue };
            while let Some(batch) = self.rib.export(peer_id(*neighbor)) {
                actions
                    .extend(batch.iter().map(|octets| Action::Send(*neighbor, direction, octets.to_vec())));
            }
        }
        self.rib.tidy();
    }
}
