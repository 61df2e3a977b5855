//! Real packets that the programs put into a tunnel come out of it on the other side, and the device of this side sends none.

use std::process::Command;

use margay_ebpf_common::{counter::Counter, endpoint::PEER};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use crate::{
    site::{Site, connect, families, ping, transfer, udp, with_site},
    world::{ip, link},
};

const LARGE: usize = 8 << 20;

/// What a device has sent and received, in packets.
pub(crate) fn packets(link: &str) -> [u64; 2] {
    let shown = Command::new("ip").args(["-s", "-s", "-j", "link", "show", link]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    ["tx", "rx"].map(|way| shown[0]["stats64"][way]["packets"].as_u64().unwrap())
}

/// What the tunnel's device on the router has received.
fn received(site: &Site) -> u64 {
    let _inside = site.router.enter().unwrap();
    packets("vxlan")[1]
}

#[test]
fn streams_arrive_whole_and_in_large_pieces_whichever_end_opens_them() {
    with_site(PEER, |site| {
        site.tunnel();
        for f in families() {
            let (before, [sent, _]) = (site.dataplane.counted(Counter::ToTunnel), packets("vxlan"));
            let (near, far) = connect(&site.client, &site.remote, f.remote, |port| (f.remote, port).into());
            let [left, _] = packets("uplink");
            transfer(&near, &far, LARGE);
            let whole = site.dataplane.counted(Counter::ToTunnel) - before;
            let left = packets("uplink")[0] - left;
            // Of 1,400 octets each there would be some 6,000, at the programs and at the cable behind them, which takes large ones.
            for pieces in [whole, left] {
                assert!((20..3000).contains(&pieces), "{whole} and {left} packets for {LARGE} octets");
            }
            transfer(&far, &near, LARGE);
            let (near, far) = connect(&site.remote, &site.server, f.server, |port| (f.server, port).into());
            transfer(&near, &far, LARGE);
            transfer(&far, &near, LARGE);
            assert_eq!(packets("vxlan")[0], sent, "the device has sent nothing");
            assert!(received(site) > 0);
            assert_eq!(site.dataplane.counted(Counter::Lost), 0);
        }
    });
}

#[test]
fn datagrams_arrive_in_one_piece_and_in_fragments() {
    with_site(PEER, |site| {
        site.tunnel();
        for f in families() {
            let (client, remote) = (udp(&site.client, f.client), udp(&site.remote, f.remote));
            let (before, [sent, _]) = (site.dataplane.counted(Counter::ToTunnel), packets("vxlan"));
            for octets in [1, 100, 1400, 4000, 20000] {
                ping(&client, &remote, remote.local_addr().unwrap(), octets);
            }
            assert!(site.dataplane.counted(Counter::ToTunnel) - before >= 5);
            assert_eq!(packets("vxlan")[0], sent);
        }
    });
}

#[test]
fn datagrams_that_the_kernel_is_to_cut_apart_arrive_as_many() {
    with_site(PEER, |site| {
        site.tunnel();
        for f in families() {
            let (client, remote) = (udp(&site.client, f.client), udp(&site.remote, f.remote));
            ping(&client, &remote, remote.local_addr().unwrap(), 1);
            let before = site.dataplane.counted(Counter::ToTunnel);
            setsockopt(&client, UdpGsoSegment, &1000).unwrap();
            client.send_to(&[5; 8500], remote.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 2000];
            let sizes: Vec<usize> = (0..9).map(|_| remote.recv(&mut buffer).unwrap()).collect();
            assert_eq!(sizes, [vec![1000; 8], vec![500]].concat());
            assert_eq!(site.dataplane.counted(Counter::ToTunnel), before + 1, "in one piece until then");
        }
    });
}

#[test]
fn what_is_too_large_for_the_way_outside_goes_through_the_device_and_arrives() {
    with_site(PEER, |site| {
        site.tunnel();
        let [f, _] = families();
        let (client, remote) = (udp(&site.client, f.client), udp(&site.remote, f.remote));
        ping(&client, &remote, remote.local_addr().unwrap(), 1400);
        // The device lets the outer packet be cut up.
        ip("link set uplink mtu 1400");
        {
            let _inside = site.router.enter().unwrap();
            ip("link set node mtu 1400");
        }
        let [sent, _] = packets("vxlan");
        ping(&client, &remote, remote.local_addr().unwrap(), 1400);
        assert!(packets("vxlan")[0] > sent);
        let before = site.dataplane.counted(Counter::ToTunnel);
        ping(&client, &remote, remote.local_addr().unwrap(), 1000);
        assert_eq!(site.dataplane.counted(Counter::ToTunnel), before + 1);
    });
}

#[test]
fn what_has_no_way_outside_by_an_uplink_goes_through_the_device_and_arrives() {
    with_site(PEER, |site| {
        site.tunnel();
        let uplink = link("uplink").0;
        for f in families() {
            let (client, remote) = (udp(&site.client, f.client), udp(&site.remote, f.remote));
            let to = remote.local_addr().unwrap();
            ping(&client, &remote, to, 100);
            let [sent, _] = packets("vxlan");
            // The look-up of the outer packet took the place of that of the inner one, which is the way that it is to go now.
            site.dataplane.hash::<u32, u32>("UPLINKS").remove(&uplink).unwrap();
            let (before, arrived) = (site.dataplane.all_counted(), received(site));
            ping(&client, &remote, to, 100);
            let after = site.dataplane.all_counted();
            for (counter, packets) in [(Counter::ToTunnel, 0), (Counter::ToNode, 1), (Counter::ToPod, 1)] {
                let index = counter.index() as usize;
                assert_eq!(after[index] - before[index], packets, "{counter:?}");
            }
            assert_eq!(packets("vxlan")[0], sent + 1, "the device has sent it");
            assert!(received(site) > arrived, "in the tunnel");
            site.dataplane.add_uplink(uplink);
        }
    });
}

#[test]
fn pods_are_told_by_the_stack_what_is_too_large_for_the_tunnel() {
    with_site(PEER, |site| {
        site.tunnel();
        ip("link set vxlan mtu 1300");
        for f in families() {
            let before = site.dataplane.counted(Counter::ToTunnel);
            let (near, far) = connect(&site.client, &site.remote, f.remote, |port| (f.remote, port).into());
            transfer(&near, &far, LARGE);
            assert!(site.dataplane.counted(Counter::ToTunnel) - before > 20);
        }
        assert!(site.dataplane.counted(Counter::Unroutable) > 0);
    });
}
