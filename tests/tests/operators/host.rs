//! The commands of the text of docs/operating.md that are a node's own, `ip` and the like: each says what the text has one look for.

use margay_api::resource::Encapsulation;
use margay_lab::{Lab, LabConfig};
use margay_tests::guide::{in_backquotes, text};

use crate::cluster::{run, start, until};

const PROGRAMS: [&str; 6] = ["ip", "nft", "iptables", "ethtool", "conntrack", "modprobe"];
/// Kernels without modules have none to load.
const NOT_HERE: [&str; 1] = ["modprobe ipip"];

/// What is in single backquotes and begins with one of the programs.
fn commands() -> Vec<String> {
    let mut all = in_backquotes(&text("docs/operating.md"));
    all.retain(|span| {
        PROGRAMS.iter().any(|program| span.strip_prefix(program).is_some_and(|rest| rest.starts_with(' ')))
    });
    all.sort_unstable();
    all.dedup();
    all
}

/// What a line prints on a node, where it succeeds.
async fn said(lab: &Lab, command: &str) -> Option<String> {
    let node = lab.node_named("n1").unwrap();
    node.output("sh", &["-c", command]).await.ok()
}

/// In a cluster of such tunnels each of these lines prints this at some time.
async fn say(encapsulation: Encapsulation, expected: &[(&str, &str)]) {
    let lab = start(LabConfig { nodes: 2, encapsulation, ..LabConfig::default() }).await;
    for node in ["n1", "n2"] {
        run(&lab, &format!("on-{node}"), node).await;
    }
    for (command, words) in expected {
        until(&lab, command, async || said(&lab, command).await.filter(|said| said.contains(words))).await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_has_one_say_on_a_node_shows_what_it_is_to_show() {
    let by_tunnel = [
        ("ip -s link show margay.vxlan4", "RX:"),
        ("ip route show proto 78", "dev margay.vxlan4"),
        ("nft list table inet margay", "table inet margay {"),
        ("conntrack -L", ""),
        ("iptables -S FORWARD", "-P FORWARD"),
        ("iptables -P FORWARD ACCEPT", ""),
        ("ethtool -K INTERFACE tx off", ""),
    ];
    let by_bgp = [("ip route show proto bgp", "via ")];
    let known: Vec<&str> =
        by_tunnel.iter().chain(&by_bgp).map(|(command, _)| *command).chain(NOT_HERE).collect();
    for command in commands() {
        assert!(
            known.contains(&command.as_str()),
            "docs/operating.md has a command that no test runs: {command}"
        );
    }
    let on_the_device =
        by_tunnel.map(|(command, words)| (command.replace("INTERFACE", "margay.vxlan4"), words));
    let on_the_device = on_the_device.each_ref().map(|(command, words)| (command.as_str(), *words));
    say(Encapsulation::Vxlan, &on_the_device).await;
    say(Encapsulation::None, &by_bgp).await;
}
