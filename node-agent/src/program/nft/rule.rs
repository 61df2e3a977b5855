//! The expressions that our rules are made of.

use margay_netlink::nftables::{CmpOp, Expr, Found, Header, MetaKey, Register, Rule, Verdict};

/// Where values are loaded. A concatenation goes on in the words after it.
pub(super) const FIRST: Register = Register::word(0);
const SECOND: Register = Register::word(1);
const THIRD: Register = Register::word(2);
/// After the four words of an interface's name.
const AFTER_NAME: Register = Register::word(4);

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;
/// IPv4 in IP (RFC 2003).
pub(super) const IPIP: u8 = 4;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// FIN, SYN, RST and ACK of a TCP header, which are in its octet 13, and SYN alone.
const TCP_FLAGS: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
/// Bits of `ct state`.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
const NEW: u32 = 8;
const UNTRACKED: u32 = 64;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The one of two that is for this family.
    pub(super) fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

/// An address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    Source,
    Destination,
}

/// The interface that a packet came in by, or goes out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interface {
    In,
    Out,
}

impl Interface {
    fn key(self) -> MetaKey {
        match self {
            Self::In => MetaKey::IifName,
            Self::Out => MetaKey::OifName,
        }
    }
}

/// Puts parts together.
pub(super) fn rule<const N: usize>(parts: [Vec<Expr>; N]) -> Rule {
    parts.into_iter().flatten().collect()
}

pub(super) fn verdict(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}

pub(super) fn jump(chain: &str) -> Vec<Expr> {
    verdict(Verdict::Jump(chain.to_owned()))
}

pub(super) fn goto(chain: &str) -> Vec<Expr> {
    verdict(Verdict::Goto(chain.to_owned()))
}

/// The name of an interface begins with this.
pub(super) fn begins(interface: Interface, prefix: &str) -> Vec<Expr> {
    vec![Expr::Meta { key: interface.key(), to: FIRST }, is(prefix.as_bytes())]
}

/// The name of an interface is in a set, or not.
pub(super) fn interface(interface: Interface, set: &str, found: Found) -> Vec<Expr> {
    vec![Expr::Meta { key: interface.key(), to: FIRST }, lookup(set, found)]
}

/// The name of an interface and an address are in a set.
pub(super) fn interface_and_address(
    family: Family,
    interface: Interface,
    which: Address,
    set: &str,
) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::NfProto, to: FIRST },
        is(&[family.pick(IPV4, IPV6)]),
        Expr::Meta { key: interface.key(), to: FIRST },
        load(family, which, AFTER_NAME),
        lookup(set, Found::Is),
    ]
}

/// The address of a packet of this family, loaded.
pub(super) fn address(family: Family, which: Address) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::NfProto, to: FIRST },
        is(&[family.pick(IPV4, IPV6)]),
        load(family, which, FIRST),
    ]
}

/// An address of a packet of this family is in a set, or not.
pub(super) fn address_in(family: Family, which: Address, set: &str, found: Found) -> Vec<Expr> {
    rule([address(family, which), vec![lookup(set, found)]])
}

/// The source is `::`.
pub(super) fn from_unspecified() -> Vec<Expr> {
    let mut rule = address(Family::V6, Address::Source);
    rule.push(is(&[0; 16]));
    rule
}

/// The source is link-local.
pub(super) fn from_link_local() -> Vec<Expr> {
    let ends = |head: [u8; 2]| [&head[..], &[0; 14]].concat();
    let mut rule = address(Family::V6, Address::Source);
    rule.push(Expr::Mask { register: FIRST, mask: ends([0xff, 0xc0]) });
    rule.push(is(&ends([0xfe, 0x80])));
    rule
}

/// `ICMPv6` of a type in a set.
pub(super) fn icmpv6_type(set: &str) -> Vec<Expr> {
    let type_ = Expr::Payload { header: Header::Transport, offset: 0, length: 1, to: FIRST };
    vec![Expr::Meta { key: MetaKey::L4Proto, to: FIRST }, is(&[ICMPV6]), type_, lookup(set, Found::Is)]
}

/// UDP to a port in a set.
pub(super) fn udp_to(set: &str) -> Vec<Expr> {
    let port = Expr::Payload { header: Header::Transport, offset: 2, length: 2, to: FIRST };
    vec![Expr::Meta { key: MetaKey::L4Proto, to: FIRST }, is(&[UDP]), port, lookup(set, Found::Is)]
}

/// IP-in-IP, while its number is in a set.
pub(super) fn ipip_in(set: &str) -> Vec<Expr> {
    vec![Expr::Meta { key: MetaKey::L4Proto, to: FIRST }, is(&[IPIP]), lookup(set, Found::Is)]
}

/// The source is an address of the node's own.
pub(super) fn from_local() -> Vec<Expr> {
    vec![Expr::FibSourceType(FIRST), is(&LOCAL.to_ne_bytes())]
}

/// For the node itself: it does not go out by an interface.
pub(super) fn is_for_this_node() -> Vec<Expr> {
    vec![Expr::Meta { key: MetaKey::Oif, to: FIRST }, is(&[0; 4])]
}

/// Of a tracked connection that was answered, or of what one brings about.
pub(super) fn is_established() -> Vec<Expr> {
    in_state(ESTABLISHED | RELATED)
}

/// Of those that connection tracking was told to leave alone.
pub(super) fn is_untracked() -> Vec<Expr> {
    in_state(UNTRACKED)
}

/// TCP of no tracked connection, and not the first packet of one.
pub(super) fn is_midstream() -> Vec<Expr> {
    let mut rule = vec![
        Expr::Meta { key: MetaKey::L4Proto, to: FIRST },
        is(&[TCP]),
        Expr::Payload { header: Header::Transport, offset: 13, length: 1, to: FIRST },
        Expr::Mask { register: FIRST, mask: vec![TCP_FLAGS] },
        Expr::Cmp { from: FIRST, op: CmpOp::Neq, value: vec![TCP_SYN] },
    ];
    rule.extend(in_state(NEW));
    rule
}

/// Loads the packet priority.
pub(super) fn priority() -> Expr {
    Expr::Meta { key: MetaKey::Priority, to: FIRST }
}

/// Makes what was loaded the packet priority.
pub(super) fn set_priority() -> Expr {
    Expr::SetMeta { key: MetaKey::Priority, from: FIRST }
}

/// Makes the packet priority zero.
pub(super) fn reset_priority() -> Vec<Expr> {
    vec![Expr::Immediate { to: FIRST, value: vec![0; 4] }, set_priority()]
}

/// The packet priority is this.
pub(super) fn priority_is(number: u32) -> Vec<Expr> {
    vec![priority(), is(&number.to_ne_bytes())]
}

/// Class, protocol and port of a packet.
pub(super) fn class_and_port() -> Vec<Expr> {
    rule([vec![priority()], port(SECOND, THIRD)])
}

/// Protocol and port of a packet.
pub(super) fn protocol_and_port() -> Vec<Expr> {
    port(FIRST, SECOND)
}

/// Looks up what was loaded.
pub(super) fn lookup(set: &str, found: Found) -> Expr {
    Expr::Lookup { set: set.to_owned(), from: FIRST, found }
}

fn port(protocol: Register, port: Register) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::L4Proto, to: protocol },
        Expr::Payload { header: Header::Transport, offset: 2, length: 2, to: port },
    ]
}

fn load(family: Family, which: Address, to: Register) -> Expr {
    let (offset, length) = match (family, which) {
        (Family::V4, Address::Source) => (12, 4),
        (Family::V4, Address::Destination) => (16, 4),
        (Family::V6, Address::Source) => (8, 16),
        (Family::V6, Address::Destination) => (24, 16),
    };
    Expr::Payload { header: Header::Network, offset, length, to }
}

fn in_state(states: u32) -> Vec<Expr> {
    vec![
        Expr::CtState(FIRST),
        Expr::Mask { register: FIRST, mask: states.to_ne_bytes().to_vec() },
        Expr::Cmp { from: FIRST, op: CmpOp::Neq, value: vec![0; 4] },
    ]
}

fn is(value: &[u8]) -> Expr {
    Expr::Cmp { from: FIRST, op: CmpOp::Eq, value: value.to_vec() }
}
