//! What is told of the ways. Pure.

use std::collections::{BTreeMap, BTreeSet};

use margay_api::ways::Ways;

use super::{
    judge::Fault,
    ledger::{Ledger, Way},
};
use crate::{decide::Carrier, program::overlay::name_of};

/// As many nodes are named; of more, how many they are.
const MOST_NAMED: usize = 3;

/// What is told, in words.
pub(super) fn report(ledger: &Ledger, settings: Settings, without_offload: &BTreeSet<Carrier>) -> Ways {
    let counts = ledger.counts();
    // A fault of the network is one of many ways: nodes are told together.
    let mut together: BTreeMap<(Option<Carrier>, Fault), Vec<&str>> = BTreeMap::new();
    for (Way { node, by }, fault) in ledger.faults() {
        together.entry((*by, fault)).or_default().push(node);
    }
    let problems =
        together.into_iter().map(|((by, fault), nodes)| words(by, fault, &named(&nodes), settings));
    Ways {
        all: counts.all,
        well: counts.well,
        silent: counts.silent,
        problems: problems.collect(),
        corrections: without_offload.iter().map(|carrier| corrected(*carrier)).collect(),
    }
}

/// What the words depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) test_port: u16,
    pub(super) vxlan_port: u16,
}

fn words(by: Option<Carrier>, fault: Fault, nodes: &str, settings: Settings) -> String {
    let port = settings.test_port;
    let way = by.map_or_else(|| "directly".to_owned(), |carrier| format!("through {}", name_of(carrier)));
    match fault {
        Fault::Filtered => {
            let protocol = match by {
                Some(Carrier::Vxlan4 | Carrier::Vxlan6) => format!("UDP port {}", settings.vxlan_port),
                Some(Carrier::Ipip) => "IP protocol 4".to_owned(),
                None => format!("UDP port {port}"),
            };
            format!(
                "nothing passes {way} to {nodes}, which answers outside of it: let {protocol} pass between the nodes in both directions \
                 (security groups, firewalls), and port {port} from tunnels' addresses in firewalls of nodes"
            )
        }
        // IPv6 takes no less (RFC 8200 section 5), nor does `mtu`.
        Fault::Long { most } if most < 1280 => format!(
            "packets of more than {most} octets do not pass {way} to {nodes}, and nothing says so to who sends them: have the \
             network between the nodes carry more"
        ),
        Fault::Long { most } => format!(
            "packets of more than {most} octets do not pass {way} to {nodes}, and nothing says so to who sends them: set \
             `mtu: {most}` in the NetworkConfig or the agent's file, or have the network between the nodes carry what the interface says"
        ),
        Fault::Tcp => format!(
            "connections of TCP do not pass {way} to {nodes}, although packets of full size without checksums do: look whether a \
             network card or a virtual switch there computes checksums wrong (ethtool -K INTERFACE tx off on the uplink), and \
             whether a firewall drops TCP port {port}"
        ),
    }
}

/// What is told of a tunnel whose checksums are computed by the kernel.
pub(super) fn corrected(carrier: Carrier) -> String {
    let device = name_of(carrier);
    format!(
        "checksums of packets in {device} are computed by the kernel and not by the network card (ethtool -K {device} tx off)"
    )
}

fn named(nodes: &[&str]) -> String {
    let (first, rest) = nodes.split_at(nodes.len().min(MOST_NAMED));
    let plural = if nodes.len() == 1 { "node" } else { "nodes" };
    let first = first.join(", ");
    if rest.is_empty() {
        format!("{plural} {first}")
    } else {
        format!("{plural} {first} and {} more", rest.len())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use tokio::time::Instant;

    use super::{Settings, report};
    use crate::{
        decide::Carrier,
        ways::{
            judge::{Fault, Verdict},
            ledger::{Ledger, Way},
        },
    };

    #[test]
    fn nodes_with_one_fault_are_told_together_with_what_to_do() {
        let settings = Settings { test_port: 9097, vxlan_port: 8472 };
        let way = |number: usize| Way { node: format!("n{number}"), by: Some(Carrier::Vxlan4) };
        let direct = Way { node: "n9".into(), by: None };
        let mut ledger = Ledger::default();
        ledger.set((1..7).map(way).chain([direct.clone()]).collect(), Instant::now());
        for step in 0..3 {
            let now = Instant::now() + Duration::from_mins(step);
            for number in 1..6 {
                ledger.note(&way(number), Verdict::Fault(Fault::Filtered), 0.5, now);
            }
            ledger.note(&way(6), Verdict::Well, 0.5, now);
            ledger.note(&direct, Verdict::Fault(Fault::Long { most: 1400 }), 0.5, now);
        }
        let told = report(&ledger, settings, &BTreeSet::from([Carrier::Vxlan6]));
        assert_eq!((told.all, told.well, told.silent), (7, 1, 0));
        for (text, words) in [
            (
                &told.problems[0],
                &["more than 1400 octets do not pass directly to node n9", "`mtu: 1400`"][..],
            ),
            (&told.problems[1], &["through margay.vxlan4 to nodes n1, n2, n3 and 2 more", "UDP port 8472"]),
            (&told.corrections[0], &["ethtool -K margay.vxlan6 tx off"]),
        ] {
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        assert_eq!(told.problems.len(), 2);
    }
}
