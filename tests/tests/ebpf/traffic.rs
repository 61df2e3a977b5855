//! Real packets go the short way, and arrive as they were sent.

use std::net::SocketAddr;

use margay_ebpf_common::{counter::Counter, endpoint::PEER};

use crate::{
    site::{Family, Site, connect, families, nft, ping, transfer, udp, with_site},
    world::ip,
};

const LARGE: usize = 8 << 20;

#[test]
fn tcp_between_pods_of_a_node_goes_the_short_way() {
    for flags in [PEER, 0] {
        with_site(flags, |site| {
            for f in families() {
                let before = site.dataplane.all_counted();
                let (near, far) =
                    connect(&site.client, &site.server, f.server, |port| (f.server, port).into());
                transfer(&near, &far, LARGE);
                transfer(&far, &near, LARGE);
                drop((near, far));
                assert_short(site, before, Counter::ToPod, 20);
            }
        });
    }
}

#[test]
fn tcp_with_another_node_goes_the_short_way_whoever_opens_it() {
    for flags in [PEER, 0] {
        with_site(flags, |site| {
            for f in families() {
                let before = site.dataplane.all_counted();
                let (near, far) =
                    connect(&site.client, &site.remote, f.remote, |port| (f.remote, port).into());
                transfer(&near, &far, LARGE);
                transfer(&far, &near, LARGE);
                let (near, far) =
                    connect(&site.remote, &site.server, f.server, |port| (f.server, port).into());
                transfer(&near, &far, LARGE);
                transfer(&far, &near, LARGE);
                assert_short(site, before, Counter::ToNode, 20);
                assert_short(site, before, Counter::ToPod, 20);
            }
        });
    }
}

#[test]
fn udp_goes_the_short_way_in_one_piece_and_in_fragments() {
    for flags in [PEER, 0] {
        with_site(flags, |site| {
            for f in families() {
                let client = udp(&site.client, f.client);
                let server = udp(&site.server, f.server);
                let remote = udp(&site.remote, f.remote);
                let before = site.dataplane.all_counted();
                for octets in [1, 100, 1400, 4000, 20000] {
                    ping(&client, &server, server.local_addr().unwrap(), octets);
                    ping(&client, &remote, remote.local_addr().unwrap(), octets);
                    ping(&remote, &server, server.local_addr().unwrap(), octets);
                }
                assert_short(site, before, Counter::ToNode, 30);
                assert_short(site, before, Counter::ToPod, 30);
            }
        });
    }
}

#[test]
fn a_datagram_without_hops_left_is_the_stacks_to_drop() {
    with_site(PEER, |site| {
        let [f, _] = families();
        let (client, server) = (udp(&site.client, f.client), udp(&site.server, f.server));
        ping(&client, &server, server.local_addr().unwrap(), 10);
        client.set_ttl(1).unwrap();
        client.send_to(b"dropped", server.local_addr().unwrap()).unwrap();
        client.set_ttl(2).unwrap();
        let unroutable = site.dataplane.counted(Counter::Unroutable);
        ping(&client, &server, server.local_addr().unwrap(), 10);
        assert_eq!(unroutable, 1);
    });
}

#[test]
fn what_a_router_says_of_the_size_of_packets_reaches_their_sender() {
    with_site(PEER, |site| {
        {
            let _inside = site.router.enter().unwrap();
            ip("link set inside mtu 1300");
        }
        for f in families() {
            let before = site.dataplane.all_counted();
            let (near, far) = connect(&site.client, &site.remote, f.remote, |port| (f.remote, port).into());
            transfer(&near, &far, LARGE);
            assert_short(site, before, Counter::ToNode, 20);
        }
    });
}

#[test]
fn what_is_too_large_for_the_way_to_another_node_is_told_by_the_stack() {
    with_site(PEER, |site| {
        ip("link set uplink mtu 1300");
        for f in families() {
            let (near, far) = connect(&site.client, &site.remote, f.remote, |port| (f.remote, port).into());
            let before = site.dataplane.all_counted();
            transfer(&near, &far, LARGE);
            let after = site.dataplane.all_counted();
            let grown = |counter: Counter| after[counter.index() as usize] - before[counter.index() as usize];
            assert!((1..100).contains(&grown(Counter::Unroutable)), "{before:?} {after:?}");
            assert!(grown(Counter::ToNode) > 20, "{before:?} {after:?}");
        }
    });
}

#[test]
fn a_service_in_front_of_a_pod_of_this_node_or_another_works() {
    for flags in [PEER, 0] {
        with_site(flags, |site| {
            for f in families() {
                for is_here in [true, false] {
                    serve(&f, if is_here { f.server } else { f.remote });
                    through_service(site, &f, is_here);
                    nft("flush ruleset");
                }
            }
        });
    }
}

/// Translates the Service's address to a pod's, as kube-proxy would.
pub(crate) fn serve(f: &Family, pod: std::net::IpAddr) {
    let family = if pod.is_ipv4() { "ip" } else { "ip6" };
    nft(&format!(
        "table {family} service {{
            chain prerouting {{
                type nat hook prerouting priority dstnat
                {family} daddr {} dnat to {pod}
            }}
        }}\n",
        f.service
    ));
}

/// Asserts that the Service works for TCP and UDP, that the stack has all of it, and that the same pods talk by the short way without it.
pub(crate) fn through_service(site: &Site, f: &Family, is_here: bool) {
    let (namespace, address) = if is_here { (&site.server, f.server) } else { (&site.remote, f.remote) };
    let short = [Counter::ToPod, Counter::ToNode].map(|counter| site.dataplane.counted(counter));
    let stacked = site.dataplane.counted(Counter::Stacked);

    let (near, far) = connect(&site.client, namespace, address, |port| (f.service, port).into());
    transfer(&near, &far, 1 << 20);
    transfer(&far, &near, 1 << 20);
    let (client, pod) = (udp(&site.client, f.client), udp(namespace, address));
    let known_as: SocketAddr = (f.service, pod.local_addr().unwrap().port()).into();
    for octets in [10, 1000, 4000] {
        ping(&client, &pod, known_as, octets);
    }

    assert_eq!(short, [Counter::ToPod, Counter::ToNode].map(|counter| site.dataplane.counted(counter)));
    // Answers of pods of this node are seen here; from another node too, but those are of no pod there.
    assert!(site.dataplane.counted(Counter::Stacked) >= stacked + 3);

    // Without the Service the same two talk by the short way.
    let (client, pod) = (udp(&site.client, f.client), udp(namespace, address));
    ping(&client, &pod, pod.local_addr().unwrap(), 10);
    let now = [Counter::ToPod, Counter::ToNode].map(|counter| site.dataplane.counted(counter));
    assert!(now.iter().sum::<u64>() >= short.iter().sum::<u64>() + 2);
}

/// Asserts that so many packets at least went that way, and no more to the stack than the first could.
pub(crate) fn assert_short(site: &Site, before: [u64; Counter::ALL.len()], way: Counter, at_least: u64) {
    let after = site.dataplane.all_counted();
    let grown = |counter: Counter| after[counter.index() as usize] - before[counter.index() as usize];
    assert!(grown(way) >= at_least, "{way:?}: {before:?} {after:?}");
    for counter in [
        Counter::Stacked,
        Counter::NoFlow,
        Counter::NotAllowed,
        Counter::BeingWritten,
        Counter::Unroutable,
        Counter::Unparsed,
    ] {
        assert_eq!(grown(counter), 0, "{counter:?}: {before:?} {after:?}");
    }
}
