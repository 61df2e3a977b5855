//! nftables against the real kernel, in namespaces of the test's own.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::{IpAddr, Ipv6Addr},
    process::{Command, Stdio},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};

use super::{
    Base, Chain, ChainKind, Change, CmpOp, Connection, Count, Data, Element, Expr, Field, Found, Header,
    Hook, Key, MetaKey, Outline, Policy, Register, SetKind, TableMonitor, Touched, Transaction, Type,
    Verdict,
};
use crate::Error;

const TABLE: &str = "test";

fn in_new_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let handle = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
            test();
        });
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn listed() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(output.status.success(), "nft list ruleset: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn replace_ruleset(listing: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let script = format!("flush ruleset\n{listing}");
    nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{script}");
}

fn commit(connection: &mut Connection, changes: Vec<Change>) -> Result<(), Error> {
    connection.commit(&Transaction::new(TABLE, changes))
}

fn address(text: &str) -> Field {
    Field::Address(text.parse().unwrap())
}

fn addresses(first: &str, last: &str) -> Field {
    Field::Addresses(first.parse().unwrap(), last.parse().unwrap())
}

const fn number(number: u32) -> Data {
    Data::Number(number)
}

fn element(key: Key, data: Option<Data>) -> Element {
    Element { key, data }
}

const fn kind(key: &'static [Type], data: Option<Type>, intervals: bool) -> SetKind {
    SetKind { key, data, intervals }
}

fn add_set(name: &str, kind: SetKind) -> Change {
    Change::AddSet { name: name.into(), kind }
}

fn add(set: &str, kind: SetKind, elements: Vec<Element>) -> Change {
    Change::AddElements { set: set.into(), kind, elements }
}

fn delete(set: &str, kind: SetKind, elements: Vec<Element>) -> Change {
    Change::DeleteElements { set: set.into(), kind, elements }
}

const PODS: SetKind = kind(&[Type::Ipv4Addr], Some(Type::ClassId), false);
const BLOCKS: SetKind = kind(&[Type::Ipv4Addr], Some(Type::ClassId), true);

#[test]
fn nft_lists_sets_as_it_lists_its_own() {
    use Type::{ClassId, Icmpv6Type, IfName, InetProto, InetService, Ipv4Addr, Ipv6Addr};
    let verdict = |verdict| Some(Data::Verdict(verdict));
    let name = |name: &str| Field::Name(name.into());
    let cases: [(SetKind, Vec<Element>, &str); 11] = [
        (
            PODS,
            vec![element(vec![address("192.0.2.1")], Some(number(0x2_0001)))],
            "map x { type ipv4_addr : classid elements = { 192.0.2.1 : 2:1 } }",
        ),
        (
            kind(&[Ipv6Addr], Some(ClassId), false),
            vec![element(vec![address("2001:db8::1")], Some(number(1)))],
            "map x { type ipv6_addr : classid elements = { 2001:db8::1 : 0:1 } }",
        ),
        (
            BLOCKS,
            vec![
                element(vec![addresses("0.0.0.0", "0.0.0.255")], Some(number(1))),
                element(vec![addresses("192.0.2.0", "192.0.2.9")], Some(number(2))),
                element(vec![addresses("192.0.2.10", "192.0.2.10")], Some(number(3))),
                element(vec![addresses("255.0.0.0", "255.255.255.255")], Some(number(4))),
            ],
            "map x { type ipv4_addr : classid flags interval elements = { 0.0.0.0/24 : 0:1, 192.0.2.0-192.0.2.9 : 0:2, 192.0.2.10 : 0:3, 255.0.0.0/8 : 0:4 } }",
        ),
        (
            kind(&[Ipv6Addr], Some(ClassId), true),
            vec![element(vec![addresses("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")], Some(number(1)))],
            "map x { type ipv6_addr : classid flags interval elements = { ::/0 : 0:1 } }",
        ),
        (
            kind(&[IfName], None, false),
            vec![element(vec![name("mgy0123456789ab")], None)],
            "set x { type ifname elements = { \"mgy0123456789ab\" } }",
        ),
        (
            kind(&[IfName, Ipv4Addr], None, false),
            vec![element(vec![name("mgy1"), address("192.0.2.1")], None)],
            "set x { type ifname . ipv4_addr elements = { \"mgy1\" . 192.0.2.1 } }",
        ),
        (
            kind(&[IfName], Some(Type::Verdict), false),
            vec![element(vec![name("mgy1")], verdict(Verdict::Jump("y".into())))],
            "map x { type ifname : verdict elements = { \"mgy1\" : jump y } }",
        ),
        (
            kind(&[ClassId, InetProto, InetService], Some(Type::Verdict), true),
            vec![
                element(
                    vec![Field::Number(0x1_0002), Field::Number(6), Field::Numbers(80, 90)],
                    verdict(Verdict::Return),
                ),
                element(
                    vec![Field::Number(7), Field::Number(17), Field::Numbers(53, 53)],
                    verdict(Verdict::Goto("y".into())),
                ),
            ],
            "map x { type classid . inet_proto . inet_service : verdict flags interval elements = { 1:2 . tcp . 80-90 : return, 0:7 . udp . 53 : goto y } }",
        ),
        (
            kind(&[InetProto, InetService], Some(Type::Verdict), true),
            vec![element(vec![Field::Number(132), Field::Numbers(0, 65535)], verdict(Verdict::Accept))],
            "map x { type inet_proto . inet_service : verdict flags interval elements = { sctp . 0-65535 : accept } }",
        ),
        (
            kind(&[ClassId], Some(Type::Verdict), false),
            vec![element(vec![Field::Number(3)], verdict(Verdict::Drop))],
            "map x { type classid : verdict elements = { 0:3 : drop } }",
        ),
        (
            kind(&[Icmpv6Type], None, false),
            vec![element(vec![Field::Number(135)], None)],
            "set x { type icmpv6_type elements = { nd-neighbor-solicit } }",
        ),
    ];
    for (kind, elements, expected) in cases {
        in_new_namespace(|| {
            let mut connection = Connection::open().unwrap();
            let changes = vec![
                Change::AddTable,
                Change::AddChain { name: "y".into(), base: None },
                add_set("x", kind),
                add("x", kind, elements.clone()),
            ];
            commit(&mut connection, changes).unwrap();
            let listing = listed().split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = expected.to_owned();
            assert!(listing.contains(&expected), "{listing}\n{expected}");
            // What nft makes of its own listing, it lists the same.
            replace_ruleset(&listed());
            assert_eq!(listing, listed().split_whitespace().collect::<Vec<_>>().join(" "));
            // And what it wrote is what we would have written: our deletion finds it.
            commit(&mut connection, vec![delete("x", kind, elements.clone())]).unwrap();
            commit(&mut connection, vec![add("x", kind, elements)]).unwrap();
        });
    }
}

/// One of each.
fn expressions() -> Vec<Expr> {
    let first = Register::word(0);
    let mut expressions: Vec<Expr> =
        MetaKey::ALL.into_iter().map(|key| Expr::Meta { key, to: first }).collect();
    expressions.extend([
        Expr::Payload { header: Header::Network, offset: 12, length: 4, to: Register::word(4) },
        Expr::Payload { header: Header::Transport, offset: 2, length: 2, to: Register::word(1) },
        Expr::Meta { key: MetaKey::Priority, to: first },
        Expr::Cmp { from: first, op: CmpOp::Neq, value: vec![1, 2, 3, 4] },
        Expr::Cmp { from: first, op: CmpOp::Eq, value: b"mgy".to_vec() },
        Expr::Payload { header: Header::Network, offset: 8, length: 16, to: first },
        Expr::Mask { register: first, mask: vec![0xff; 16] },
        Expr::Cmp { from: first, op: CmpOp::Eq, value: vec![7; 16] },
        Expr::CtState(first),
        Expr::Mask { register: first, mask: vec![6, 0, 0, 0] },
        Expr::Mask { register: first, mask: vec![0x17] },
        Expr::FibSourceType(first),
        Expr::Immediate { to: first, value: vec![192, 0, 2, 1] },
        Expr::Lookup { set: "set".into(), from: first, found: Found::Is },
        Expr::Lookup { set: "set".into(), from: first, found: Found::IsNot },
        Expr::Lookup { set: "map".into(), from: first, found: Found::Value(first) },
        Expr::SetMeta { key: MetaKey::Priority, from: first },
        Expr::Lookup { set: "verdicts".into(), from: first, found: Found::Verdict },
        Expr::Counter("counter".into()),
        Expr::Limit { per_second: 100, burst: 100 },
        Expr::Log { group: 28007, prefix: "why".into(), snaplen: 128 },
    ]);
    expressions
}

#[test]
fn a_chain_that_masquerades_reads_back_as_written_and_as_nft_says_it() {
    in_new_namespace(|| {
        let base =
            Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100, policy: Policy::Accept };
        let listing = listed_with(base, Expr::Masquerade);
        assert!(listing.contains("type nat hook postrouting priority srcnat; policy accept;"), "{listing}");
        assert!(listing.contains("\t\tmasquerade fully-random\n"), "{listing}");
    });
}

#[test]
fn a_chain_that_leaves_packets_untracked_reads_back_as_written_and_as_nft_says_it() {
    in_new_namespace(|| {
        let base =
            Base { kind: ChainKind::Filter, hook: Hook::Output, priority: -300, policy: Policy::Accept };
        let listing = listed_with(base, Expr::NoTrack);
        assert!(listing.contains("\t\tnotrack\n"), "{listing}");
    });
}

/// What `nft` says of a base chain with one expression, which reads back as it was written.
fn listed_with(base: Base, expression: Expr) -> String {
    let rule = vec![expression];
    let changes = vec![
        Change::AddTable,
        Change::AddChain { name: "chain".into(), base: Some(base) },
        Change::AddRule { chain: "chain".into(), rule: rule.clone() },
    ];
    let mut connection = Connection::open().unwrap();
    commit(&mut connection, changes).unwrap();
    let outline = connection.outline(TABLE).unwrap();
    assert_eq!(outline.chains["chain"], Some(base));
    assert_eq!(outline.rules["chain"], [Some(rule)]);
    listed()
}

/// A table with a chain of these rules, what they may refer to, and a base chain that jumps there.
fn table(rules: &[Vec<Expr>]) -> Vec<Change> {
    let key = &[Type::Ipv4Addr];
    let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: -5, policy: Policy::Drop };
    let mut changes = vec![
        Change::AddTable,
        Change::DeleteTable,
        Change::AddTable,
        add_set("set", kind(key, None, false)),
        add_set("map", PODS),
        add_set("verdicts", kind(key, Some(Type::Verdict), false)),
        Change::AddCounter("counter".into()),
        Change::AddChain { name: "base".into(), base: Some(base) },
        Change::AddChain { name: "chain".into(), base: None },
        Change::AddChain { name: "other".into(), base: None },
    ];
    changes.extend(rules.iter().map(|rule| Change::AddRule { chain: "chain".into(), rule: rule.clone() }));
    changes
}

#[test]
fn the_kernel_shows_rules_as_they_were_written() {
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let mut rules = vec![expressions()];
        let verdicts = [
            Verdict::Accept,
            Verdict::Drop,
            Verdict::Return,
            Verdict::Jump("other".into()),
            Verdict::Goto("other".into()),
        ];
        rules.extend(verdicts.map(|verdict| vec![Expr::Verdict(verdict)]));
        commit(&mut connection, table(&rules)).unwrap();
        let outline = connection.outline(TABLE).unwrap();
        let shown: Vec<_> =
            outline.rules["chain"].iter().map(|rule| rule.clone().expect("a known rule")).collect();
        assert_eq!(shown, rules);
        let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: -5, policy: Policy::Drop };
        let chains = [("base", Some(base)), ("chain", None), ("other", None)];
        assert_eq!(outline.chains, chains.map(|(name, base)| (name.to_owned(), base)).into());
        assert_eq!(outline.sets, ["set", "map", "verdicts"].map(str::to_owned).into());
        assert_eq!(outline.counters, ["counter".to_owned()].into());
        assert!(connection.outline("nothing").unwrap() == Outline::default());
        // What none of our expressions says is no rule of ours.
        let foreign = "add rule inet test other ip ttl 64 counter";
        assert!(Command::new("nft").arg(foreign).status().unwrap().success());
        assert_eq!(connection.outline(TABLE).unwrap().rules["other"], [None]);
        assert_eq!(Chain::regular(vec![]), Chain::default());
    });
}

#[test]
fn nft_shows_rules_as_an_operator_would_write_them() {
    let first = Register::word(0);
    let is = |value: &[u8]| Expr::Cmp { from: first, op: CmpOp::Eq, value: value.to_vec() };
    let isnt = |value: &[u8]| Expr::Cmp { from: first, op: CmpOp::Neq, value: value.to_vec() };
    let cases = [
        (vec![Expr::Meta { key: MetaKey::IifName, to: first }, is(b"mgy")], "iifname \"mgy*\""),
        (vec![Expr::Meta { key: MetaKey::Oif, to: first }, is(&[0; 4])], "oif 0"),
        (
            vec![
                Expr::Immediate { to: first, value: vec![0; 4] },
                Expr::SetMeta { key: MetaKey::Priority, from: first },
            ],
            "meta priority set none",
        ),
        (vec![Expr::FibSourceType(first), is(&2_u32.to_ne_bytes())], "fib saddr type local"),
        (
            vec![
                Expr::Meta { key: MetaKey::L4Proto, to: first },
                is(&[6]),
                Expr::Payload { header: Header::Transport, offset: 13, length: 1, to: first },
                Expr::Mask { register: first, mask: vec![0x17] },
                isnt(&[2]),
            ],
            "tcp flags != syn / fin,syn,rst,ack",
        ),
        (
            vec![
                Expr::Limit { per_second: 100, burst: 100 },
                Expr::Log { group: 28007, prefix: "why".into(), snaplen: 128 },
                Expr::Verdict(Verdict::Goto("other".into())),
            ],
            "limit rate 100/second burst 100 packets log prefix \"why\" group 28007 snaplen 128 goto other",
        ),
    ];
    for (rule, expected) in cases {
        in_new_namespace(|| {
            commit(&mut Connection::open().unwrap(), table(&[rule])).unwrap();
            let listing = listed();
            assert!(listing.contains(&format!("\t\t{expected}\n")), "{listing}\n{expected}");
        });
    }
}

#[test]
fn what_is_refused_is_named_and_nothing_of_it_is_done() {
    let verdicts = kind(&[Type::Ipv4Addr], Some(Type::Verdict), false);
    let pods = |count: u8| -> Vec<Element> {
        (0..=count)
            .map(|last| element(vec![Field::Address(IpAddr::from([192, 0, 2, last]))], Some(number(1))))
            .collect()
    };
    let mut with_one_again = pods(200);
    with_one_again.push(element(vec![address("192.0.2.7")], Some(number(2))));
    let jump = |chain: &str| {
        vec![element(vec![address("192.0.2.1")], Some(Data::Verdict(Verdict::Jump(chain.into()))))]
    };
    let cases = [
        (
            vec![add("map", PODS, with_one_again)],
            Errno::EEXIST,
            "add element 192.0.2.7 to map of inet test: EEXIST: File exists",
        ),
        (
            vec![delete("map", PODS, pods(0))],
            Errno::ENOENT,
            "delete element 192.0.2.0 of map of inet test: ENOENT",
        ),
        (
            vec![add("nowhere", PODS, pods(200))],
            Errno::ENOENT,
            "add 201 elements to nowhere of inet test: ENOENT",
        ),
        (
            vec![add("verdicts", verdicts, jump("nowhere"))],
            Errno::ENOENT,
            "add element 192.0.2.1 to verdicts of inet test: ENOENT",
        ),
        (
            vec![Change::AddRule {
                chain: "chain".into(),
                rule: vec![Expr::Verdict(Verdict::Jump("nowhere".into()))],
            }],
            Errno::ENOENT,
            "add rule to chain chain of inet test: ENOENT",
        ),
        (
            vec![Change::AddCounter("more".into()), Change::DeleteChain("nowhere".into())],
            Errno::ENOENT,
            "delete chain nowhere of inet test: ENOENT",
        ),
        // Found when all is there; kernels differ in what they name then.
        (
            ["chain", "other"]
                .into_iter()
                .zip(["other", "chain"])
                .map(|(from, to)| Change::AddRule {
                    chain: from.into(),
                    rule: vec![Expr::Verdict(Verdict::Jump(to.into()))],
                })
                .chain([Change::AddRule {
                    chain: "base".into(),
                    rule: vec![Expr::Verdict(Verdict::Jump("chain".into()))],
                }])
                .collect(),
            Errno::EMLINK,
            "inet test: EMLINK",
        ),
    ];
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        commit(&mut connection, table(&[])).unwrap();
        let before = listed();
        for (changes, errno, expected) in cases {
            let error = commit(&mut connection, changes).unwrap_err();
            assert_eq!(error.errno(), Some(errno), "{error}");
            assert!(error.to_string().contains(expected), "{error}\n{expected}");
            assert_eq!(before, listed());
        }
        // Nothing of the refusals is taken for the answer to what comes next.
        commit(&mut connection, vec![Change::AddCounter("more".into())]).unwrap();
    });
}

#[test]
fn more_refusals_than_there_is_room_for_are_still_an_error() {
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let changes: Vec<Change> =
            (0..50_000).map(|number| Change::DeleteChain(format!("c{number}"))).collect();
        let error = commit(&mut connection, changes).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOENT), "{error}");
        commit(&mut connection, vec![Change::AddTable]).unwrap();
    });
}

#[test]
fn ranges_that_adjoin_come_and_go_and_change_hands_in_one_transaction() {
    let range = |first: u8, last: u8, class: u32| {
        element(
            vec![Field::Addresses(IpAddr::from([192, 0, 2, first]), IpAddr::from([192, 0, 2, last]))],
            Some(number(class)),
        )
    };
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let first = vec![range(0, 9, 1), range(10, 19, 2), range(20, 255, 3)];
        commit(&mut connection, vec![Change::AddTable, add_set("x", BLOCKS), add("x", BLOCKS, first)])
            .unwrap();
        // The middle grows at the cost of both, the last takes another class.
        let (gone, come) = (
            vec![range(0, 9, 1), range(10, 19, 2), range(20, 255, 3)],
            vec![range(0, 4, 1), range(5, 29, 2), range(30, 255, 4)],
        );
        commit(&mut connection, vec![delete("x", BLOCKS, gone), add("x", BLOCKS, come)]).unwrap();
        let listing = listed().split_whitespace().collect::<Vec<_>>().join(" ");
        let expected =
            "192.0.2.0-192.0.2.4 : 0:1, 192.0.2.5-192.0.2.29 : 0:2, 192.0.2.30-192.0.2.255 : 0:4 }";
        assert!(listing.contains(expected), "{listing}");
        let overlapping = vec![range(28, 40, 5)];
        assert!(commit(&mut connection, vec![add("x", BLOCKS, overlapping)]).unwrap_err().is_present());
        commit(&mut connection, vec![delete("x", BLOCKS, vec![range(5, 29, 2)])]).unwrap();
        assert!(!listed().contains("192.0.2.5"), "{}", listed());
    });
}

#[test]
fn every_transaction_raises_the_generation_by_one() {
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let before = connection.generation().unwrap();
        commit(&mut connection, table(&[])).unwrap();
        assert_eq!(connection.generation().unwrap(), before + 1);
        connection.outline(TABLE).unwrap();
        assert_eq!(connection.generation().unwrap(), before + 1);
        commit(&mut connection, vec![Change::DeleteChain("nowhere".into())]).unwrap_err();
        assert_eq!(connection.generation().unwrap(), before + 1);
        assert!(Command::new("nft").arg("add table ip others").status().unwrap().success());
        assert_eq!(connection.generation().unwrap(), before + 2);
    });
}

#[test]
fn counters_tell_packets_and_octets() {
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let base = Base { kind: ChainKind::Filter, hook: Hook::Output, priority: 0, policy: Policy::Accept };
        let changes = vec![
            Change::AddTable,
            Change::AddCounter("sent".into()),
            Change::AddCounter("unused".into()),
            Change::AddChain { name: "output".into(), base: Some(base) },
            Change::AddRule { chain: "output".into(), rule: vec![Expr::Counter("sent".into())] },
        ];
        commit(&mut connection, changes).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[0; 72], socket.local_addr().unwrap()).unwrap();
        let counters = connection.counters(TABLE).unwrap();
        assert_eq!(counters["unused"], Count::default());
        assert!(counters["sent"].packets >= 1 && counters["sent"].octets >= 100, "{counters:?}");
    });
}

#[test]
fn ten_thousand_addresses_and_a_thousand_chains_are_one_transaction() {
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let mut changes = vec![Change::AddTable, add_set("pods", PODS)];
        changes.extend((0..1000).map(|number| Change::AddChain { name: format!("c{number}"), base: None }));
        let pods = (0..10_000_u32).map(|host| {
            element(
                vec![Field::Address(IpAddr::from((0x0a00_0000 + host).to_be_bytes()))],
                Some(number(host)),
            )
        });
        changes.push(add("pods", PODS, pods.collect()));
        commit(&mut connection, changes).unwrap();
        assert_eq!(connection.outline(TABLE).unwrap().chains.len(), 1000);
    });
}

#[test]
fn a_monitor_has_room_for_what_a_change_of_ten_thousands_of_elements_tells() {
    in_new_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let pods = kind(&[Type::Ipv6Addr], Some(Type::ClassId), false);
        commit(&mut connection, vec![Change::AddTable, add_set("pods", pods)]).unwrap();
        let mut monitor = TableMonitor::open(TABLE).unwrap();
        let elements = (0..50_000_u32).map(|place| {
            element(vec![Field::Address(Ipv6Addr::from(u128::from(place)).into())], Some(number(place)))
        });
        commit(&mut connection, vec![add("pods", pods, elements.collect())]).unwrap();
        let mut ports = BTreeSet::new();
        loop {
            match monitor.read() {
                Ok(Touched::By(more)) => ports.extend(more),
                Ok(Touched::Lost) => panic!("some are lost"),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert_eq!(ports, [connection.port()].into());
    });
}
