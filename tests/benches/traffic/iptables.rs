//! The classic layout of policy in iptables and ipsets, as Felix writes it.
//!
//! ```text
//!  FORWARD -> from (of a pod's link) -> the pod's egress chain  -> a chain for each policy, one after the other
//!          -> to   (of a pod's link) -> the pod's ingress chain -> a chain for each policy, one after the other
//! ```
//! A pod's chain first accepts what connection tracking knows; a policy's chain marks what it accepts, and the pod's
//! looks for that mark after each. Left out, in favour of it: the tables `mangle` and `nat`, and chains of host
//! endpoints. Felix since 3.28 groups policies with the same selector in one chain, and looks for the mark after each
//! fifth of them: as linear, with fewer rules.

use std::{fmt::Write, net::IpAddr};

use crate::{
    cluster::{GROUPS, Pod, group_address, group_name, policy_port},
    measure::PORT,
};

/// Bits of the mark: accepted; passed on to the next tier; from a pod.
const ACCEPT: &str = "0x10000/0x10000";
const PASS: &str = "0x20000";
const FROM_POD: &str = "0x40000/0x40000";

/// One set of addresses for each selector, as `ipset restore` reads them.
pub(crate) fn sets(selected: &[IpAddr]) -> String {
    let mut text = String::new();
    let mut set = |name: &str, members: &[String]| {
        writeln!(text, "create {name} hash:net family inet maxelem 1048576").unwrap();
        for member in members {
            writeln!(text, "add {name} {member}").unwrap();
        }
    };
    for number in 0..GROUPS {
        set(&group_name(number), &[group_address(number)]);
    }
    set("selected", &selected.iter().map(IpAddr::to_string).collect::<Vec<_>>());
    text
}

/// The tables of a node with these pods, all selected by so many policies in both directions, as `iptables-restore`
/// reads them. The last policy opens the port that is measured.
pub(crate) fn rules(pods: &[&Pod], policies: usize) -> String {
    let mut text = format!(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i mgy+ -j MARK --set-xmark {FROM_POD}\n\
         -A PREROUTING -m mark --mark {FROM_POD} -m rpfilter --validmark --invert -j DROP\nCOMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:from - [0:0]\n:to - [0:0]\n"
    );
    let ways = [Way { chain: "out", peer: "dst" }, Way { chain: "in", peer: "src" }];
    let mut line = |rule: &str| writeln!(text, "{rule}").unwrap();
    for way in &ways {
        for (number, _) in pods.iter().enumerate() {
            line(&format!(":pod{number}-{} - [0:0]", way.chain));
        }
        line(&format!(":profile-{} - [0:0]", way.chain));
        for number in 0..policies {
            line(&format!(":policy{number}-{} - [0:0]", way.chain));
        }
    }
    line("-A FORWARD -j MARK --set-xmark 0x0/0xe0000");
    line("-A FORWARD -i mgy+ -j from");
    line("-A FORWARD -o mgy+ -j to");
    line(&format!("-A FORWARD -m mark --mark {ACCEPT} -j ACCEPT"));
    for (number, pod) in pods.iter().enumerate() {
        line(&format!("-A from -i {} -g pod{number}-out", pod.link));
        line(&format!("-A to -o {} -g pod{number}-in", pod.link));
    }
    line("-A from -j DROP");
    line("-A to -j DROP");
    for way in &ways {
        for number in 0..pods.len() {
            way.of_pod(&format!("pod{number}-{}", way.chain), policies, &mut line);
        }
        line(&format!("-A profile-{} -j MARK --set-xmark {ACCEPT}", way.chain));
        line(&format!("-A profile-{} -m mark --mark {ACCEPT} -j RETURN", way.chain));
        for number in 0..policies {
            way.of_policy(number, policies, &mut line);
        }
    }
    line("COMMIT");
    text
}

/// A direction: how its chains are called, and which address of a packet is the peer's.
struct Way {
    chain: &'static str,
    peer: &'static str,
}

impl Way {
    fn of_pod(&self, chain: &str, policies: usize, line: &mut impl FnMut(&str)) {
        line(&format!("-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
        line(&format!("-A {chain} -m conntrack --ctstate INVALID -j DROP"));
        line(&format!("-A {chain} -j MARK --set-xmark 0x0/0x30000"));
        if self.chain == "out" {
            line(&format!("-A {chain} -p udp -m multiport --dports 4789 -j DROP"));
            line(&format!("-A {chain} -p 4 -j DROP"));
        }
        let accepted = format!("-A {chain} -m mark --mark {ACCEPT} -j RETURN");
        if policies > 0 {
            line(&format!("-A {chain} -j MARK --set-xmark 0x0/{PASS}"));
            for number in 0..policies {
                line(&format!("-A {chain} -m mark --mark 0x0/{PASS} -j policy{number}-{}", self.chain));
                line(&accepted);
            }
            line(&format!("-A {chain} -m mark --mark 0x0/{PASS} -j DROP"));
        }
        line(&format!("-A {chain} -j profile-{}", self.chain));
        line(&accepted);
        line(&format!("-A {chain} -j DROP"));
    }

    fn of_policy(&self, number: usize, of: usize, line: &mut impl FnMut(&str)) {
        let is_last = number + 1 == of;
        let (set, port) = if is_last {
            ("selected".to_owned(), usize::from(PORT))
        } else {
            (group_name(number % GROUPS), policy_port(number))
        };
        let chain = format!("policy{number}-{}", self.chain);
        let protocols: &[&str] = if is_last { &["tcp", "udp"] } else { &["tcp"] };
        for protocol in protocols {
            line(&format!(
                "-A {chain} -p {protocol} -m set --match-set {set} {} -m multiport --dports {port} \
                 -j MARK --set-xmark {ACCEPT}",
                self.peer
            ));
            line(&format!("-A {chain} -m mark --mark {ACCEPT} -j RETURN"));
        }
    }
}
