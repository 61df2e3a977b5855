//! The way of a packet that a pod or another node sends: short, or to the stack.

use core::mem::{MaybeUninit, transmute};

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use margay_ebpf_common::{
    control::Control,
    counter::Counter,
    denial::NOBODY,
    flow::{End, Flow, FlowKey, FragmentKey, OPENED_BY_HIGH, TCP},
};

use crate::{
    barrier::barrier,
    flow::{self, Entry, Whose},
    judge::{self, Prefix, Ruling},
    maps::{FRAGMENTS, control, count, count_denial, value},
    parse::{self, Headers, Kind, Packet},
    route, tell,
    words::{OnStack, zero},
};

/// Addressed to the interface that received it, as Ethernet goes.
const PACKET_HOST: u32 = 0;

/// Where a program stands.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum At {
    /// At the host end of a pod's link.
    Pod,
    /// At an interface that leads to other nodes.
    Uplink,
}

/// Sends a packet on, whose IP header stands behind `LINK` octets.
#[inline(always)]
pub(crate) fn take<const LINK: u32>(packet: Packet, at: At) -> i32 {
    if packet.pkt_type() == PACKET_HOST && packet.vlan_present() == 0 {
        let mut headers = MaybeUninit::uninit();
        let headers = &mut zero::<Headers, 8>(&mut headers).0;
        let kind = parse::parse::<LINK>(packet, headers);
        let found = match kind {
            Kind::Foreign => Err(Outcome::Nobodys),
            Kind::Unparsed => Err(Outcome::Stack(Counter::Unparsed)),
            _ if headers.has_options => Err(Outcome::Stack(Counter::Unparsed)),
            kind => find(packet, at, kind, headers),
        };
        match found {
            Ok(to) => match route::go::<LINK>(packet, headers, &to) {
                Some(action) => return action,
                None => count(Counter::Unroutable),
            },
            Err(Outcome::Denied) => {
                count(Counter::Denied);
                return TC_ACT_SHOT;
            }
            Err(Outcome::Stack(why)) => count(why),
            Err(_) => {}
        }
    }
    // The stack's packets have no mark. A pod could have set it.
    packet.set_tc_index(0);
    TC_ACT_UNSPEC
}

/// What is to become of a packet.
#[derive(Clone, Copy)]
enum Outcome {
    /// It is not between two pods, or the stack tracks what is like it: to the stack, and not counted.
    Nobodys,
    /// To the stack, and why.
    Stack(Counter),
    /// It goes to the end that was found.
    Short,
    /// Policy denies it, and the stack would too: it goes nowhere.
    Denied,
}

/// Finds the end that the packet goes to.
#[inline(always)]
fn find(packet: Packet, at: At, kind: Kind, headers: &Headers) -> Result<End, Outcome> {
    let mut whose = Whose::of(headers);
    let now = flow::now();
    let ifindex = packet.ifindex();
    if matches!(kind, Kind::Whole | Kind::First)
        && !headers.is_opening()
        && let Some(entry) = Entry::established(&whose.key, now)
        && control().holds(entry.revision())
        && is_at(ifindex, at, entry, whose.from_high)
    {
        entry.note(whose.from_high, headers.flags, now);
        if kind == Kind::First {
            remember(headers, &whose);
        }
        // The ends of this revision, and no older ones.
        barrier();
        return Ok(entry.end(!whose.from_high));
    }
    // What other nodes send to this one, as through tunnels, is most of what else comes there. Errors may be from routers.
    if at == At::Uplink && kind != Kind::Error && judge::local(&headers.destination) == 0 {
        return Err(Outcome::Nobodys);
    }
    let written = match kind {
        // SAFETY: two references that outlive the call.
        Kind::Whole | Kind::First | Kind::Asking => unsafe {
            consider(ifindex, at as u32, headers, &raw const whose)
        },
        Kind::Later => later(ifindex, at, headers, &mut whose),
        _ => error(packet, at, headers, &mut whose),
    };
    match Outcome::read(written) {
        Outcome::Short => {}
        other => return Err(other),
    }
    if kind == Kind::First {
        remember(headers, &whose);
    }
    // Likewise.
    barrier();
    // Found a second time: all that the verifier need tell apart from here on is whether it is there.
    match Entry::find(&whose.key, now) {
        Some(entry) => Ok(entry.end(!whose.from_high)),
        None => Err(Outcome::Stack(Counter::NoFlow)),
    }
}

impl Outcome {
    const SHORT: u32 = 0x100;
    const NOBODYS: u32 = 0x101;
    const DENIED: u32 = 0x102;

    /// A function that is not inlined returns a number: kernel programs cannot return more.
    const fn written(self) -> u32 {
        match self {
            Self::Nobodys => Self::NOBODYS,
            Self::Short => Self::SHORT,
            Self::Denied => Self::DENIED,
            Self::Stack(counter) => counter.index(),
        }
    }

    /// The other way round. Every counter has its arm: a table of them would be a map.
    #[inline(always)]
    fn read(written: u32) -> Self {
        const STACKED: u32 = Counter::Stacked.index();
        const NO_FLOW: u32 = Counter::NoFlow.index();
        const NOT_ALLOWED: u32 = Counter::NotAllowed.index();
        const BEING_WRITTEN: u32 = Counter::BeingWritten.index();
        match written {
            Self::NOBODYS => Self::Nobodys,
            Self::SHORT => Self::Short,
            Self::DENIED => Self::Denied,
            STACKED => Self::Stack(Counter::Stacked),
            NO_FLOW => Self::Stack(Counter::NoFlow),
            NOT_ALLOWED => Self::Stack(Counter::NotAllowed),
            BEING_WRITTEN => Self::Stack(Counter::BeingWritten),
            // Said by nobody else than the parser.
            _ => Self::Stack(Counter::Unparsed),
        }
    }
}

/// Whether a packet came from where the end that sent it is, and the other end is where it may go from there.
#[inline(always)]
fn is_at(ifindex: u32, at: At, entry: Entry, from_high: bool) -> bool {
    match at {
        At::Pod => entry.ifindex(from_high) == ifindex,
        At::Uplink => entry.ifindex(from_high) == 0 && entry.ifindex(!from_high) != 0,
    }
}

/// What is seldom: a flow that begins, is answered for the first time, is to be judged anew, or does not go the short way.
///
/// The verifier looks at a function that has a name for other objects once, for all that its arguments may be, instead of at
/// each call for what they are there: that is most of its work (seen with 6.18; Linux knew them before 6.1). It also
/// has a stack frame of its own.
///
/// # Safety
/// The pointers are null, or lead to values that live as long as the call.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn consider(ifindex: u32, at: u32, headers: *const Headers, whose: *const Whose) -> u32 {
    // Never null, but the verifier wants to see it.
    if headers.is_null() || whose.is_null() {
        return Outcome::Nobodys.written();
    }
    let at = if at == At::Pod as u32 { At::Pod } else { At::Uplink };
    // SAFETY: not null, and as the caller promises.
    let headers = unsafe { &*headers };
    // SAFETY: likewise.
    let whose = unsafe { &*whose };
    considered(ifindex, at, headers, whose).written()
}

#[inline(always)]
fn considered(ifindex: u32, at: At, headers: &Headers, whose: &Whose) -> Outcome {
    let from_high = whose.from_high;
    // A copy on the stack: on old kernels what an argument leads to is no key of a map (seen with 6.1).
    let key = whose.key;
    // What is known of it, in place of variables of their own: the stack is short.
    let mut flow = MaybeUninit::uninit();
    let flow = &mut zero::<Flow, 8>(&mut flow).0;
    flow.seen = flow::now();
    let before = control();
    flow.revision = before.revision;
    // What is judged from here on is read after it.
    barrier();
    let mut old = None;
    if headers.has_flow()
        && let Some(entry) = Entry::find(&key, flow.seen)
    {
        if headers.is_opening() {
            // A connection that the other end opened lives; what this means is for the stack to say.
            if !entry.was_opened_by(from_high) {
                return Outcome::Stack(Counter::NoFlow);
            }
        } else if before.holds(entry.revision()) {
            if !is_at(ifindex, at, entry, from_high) {
                return Outcome::Stack(Counter::NotAllowed);
            }
            entry.note(from_high, headers.flags, flow.seen);
            entry.answered(&key, from_high);
            return Outcome::Short;
        } else {
            old = Some(entry);
        }
    }

    // An old flow whose pod is not known here, now, is not over for that.
    let (source, destination) = if from_high {
        (&mut flow.high.ifindex, &mut flow.low.ifindex)
    } else {
        (&mut flow.low.ifindex, &mut flow.high.ifindex)
    };
    if !ends(at, headers, source, destination) {
        return Outcome::Nobodys;
    }
    if old.is_none() && headers.has_flow() {
        if flow::is_stacked(&key, flow.seen) {
            return Outcome::Stack(Counter::Stacked);
        }
        if headers.protocol == TCP && !headers.is_opening() {
            return Outcome::Stack(Counter::NoFlow);
        }
    }
    if !is_whole(before) || (old.is_none() && !before.admits()) {
        return Outcome::Stack(Counter::BeingWritten);
    }
    // An old flow stays: it is not its fault that somebody uses its addresses.
    if !is_from(ifindex, at, flow, from_high) {
        return Outcome::Stack(Counter::NotAllowed);
    }

    // A flow is judged as its opener began it, whoever sends now.
    let opened_by_high = old.map_or(from_high, |entry| entry.was_opened_by(true));
    flow.state = flow::bits(from_high, headers.flags) | if opened_by_high { OPENED_BY_HIGH } else { 0 };
    let ruling = judge::judge(&key, flow, old.is_some());
    // All that was judged was read before it.
    barrier();
    let after = control();
    if after.revision != flow.revision {
        return Outcome::Stack(Counter::BeingWritten);
    }
    if ruling == Ruling::ALLOWED {
        if !headers.has_flow() {
            return Outcome::Nobodys;
        }
    } else if ruling != Ruling::REFERRED && headers.begins() && !may_be_for_node(flow, from_high) {
        deny(&key, flow, ruling, after.tells_denials());
        return Outcome::Denied;
    } else {
        // The stack says so, or knows a datagram for the answer to one that it had.
        if old.is_some() {
            flow::end(&key);
        }
        return Outcome::Stack(Counter::NotAllowed);
    }
    if let Some(entry) = old {
        entry.stamp(flow);
        entry.note(from_high, headers.flags, flow.seen);
        entry.answered(&key, from_high);
        return Outcome::Short;
    }
    if !flow::begin(&key, flow) {
        return Outcome::Stack(Counter::NoFlow);
    }
    if after.tells_flows() {
        tell::tell(&key, flow, NOBODY, 0);
    }
    Outcome::Short
}

/// Counts what is denied, and tells of it if somebody listens. Not inlined: it is seldom, and its variables would be on the stack all the time.
#[inline(never)]
fn deny(key: &OnStack<FlowKey>, flow: &Flow, ruling: Ruling, tells: bool) {
    count_denial(ruling.by(), ruling.number());
    if tells {
        tell::tell(key, flow, ruling.by(), ruling.number());
    }
}

/// Whether a packet may be for this node itself, by an address in the blocks of pods: what it means is then the stack's to say, after it has
/// translated it; and no isolation keeps a pod from its node.
#[inline(always)]
const fn may_be_for_node(flow: &Flow, from_high: bool) -> bool {
    (if from_high { flow.low.ifindex } else { flow.high.ifindex }) == 0
}

/// Whether the maps may be judged by.
#[inline(always)]
const fn is_whole(control: Control) -> bool {
    control.revision != 0 && control.revision & 1 == 0
}

/// Sets which links the two ends of a packet have, 0 of one that is not on this node; false when one is no pod, or none that can be reached from here.
///
/// Not inlined, as its keys want the stack to themselves.
#[inline(never)]
fn ends(at: At, headers: &Headers, source_link: &mut u32, destination_link: &mut u32) -> bool {
    let destination = Prefix::of(&headers.destination);
    *destination_link = destination.local();
    if *destination_link == 0 && (at == At::Uplink || !destination.is_pod()) {
        return false;
    }
    let source = Prefix::of(&headers.source);
    *source_link = source.local();
    // The node's own packets come this way too, and those of everybody whom it routes for.
    if *source_link == 0 && !source.is_pod() {
        return false;
    }
    true
}

/// Whether a packet comes from where its source is, and not from the pod that it is for.
#[inline(always)]
const fn is_from(ifindex: u32, at: At, flow: &Flow, from_high: bool) -> bool {
    let (low, high) = (flow.low.ifindex, flow.high.ifindex);
    let source = if from_high { high } else { low };
    match at {
        At::Pod => source == ifindex && low != high,
        At::Uplink => source == 0,
    }
}

/// Remembers of which flow the first fragment of a packet is.
#[inline(never)]
fn remember(headers: &Headers, whose: &Whose) {
    let key = fragment(headers);
    flow::forget(FRAGMENTS.insert(&key.0, &whose.key.0, 0));
}

#[inline(always)]
fn fragment(headers: &Headers) -> OnStack<FragmentKey> {
    let (source, destination) = (flow::order(&headers.source), flow::order(&headers.destination));
    // The words of a `FragmentKey`, by the order of its octets.
    let last = u64::from(headers.identification) << 32 | u64::from(headers.protocol) << 24;
    let words =
        [source.0.to_be(), source.1.to_be(), destination.0.to_be(), destination.1.to_be(), last.to_be()];
    // SAFETY: both have forty octets, and every bit pattern is a key.
    OnStack(unsafe { transmute::<[u64; 5], FragmentKey>(words) })
}

/// A later fragment goes where the first went. Sets of which flow that was.
#[inline(never)]
fn later(ifindex: u32, at: At, headers: &Headers, whose: &mut Whose) -> u32 {
    followed(ifindex, at, headers, whose).unwrap_or_else(|| of_nothing(at, headers)).written()
}

#[inline(always)]
fn followed(ifindex: u32, at: At, headers: &Headers, whose: &mut Whose) -> Option<Outcome> {
    let first = fragment(headers);
    whose.key.0 = value!(FRAGMENTS, &first.0)?;
    let entry = Entry::find(&whose.key, flow::now())?;
    whose.from_high = flow::order(&whose.key.0.high) == flow::order(&headers.source);
    let is_placed = is_at(ifindex, at, entry, whose.from_high);
    (control().holds(entry.revision()) && is_placed).then_some(Outcome::Short)
}

/// An ICMP error about a flow of the short way goes to the end that sent what it is about. Sets of which flow that is.
#[inline(never)]
fn error(packet: Packet, at: At, headers: &Headers, whose: &mut Whose) -> u32 {
    reported(packet, at, headers, whose).unwrap_or(Outcome::Nobodys).written()
}

#[inline(always)]
fn reported(packet: Packet, at: At, headers: &Headers, whose: &mut Whose) -> Option<Outcome> {
    let mut inner = MaybeUninit::uninit();
    let inner = &mut zero::<Headers, 8>(&mut inner).0;
    if parse::inner(packet, headers, inner) != Kind::Whole {
        return None;
    }
    if flow::order(&inner.source) != flow::order(&headers.destination) {
        return None;
    }
    *whose = Whose::of(inner);
    // The error comes from the side of the end that the inner packet was for.
    whose.from_high = !whose.from_high;
    let entry = Entry::find(&whose.key, flow::now())?;
    let is_placed = is_at(packet.ifindex(), at, entry, whose.from_high)
        && match at {
            // From the other end itself.
            At::Pod => flow::order(&inner.destination) == flow::order(&headers.source),
            // From any router, but from no pod of this node.
            At::Uplink => judge::local(&headers.source) == 0,
        };
    let holds = control().holds(entry.revision());
    Some(if holds && is_placed { Outcome::Short } else { Outcome::Stack(Counter::NoFlow) })
}

/// Of no flow that is known; counted if it is between two pods.
#[inline(always)]
fn of_nothing(at: At, headers: &Headers) -> Outcome {
    let (mut source, mut destination) = (0, 0);
    if ends(at, headers, &mut source, &mut destination) {
        Outcome::Stack(Counter::NoFlow)
    } else {
        Outcome::Nobodys
    }
}
