//! What operators see of the speaker, and what they tell it: `margayctl bgp` and the metrics.

use crate::harness::{contains, eventually};
use crate::lab::{Daemon, Lab, Setup};

/// The words of the line that begins with these.
fn line<'a>(text: &'a str, begin: &[&str]) -> Vec<&'a str> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .into_iter()
        .find(|words| words.starts_with(begin))
        .unwrap_or_else(|| panic!("no {begin:?} in\n{text}"))
}

fn two_peers() -> Lab {
    let second = Setup { asn: 64499, networks: vec!["198.51.100.0/25"], ..Setup::new(Daemon::Frr) };
    Lab::converged(64497, vec![Setup::new(Daemon::Bird), second])
}

#[test]
fn margayctl_says_who_the_neighbours_are_what_they_say_and_what_they_are_told() {
    let lab = two_peers();
    let neighbors = lab.margayctl("neighbors").unwrap();
    line(&neighbors, &["192.0.2.1", "64496", "Established"]);
    line(&neighbors, &["192.0.2.3", "64499", "Established"]);
    let json: serde_json::Value = serde_json::from_str(&lab.margayctl("neighbors -o json").unwrap()).unwrap();
    let received = |address: &str| {
        let found = json.as_array().unwrap().iter().find(|neighbor| neighbor["neighbor"] == address);
        found.unwrap()["received"].clone()
    };
    assert_eq!([received("192.0.2.1"), received("192.0.2.3")], ["3", "1"]);
    // What was agreed on: Debian's BIRD offers messages of 65,535 octets (RFC 8654) if told to, FRR always.
    let agreed = |address: &str, what: &str| {
        let found = json.as_array().unwrap().iter().find(|neighbor| neighbor["neighbor"] == address);
        found.unwrap()[what].as_str().unwrap().to_owned()
    };
    for address in ["192.0.2.1", "192.0.2.3"] {
        contains(&agreed(address, "capabilities"), &["4-octet-as", "route-refresh", "graceful-restart"])
            .unwrap();
        assert_eq!(agreed(address, "families"), "ipv4-unicast, ipv6-unicast");
        assert_eq!(agreed(address, "flaps"), "0");
    }
    let wide = lab.margayctl("neighbors -o wide").unwrap();
    contains(&wide, &["ROUTER_ID", "HOLD_TIME", "graceful-restart"]).unwrap();
    assert!(!neighbors.contains("ROUTER_ID"), "{neighbors}");

    let routes = lab.margayctl("routes 198.51.100.0/25").unwrap();
    line(&routes, &["198.51.100.0/25", "best", "192.0.2.1", "192.0.2.1", "64496"]);
    line(&routes, &["198.51.100.0/25", "multipath", "192.0.2.3", "192.0.2.3"]);
    assert_eq!(routes.lines().count(), 3, "a title and two paths: {routes}");
    let told = lab.margayctl("routes --advertised 192.0.2.3").unwrap();
    contains(&told, &["198.51.100.128/25", "203.0.113.0/25", "2001:db8:200::/40"]).unwrap();
    let said = lab.margayctl("routes --received 192.0.2.3").unwrap();
    assert_eq!(said.lines().count(), 2, "a title and its one path: {said}");
}

#[test]
fn margayctl_explains_why_a_path_won_and_who_is_told() {
    let lab = two_peers();
    let explained = lab.margayctl("explain 198.51.100.0/25").unwrap();
    let loser = line(&explained, &["192.0.2.3", "0"]);
    assert_eq!(loser.last(), Some(&"192.0.2.1"), "it lost to the other: {explained}");
    // To whom, from whom, which, whether.
    line(&explained, &["192.0.2.3", "192.0.2.1", "0", "yes"]);
    line(&explained, &["192.0.2.1", "192.0.2.1", "0", "no"]);
    let missing = lab.margayctl("explain 10.0.0.0/8").unwrap_err();
    contains(&missing, &["there is no path to 10.0.0.0/8"]).unwrap();
}

#[test]
fn margayctl_resets_and_refreshes_one_neighbour_and_no_other() {
    let lab = two_peers();
    lab.margayctl("refresh 192.0.2.1").unwrap();
    eventually("bird was asked for all again", || contains(&lab.peers[0].log(), &["Got ROUTE-REFRESH"]));
    lab.margayctl("reset 192.0.2.1").unwrap();
    eventually("bird was told why", || contains(&lab.peers[0].log(), &["Received: Administrative reset"]));
    lab.wait_converged();
    // What FRR counts from the start on.
    contains(&lab.peers[1].session().unwrap(), &["\"connectionsEstablished\":1"]).unwrap();
    contains(&lab.margayctl("reset 192.0.2.77").unwrap_err(), &["192.0.2.77 is no neighbour"]).unwrap();
}

#[test]
fn metrics_count_sessions_messages_and_prefixes() {
    let address = "127.0.0.1:9179".parse().unwrap();
    let mut lab = Lab::new(64497, vec![Setup::new(Daemon::Bird)]);
    let mut config = lab.config();
    config.metrics = Some(address);
    lab.start_all(&config);
    lab.wait_converged();
    let metrics = lab.metrics(address).unwrap();
    let expected = [
        "margay_bgp_session_established{neighbor=\"192.0.2.1\",state=\"Established\"} 1\n",
        "margay_bgp_session_up_total{neighbor=\"192.0.2.1\"} 1\n",
        "margay_bgp_session_down_total{neighbor=\"192.0.2.1\"} 0\n",
        "margay_bgp_prefixes_received{neighbor=\"192.0.2.1\",family=\"ipv4_unicast\"} 2\n",
        "margay_bgp_prefixes_advertised{neighbor=\"192.0.2.1\",family=\"ipv6_unicast\"} 1\n",
        "margay_bgp_rib_prefixes 5\n",
    ];
    contains(&metrics, &expected).unwrap();
    let number = |name: &str| {
        let start = format!("margay_bgp_{name}{{neighbor=\"192.0.2.1\"}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
        found.unwrap_or_else(|| panic!("no {start} in {metrics}")).parse::<u64>().unwrap()
    };
    // OPEN, KEEPALIVE, an UPDATE with our network and an End-of-RIB of each family; and theirs.
    assert!(number("messages_sent_total") >= 6, "{metrics}");
    assert!(number("messages_received_total") >= 6, "{metrics}");
}
