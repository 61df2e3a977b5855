//! A whole session takes any bytes: machine, helper, decoders and tables, with a second peer who is told all of it.
//!
//! The first octet chooses the session, the rest is the stream. Unless it says otherwise, the stream is cut at the
//! markers and lengths are put right: a wrong length ends a session, and nothing behind it would be tried.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use margay_bgp::fsm::{
    Direction, Helper, Input, Negotiated, Order, Output, Received, Session, SessionConfig,
};
use margay_bgp::rib::{self, Counts, ExportView, PeerId, PeerInfo, Policies, Rib, Speaker};
use margay_bgp::wire::{
    AddPath, AsWidth, Capabilities, Frame, GracefulRestart, HEADER_LEN, LongLived, MAX_MESSAGE_LEN, Message,
    NextHop, Open, PeerKind, RefreshKind, Update, UpdateContext, header,
};
use margay_bgp::{Asn, BgpIdentifier, Family, FamilySet, HoldTime};

const PEER: PeerId = PeerId(1);
const OBSERVER: PeerId = PeerId(2);
const MARKER: [u8; 16] = [0xff; 16];
const CONNECTION: Direction = Direction::Outgoing;

fuzz_target!(|input: &[u8]| {
    let Some((choice, stream)) = input.split_first() else { return };
    let chosen = |bit: u8| choice & (1 << bit) != 0;
    let mut driver =
        Driver::new(if chosen(0) { PeerKind::Internal } else { PeerKind::External }, chosen(1), chosen(2));
    driver.step(Input::Start);
    driver.step(Input::Connected(CONNECTION));
    if !chosen(3) {
        // The stream begins where routes do.
        driver.message(&driver.open(if chosen(4) { AsWidth::Two } else { AsWidth::Four }));
        let mut keepalive = Vec::new();
        header::encode_keepalive(&mut keepalive);
        driver.message(&keepalive);
        assert!(driver.session.is_some(), "a session with a peer that does all well");
    }
    if chosen(7) {
        driver.octets(stream)
    } else {
        repaired(stream).for_each(|message| driver.message(&message))
    }
    driver.end(stream.len());
});

/// The messages of a stream, each with a length that is true.
fn repaired(stream: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let starts: Vec<usize> = stream
        .windows(MARKER.len())
        .enumerate()
        .filter(|(_, window)| *window == MARKER)
        .map(|(at, _)| at)
        .collect();
    let ends = starts.iter().skip(1).copied().chain([stream.len()]).collect::<Vec<_>>();
    let messages = starts.into_iter().zip(ends).map(|(start, end)| stream[start..end].to_vec());
    messages.filter(|message| message.len() >= HEADER_LEN).map(|mut message| {
        message.truncate(MAX_MESSAGE_LEN);
        let length = u16::try_from(message.len()).expect("at most 4096");
        message[16..18].copy_from_slice(&length.to_be_bytes());
        message
    })
}

struct Driver {
    kind: PeerKind,
    machine: Session,
    helper: Helper,
    session: Option<Negotiated>,
    closed: bool,
    rib: Rib,
    now: Duration,
    capabilities: Capabilities,
}

fn asn(number: u32) -> Asn {
    Asn::new(number).expect("not 0")
}

fn identifier(last: u8) -> BgpIdentifier {
    BgpIdentifier::new(Ipv4Addr::new(192, 0, 2, last)).expect("not 0")
}

impl Driver {
    fn new(kind: PeerKind, add_path: bool, extended_next_hop: bool) -> Self {
        let families = FamilySet::from_iter(Family::ALL);
        let mut long_lived = LongLived::default();
        long_lived.forwarding = families;
        for family in Family::ALL {
            long_lived.insert(family, 60);
        }
        let several = if add_path { families } else { FamilySet::EMPTY };
        let capabilities = Capabilities {
            families,
            four_octet_as: Some(64500),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_messages: true,
            extended_next_hop,
            add_path: AddPath { receive: several, send: several },
            graceful_restart: Some(GracefulRestart {
                restarting: false,
                notification: true,
                restart_time: 30,
                families,
                forwarding: families,
            }),
            long_lived,
        };
        let remote_as = asn(if kind == PeerKind::Internal { 64500 } else { 64496 });
        let machine = Session::new(SessionConfig {
            local_as: asn(64500),
            local_identifier: identifier(2),
            remote_as,
            hold_time: HoldTime::new(90).expect("at least 3"),
            connect_retry: Duration::from_secs(1),
            passive: false,
            capabilities,
            restarting_until: None,
            kept: families,
            seed: 1,
        });
        let mut rib = Rib::new(Speaker::new(asn(64500), identifier(2)));
        let observer = info(PeerKind::External, identifier(3), families, AsWidth::Four);
        rib.peer_up(OBSERVER, observer);
        Self {
            kind,
            machine,
            helper: Helper::default(),
            session: None,
            closed: false,
            rib,
            now: Duration::ZERO,
            capabilities,
        }
    }

    /// What a peer with all our capabilities sends first.
    fn open(&self, width: AsWidth) -> Vec<u8> {
        let asn = asn(if self.kind == PeerKind::Internal { 64500 } else { 64496 });
        let four_octet_as = (width == AsWidth::Four).then_some(asn.number());
        let open = Open {
            asn,
            hold_time: HoldTime::new(90).expect("at least 3"),
            identifier: identifier(1),
            capabilities: Capabilities { four_octet_as, ..self.capabilities },
        };
        let mut out = Vec::new();
        open.encode(&mut out);
        out
    }

    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.machine.step(self.now, input, &mut outputs);
        for output in outputs {
            match output {
                Output::Up(_, negotiated) => {
                    assert!(self.session.replace(negotiated).is_none(), "an Up follows an Up");
                    let mut orders = Vec::new();
                    self.helper.up(self.now, &negotiated, &mut orders);
                    self.obey(&orders);
                    let mut info =
                        info(self.kind, negotiated.identifier, negotiated.families, negotiated.as_width);
                    info.remote_as = negotiated.asn;
                    info.add_path = rib::AddPath {
                        receive: negotiated.add_path.receive,
                        send: negotiated.add_path.send,
                        send_limit: None,
                    };
                    info.message_limit = negotiated.message_limit;
                    info.extended_next_hop = negotiated.extended_next_hop;
                    info.long_lived = !negotiated.long_lived.families.is_empty();
                    info.route_reflector_client = self.kind == PeerKind::Internal;
                    self.rib.peer_up(PEER, info);
                }
                Output::Down(reason) => {
                    let session = self.session.take().expect("a Down follows an Up");
                    let mut orders = Vec::new();
                    self.helper.down(self.now, &session, &reason, &mut orders);
                    self.obey(&orders);
                }
                Output::Close(_) => self.closed = true,
                Output::SendOpen(_, open) => check(|out| open.encode(out)),
                Output::SendNotification(_, notification) => check(|out| notification.encode(out)),
                Output::Dial | Output::AbortDial | Output::SendKeepalive(_) | Output::Failed(_) => {}
            }
        }
    }

    fn obey(&mut self, orders: &[Order]) {
        for order in orders {
            match *order {
                Order::Sweep(families) => self.rib.sweep(PEER, families),
                Order::Down(families) => {
                    self.rib.peer_down(PEER, Some(families).filter(|set| !set.is_empty()));
                }
                Order::LongLived(families) => self.rib.long_lived(PEER, families),
            }
        }
    }

    fn octets(&mut self, mut stream: &[u8]) {
        while !self.closed {
            let limit = self.session.map_or(MAX_MESSAGE_LEN, |session| session.message_limit);
            match Frame::split_within(stream, limit) {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    stream = &stream[frame.length..];
                    self.frame(frame);
                }
                Err(notification) => self.step(Input::Malformed(CONNECTION, notification)),
            }
        }
    }

    fn message(&mut self, message: &[u8]) {
        if !self.closed {
            match Frame::split(message) {
                Ok(frame) => self.frame(frame.expect("whole")),
                Err(notification) => self.step(Input::Malformed(CONNECTION, notification)),
            }
        }
    }

    fn frame(&mut self, frame: Frame<'_>) {
        self.now += Duration::from_millis(100);
        self.step(Input::Tick);
        let received = match Message::decode(frame) {
            Ok(Message::Open(open)) => Received::Open(open),
            Ok(Message::Keepalive) => Received::Keepalive,
            Ok(Message::Notification(notification)) => Received::Notification(notification),
            Ok(Message::RouteRefresh(refresh)) => {
                if let (Some(session), Some((family, kind))) = (self.session, refresh.content) {
                    let marks = session.enhanced_route_refresh;
                    match kind {
                        RefreshKind::Request if marks => self.rib.enhanced_refresh(PEER, family),
                        RefreshKind::Request => self.rib.refresh(PEER, family),
                        RefreshKind::Begin if marks => {
                            self.rib.mark_stale(PEER, FamilySet::from_iter([family]));
                        }
                        RefreshKind::End if marks => self.rib.sweep(PEER, FamilySet::from_iter([family])),
                        _ => {}
                    }
                }
                Received::RouteRefresh
            }
            Ok(Message::Update(body)) => {
                self.step(Input::Message(CONNECTION, Received::Update));
                if let Some(session) = self.session {
                    self.update(body, &session);
                }
                return self.flush();
            }
            Err(notification) => return self.step(Input::Malformed(CONNECTION, notification)),
        };
        self.step(Input::Message(CONNECTION, received));
        self.flush();
    }

    fn update(&mut self, body: &[u8], session: &Negotiated) {
        let context = UpdateContext {
            as_width: session.as_width,
            peer: self.kind,
            families: session.families,
            add_path: session.add_path.receive,
            extended_next_hop: session.extended_next_hop,
        };
        match Update::decode(body, context) {
            Ok(update) => {
                if let Some(family) = update.end_of_rib {
                    self.helper.end_of_rib(family);
                }
                self.rib.update(PEER, update.into());
            }
            Err(notification) => {
                // RFC 7606 leaves only these: the lists cannot be told apart, a prefix cannot be read, or an
                // attribute is well-known to others.
                assert!(
                    notification.code == 3 && matches!(notification.subcode, 1 | 2 | 9 | 10),
                    "an UPDATE costs the session: {notification}"
                );
                self.step(Input::Malformed(CONNECTION, notification));
            }
        }
    }

    /// What others are told must be beyond reproach, whatever we were told.
    fn flush(&mut self) {
        self.rib.decide();
        self.rib.write_pending();
        let all = FamilySet::from_iter(Family::ALL);
        let observer = UpdateContext {
            as_width: AsWidth::Four,
            peer: PeerKind::External,
            families: all,
            add_path: FamilySet::EMPTY,
            extended_next_hop: false,
        };
        self.told(OBSERVER, observer, MAX_MESSAGE_LEN);
        if let Some(session) = self.session {
            let context = UpdateContext {
                as_width: session.as_width,
                peer: self.kind,
                families: session.families,
                add_path: session.add_path.send,
                extended_next_hop: session.extended_next_hop,
            };
            self.told(PEER, context, session.message_limit);
        }
        self.rib.take_fib_changes();
        self.rib.tidy();
    }

    fn told(&mut self, peer: PeerId, context: UpdateContext, limit: usize) {
        while let Some(batch) = self.rib.export(peer) {
            let octets: Vec<u8> = batch.iter().flat_map(|segment| segment.to_vec()).collect();
            let mut rest = &octets[..];
            while let Some(frame) = Frame::split_within(rest, limit).expect("we send frames") {
                rest = &rest[frame.length..];
                if let Message::Update(body) = Message::decode(frame).expect("we send messages") {
                    let update = Update::decode(body, context).expect("we send well-formed UPDATEs");
                    assert!(update.faults.is_empty(), "we send {:?}", update.faults);
                    assert!(update.announced.iter().all(|reach| reach.next_hop != NextHop::Local));
                }
            }
            assert!(rest.is_empty(), "we send whole messages");
        }
    }

    /// The connection breaks: whatever is kept of the peer has an end.
    fn end(mut self, octets: usize) {
        let received = self.rib.counts(PEER).received;
        assert!(received <= octets, "{received} paths of {octets} octets");
        self.step(Input::Lost(CONNECTION));
        self.flush();
        let mut orders = Vec::new();
        while let Some(at) = self.helper.next_deadline() {
            self.now = self.now.max(at);
            self.helper.tick(self.now, &mut orders);
        }
        self.obey(&orders);
        self.flush();
        assert!(self.rib.paths().is_empty(), "left of the peer: {:?}", self.rib.paths());
        assert_eq!(self.rib.counts(OBSERVER), Counts::default(), "told of nothing");
    }
}

fn info(kind: PeerKind, identifier: BgpIdentifier, families: FamilySet, as_width: AsWidth) -> PeerInfo {
    PeerInfo {
        identifier,
        // The observer's, unless the negotiated one is put in its place.
        remote_as: asn(64502),
        address: IpAddr::V4(identifier.octets().into()),
        families,
        view: ExportView {
            kind,
            local_as: asn(64500),
            as_width,
            next_hop_ipv4: Some(Ipv4Addr::new(192, 0, 2, 2)),
            next_hop_ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
        },
        ifindex: None,
        add_path: rib::AddPath::default(),
        message_limit: MAX_MESSAGE_LEN,
        extended_next_hop: false,
        route_reflector_client: false,
        long_lived: false,
        policy: Policies::default(),
        prefix_limit: None,
    }
}

/// A message that we send is one that we would take.
fn check(encode: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    encode(&mut message);
    let frame = Frame::split(&message).expect("framed").expect("whole");
    Message::decode(frame).expect("well formed");
}
