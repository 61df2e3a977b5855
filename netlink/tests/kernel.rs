//! What we write is what the kernel then says, and what `ip` would say; in namespaces of the test's own.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test helper fails its test by panicking")]

use std::{collections::BTreeSet, net::IpAddr, os::fd::AsFd, thread};

use ipnetwork::IpNetwork;
use margay_netlink::{
    Event, Group, MacAddr, Monitor, Socket, addr,
    conntrack::{self, Flow},
    fdb,
    filter::{self, Direction},
    link::{self, End, IfName, Mtu, Veth, Vni, Vxlan, VxlanFacts},
    neigh,
    netns::Namespace,
    qdisc,
    route::{self, Filter, Kind, NextHop, Protocol, Route, TableId},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt},
};

/// Runs a test on a thread in a network namespace of its own, which is gone with the thread.
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

fn other_namespace() -> Namespace {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Namespace::current().unwrap()
    })
    .join()
    .unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn add_pair(socket: &mut Socket, far: &Namespace) -> (link::Link, link::Link) {
    let (near_name, far_name): (IfName, IfName) = ("near0".parse().unwrap(), "eth0".parse().unwrap());
    let veth = Veth {
        near: End { name: &near_name, address: Some(MacAddr::local([1; 6])), netns: None },
        far: End { name: &far_name, address: None, netns: Some(far.as_fd()) },
        mtu: Mtu::new(1400),
    };
    socket.execute(&link::add_veth(&veth)).unwrap();
    let near = link::by_name(socket, &near_name).unwrap().unwrap();
    let _inside = far.enter().unwrap();
    let mut socket = Socket::open().unwrap();
    let far = link::by_name(&mut socket, &far_name).unwrap().unwrap();
    socket.execute(&link::set_up(far.index)).unwrap();
    (near, link::by_index(&mut socket, far.index).unwrap().unwrap())
}

#[test]
fn a_veth_pair_is_made_in_both_namespaces_at_once() {
    in_new_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let far_namespace = other_namespace();
        let (near, far) = add_pair(&mut socket, &far_namespace);
        assert_eq!((near.mtu, near.up, near.kind.as_str()), (1400, true, "veth"));
        assert_eq!(near.address, Some(MacAddr::local([1; 6])));
        assert_eq!((far.mtu, far.up), (1400, true));

        let name = "near0".parse().unwrap();
        let again = socket.execute(&link::add_bridge(&link::Bridge { name: &name })).unwrap_err();
        assert!(again.is_present(), "{again}");
        assert_eq!(again.to_string(), "add link near0 type bridge up: EEXIST: File exists");
        socket.execute(&link::delete(&name)).unwrap();
        assert!(socket.execute(&link::delete(&name)).unwrap_err().is_gone());
        assert_eq!(link::by_name(&mut socket, &name).unwrap(), None);
    });
}

#[test]
fn addresses_routes_and_neighbours_read_back_as_written_in_both_families() {
    in_new_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let far_namespace = other_namespace();
        let (near, _) = add_pair(&mut socket, &far_namespace);
        let mac = MacAddr::local([2; 6]);
        let cases = [
            (net("192.0.2.1/24"), net("198.51.100.7/32"), net("203.0.113.0/24"), ip("192.0.2.9")),
            (net("2001:db8::1/64"), net("2001:db8:1::7/128"), net("2001:db8:2::/64"), ip("2001:db8::9")),
        ];
        for (own, host, far_net, router) in cases {
            let wanted = [
                Route::new(host, Kind::Unicast(vec![NextHop::dev(near.index)]), Protocol::MARGAY),
                Route::new(far_net, Kind::Unicast(vec![NextHop::via(router)]), Protocol::BGP),
                Route { table: TableId(1077), ..Route::new(far_net, Kind::Blackhole, Protocol::BGP) },
            ];
            let mut requests =
                vec![addr::add(near.index, own), neigh::replace_permanent(near.index, router, mac)];
            requests.extend(wanted.iter().map(route::replace));
            for outcome in socket.execute_all(&requests).unwrap() {
                outcome.unwrap();
            }
            let addresses = addr::list_on(&mut socket, near.index).unwrap();
            assert!(
                addresses.iter().any(|a| a.network == own && a.global && a.state == addr::State::Preferred),
                "{addresses:?}"
            );
            assert!(
                neigh::list_on(&mut socket, near.index)
                    .unwrap()
                    .iter()
                    .any(|n| n.address == router && n.mac == Some(mac) && n.permanent)
            );
            let filter = Filter { table: Some(TableId::MAIN), protocol: Some(Protocol::MARGAY) };
            let ours = route::list(&mut socket, filter).unwrap();
            assert!(ours.iter().any(|r| r.destination == host), "{ours:?}");
            let bgp =
                route::list(&mut socket, Filter { table: None, protocol: Some(Protocol::BGP) }).unwrap();
            assert_eq!(bgp.iter().filter(|r| r.destination == far_net).count(), 2, "{bgp:?}");
            let requests: Vec<_> = wanted.iter().map(route::delete).collect();
            for outcome in socket.execute_all(&requests).unwrap() {
                outcome.unwrap();
            }
            assert!(socket.execute(&requests[0]).unwrap_err().is_gone());
        }
    });
}

#[test]
fn a_tunnel_and_its_forwarding_entries_read_back_as_written_over_both_families() {
    in_new_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let mut monitor = Monitor::open(&[Group::Neighbours]).unwrap();
        for (name, local, far, other) in [
            ("tunnel4", "127.0.0.1", "192.0.2.7", "192.0.2.8"),
            ("tunnel6", "::1", "2001:db8::7", "2001:db8::8"),
        ] {
            let name = name.parse().unwrap();
            let vxlan = Vxlan {
                name: &name,
                address: MacAddr::local([3; 6]),
                mtu: Mtu::new(1400).unwrap(),
                vni: Vni::new(4096).unwrap(),
                port: 4789,
                local: ip(local),
            };
            socket.execute(&link::add_vxlan(&vxlan)).unwrap();
            let tunnel = link::by_name(&mut socket, &name).unwrap().unwrap();
            assert_eq!((tunnel.address, tunnel.mtu, tunnel.up), (Some(vxlan.address), 1400, true));
            let facts =
                VxlanFacts { vni: 4096, local: Some(ip(local)), port: 4789, learns: false, floods: false };
            assert_eq!(tunnel.vxlan, Some(facts));

            let mac = MacAddr::local([4; 6]);
            for destination in [other, far] {
                let request = fdb::replace_permanent(tunnel.index, mac, ip(destination));
                socket.execute(&request).unwrap();
            }
            let entry = fdb::Entry { link: tunnel.index, mac, destination: ip(far), permanent: true };
            assert_eq!(fdb::list_on(&mut socket, tunnel.index).unwrap(), std::slice::from_ref(&entry));
            socket.execute(&fdb::delete(&entry)).unwrap();
            let again = socket.execute(&fdb::delete(&entry)).unwrap_err();
            assert!(again.is_gone(), "{again}");
            assert_eq!(fdb::list_on(&mut socket, tunnel.index).unwrap(), []);
            let mut events = Vec::new();
            while monitor.read(&mut events).is_ok() {}
            assert!(events.contains(&Event::ForwardingChanged(entry.clone())), "{events:?}");
            assert!(events.contains(&Event::ForwardingGone(entry)), "{events:?}");
        }
    });
}

#[test]
fn several_next_hops_read_back_with_their_weights() {
    in_new_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let far_namespace = other_namespace();
        let (near, _) = add_pair(&mut socket, &far_namespace);
        socket.execute(&addr::add(near.index, net("192.0.2.1/24"))).unwrap();
        let hops = vec![
            NextHop { weight: 3, link: Some(near.index), ..NextHop::via(ip("192.0.2.8")) },
            NextHop { link: Some(near.index), ..NextHop::via(ip("192.0.2.9")) },
        ];
        let wanted = Route::new(net("203.0.113.0/24"), Kind::Unicast(hops), Protocol::BGP);
        socket.execute(&route::add(&wanted)).unwrap();
        assert!(socket.execute(&route::add(&wanted)).unwrap_err().is_present());
        let found = route::list(&mut socket, Filter { table: None, protocol: Some(Protocol::BGP) }).unwrap();
        assert_eq!(found, [wanted]);
    });
}

#[test]
fn one_refusal_in_a_batch_does_not_stop_the_rest() {
    in_new_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let blackholes: Vec<_> = (0..2000_u32)
            .map(|number| {
                let address = std::net::Ipv4Addr::from(0xc612_0000 + number);
                let destination = IpNetwork::new(address.into(), 32).unwrap();
                Route::new(destination, Kind::Blackhole, Protocol::BGP)
            })
            .collect();
        let mut requests: Vec<_> = blackholes.iter().map(route::add).collect();
        requests.insert(1000, route::add(&blackholes[0]));
        let outcomes = socket.execute_all(&requests).unwrap();
        let refused: Vec<usize> =
            outcomes.iter().enumerate().filter(|(_, o)| o.is_err()).map(|(index, _)| index).collect();
        assert_eq!((outcomes.len(), refused), (2001, vec![1000]));
        assert_eq!(
            route::list(&mut socket, Filter { table: None, protocol: Some(Protocol::BGP) }).unwrap().len(),
            2000
        );
    });
}

#[test]
fn a_monitor_sees_what_others_do() {
    in_new_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let mut monitor = Monitor::open(&[Group::Links, Group::Routes]).unwrap();
        let wanted = Route::new(net("203.0.113.0/24"), Kind::Blackhole, Protocol::BGP);
        socket.execute(&route::add(&wanted)).unwrap();
        socket.execute(&route::delete(&wanted)).unwrap();
        let mut events = Vec::new();
        while monitor.read(&mut events).is_ok() {}
        assert_eq!(events, [Event::RouteChanged(wanted.clone()), Event::RouteGone(wanted)]);
    });
}

#[test]
fn a_monitor_leaves_out_what_one_socket_does() {
    in_new_namespace(|| {
        let [mut mine, mut other] = [(); 2].map(|()| Socket::open().unwrap());
        let mut monitor = Monitor::open(&[Group::Routes]).unwrap();
        monitor.ignore(&mine).unwrap();
        let blackhole = |text| Route::new(net(text), Kind::Blackhole, Protocol::BGP);
        let (unseen, seen) = (blackhole("203.0.113.0/24"), blackhole("198.51.100.0/24"));
        mine.execute(&route::add(&unseen)).unwrap();
        other.execute(&route::add(&seen)).unwrap();
        other.execute(&route::delete(&unseen)).unwrap();
        let mut events = Vec::new();
        while monitor.read(&mut events).is_ok() {}
        assert_eq!(events, [Event::RouteChanged(seen), Event::RouteGone(unseen)]);
    });
}

#[test]
fn a_monitor_that_had_no_room_says_that_something_is_lost_and_goes_on() {
    const LEAST: usize = 4096;
    in_new_namespace(|| {
        let mut socket = Socket::open().unwrap();
        let mut monitor = Monitor::open(&[Group::Routes]).unwrap();
        setsockopt(&monitor, sockopt::RcvBuf, &LEAST).unwrap();
        let lo = link::by_name(&mut socket, &"lo".parse().unwrap()).unwrap().unwrap();
        socket.execute(&link::set_up(lo.index)).unwrap();
        let of = |host: u32| {
            let hops = vec![NextHop::dev(lo.index)];
            Route::new(net(&format!("198.51.100.{host}/32")), Kind::Unicast(hops), Protocol::MARGAY)
        };
        let told = |monitor: &mut Monitor| {
            let mut events = Vec::new();
            while monitor.read(&mut events).is_ok() {}
            events
        };
        for host in 1..=100 {
            socket.execute(&route::replace(&of(host))).unwrap();
        }
        let events = told(&mut monitor);
        assert_eq!(events.iter().filter(|event| **event == Event::Lost).count(), 1, "{events:?}");
        assert!(events.len() < 100, "there was room for {} of 100", events.len());
        // What comes after it is told of as before.
        socket.execute(&route::delete(&of(1))).unwrap();
        assert!(matches!(told(&mut monitor)[..], [Event::RouteGone(_)]));
    });
}

#[test]
fn a_path_that_is_no_namespace_is_refused_by_name() {
    let missing = Namespace::open("/run/netns/no-such-namespace".as_ref()).unwrap_err();
    assert!(missing.is_gone(), "{missing}");
    let file = Namespace::open("/proc/self/status".as_ref()).unwrap_err();
    assert_eq!(file.to_string(), "open network namespace /proc/self/status: EINVAL: Invalid argument");
}

#[test]
fn a_flow_that_is_given_to_connection_tracking_is_established_there() {
    in_new_namespace(|| {
        // The kernel tracks nothing before somebody asks for it; it takes what it is given all the same.
        let flow = |source: &str, destination: &str, protocol| Flow {
            source: ip(source),
            destination: ip(destination),
            protocol,
            source_port: 40_000,
            destination_port: 53,
        };
        let flows = [
            flow("192.0.2.1", "192.0.2.2", 17),
            flow("2001:db8::2", "2001:db8::1", 17),
            flow("192.0.2.1", "192.0.2.2", 6),
        ];
        let all = flows.map(|flow| (flow, 60));
        assert_eq!(conntrack::adopt(&all).unwrap(), 3);
        assert_eq!(conntrack::adopt(&all).unwrap(), 0, "they are there already");

        let mut answers = conntrack::answers(17).unwrap();
        answers.sort_unstable();
        let turned = |flow: &Flow| Flow {
            source: flow.destination,
            destination: flow.source,
            source_port: flow.destination_port,
            destination_port: flow.source_port,
            ..*flow
        };
        assert_eq!(answers, [turned(&flows[0]), turned(&flows[1])]);

        let tcp = conntrack::list(&[ip("192.0.2.2")].into()).unwrap();
        let tcp: Vec<_> = tcp.iter().filter(|found| found.protocol == 6).collect();
        assert!(
            matches!(tcp[..], [found] if found.source == ip("192.0.2.1") && found.port == Some(53)),
            "{tcp:?}"
        );
    });
}

#[test]
fn queueing_disciplines_are_told_with_the_place_where_they_are() {
    in_new_namespace(|| {
        let far = other_namespace();
        let mut socket = Socket::open().unwrap();
        let (near, _) = add_pair(&mut socket, &far);
        socket.execute(&link::set_up(near.index)).unwrap();
        for arguments in ["root tbf rate 10mbit burst 10kb latency 50ms", "clsact"] {
            let words = ["qdisc", "add", "dev", "near0"].into_iter().chain(arguments.split(' '));
            let status = std::process::Command::new("tc").args(words).status().unwrap();
            assert!(status.success(), "tc qdisc add dev near0 {arguments}: {status}");
        }
        let found = qdisc::list(&mut socket).unwrap().into_iter().filter(|qdisc| qdisc.link == near.index);
        let mut found: Vec<_> = found.map(|qdisc| (qdisc.kind, qdisc.ingress)).collect();
        found.sort_unstable();
        assert_eq!(found, [("clsact".to_owned(), true), ("tbf".to_owned(), false)]);
    });
}

#[test]
fn filters_of_others_are_told_in_their_order_and_only_ours_are_taken_off() {
    in_new_namespace(|| {
        let far = other_namespace();
        let mut socket = Socket::open().unwrap();
        let (near, _) = add_pair(&mut socket, &far);
        socket.execute(&filter::add_discipline(near.index)).unwrap();
        assert!(socket.execute(&filter::add_discipline(near.index)).unwrap_err().is_present());
        // Programs of the old kind, which need no descriptor: all packets go on to the next.
        let add = |direction: &str, priority: &str| {
            let words = ["filter", "add", "dev", "near0", direction, "pref", priority];
            let program = ["bpf", "da", "bytecode", "1,6 0 0 4294967295,"];
            let status = std::process::Command::new("tc").args(words).args(program).status().unwrap();
            assert!(status.success(), "tc filter add: {status}");
        };
        add("ingress", "65535");
        add("ingress", "7");
        add("egress", "3");
        let mut priorities = |direction| {
            let found = filter::list_on(&mut socket, near.index, direction).unwrap();
            found.iter().map(|filter| filter.priority).collect::<Vec<_>>()
        };
        assert_eq!(priorities(Direction::Ingress), [7, 65535]);
        assert_eq!(priorities(Direction::Egress), [3]);
        // They have no name, and so none of ours.
        let ours = filter::programs(&mut socket, "margay_").unwrap();
        assert!(ours.is_empty());
        filter::delete_programs(&mut socket, &ours).unwrap();
        let all = filter::programs(&mut socket, "").unwrap();
        assert_eq!(all.len(), 3);
        let disciplines = |socket: &mut Socket| {
            qdisc::list(socket).unwrap().iter().filter(|qdisc| qdisc.kind == "clsact").count()
        };
        let here = BTreeSet::from([near.index]);
        filter::delete_unused(&mut socket, &here).unwrap();
        assert_eq!(disciplines(&mut socket), 1, "there are filters");
        assert_eq!(all.iter().map(|filter| filter.link).collect::<BTreeSet<_>>(), here);
        filter::delete_programs(&mut socket, &all).unwrap();
        assert_eq!(filter::programs(&mut socket, "").unwrap().len(), 0);
        assert_eq!(disciplines(&mut socket), 1, "the kernel would lose packets with it");
        filter::delete_unused(&mut socket, &BTreeSet::new()).unwrap();
        assert_eq!(disciplines(&mut socket), 1, "nobody asked for this one");
        filter::delete_unused(&mut socket, &here).unwrap();
        assert_eq!(disciplines(&mut socket), 0);
    });
}
