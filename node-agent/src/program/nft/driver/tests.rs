//! The driver against the real kernel, in namespaces of the test's own.

use std::{process::Command, sync::Arc, thread};

use margay_api::endpoint::{Endpoint, EndpointId};
use margay_policy::{
    Objects, Pod, PodName,
    compile::{Changes, Compiler, Touched, Way},
    convert, convert_cluster, covered,
};
use nix::sched::{CloneFlags, unshare};

use super::Driver;
use crate::decide::{Admitted, Masquerade, Wanted};

/// Runs a test on a thread in a network namespace of its own.
pub(super) fn in_new_namespace(test: impl FnOnce() + Send) {
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

pub(super) fn listed() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    // A declaration that it does not understand, nft aborts on.
    assert!(output.status.success(), "nft list ruleset: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the node knows, and what is decided of it.
#[derive(Default)]
pub(super) struct World {
    objects: Objects,
    compiler: Compiler,
    pub(super) wanted: Wanted,
    changes: Changes,
}

impl World {
    /// A node with `pods` pods in namespace x, and these policies.
    pub(super) fn new(pods: u8, policies: &str) -> Self {
        let mut world = Self::default();
        world.become_of(pods, policies);
        world
    }

    /// Makes it so.
    fn become_of(&mut self, pods: u8, policies: &str) {
        let mut touched = Touched::everything(&self.objects);
        self.objects = Objects::default();
        let mut endpoints = Vec::new();
        for host in 1..=pods {
            let name = PodName::new("x", format!("p{host}"));
            let addresses =
                vec![format!("10.0.0.{host}").parse().unwrap(), format!("2001:db8::{host}").parse().unwrap()];
            let pod = Pod {
                name: name.clone(),
                labels: Arc::new([("pod".to_owned(), name.name.to_string())].into()),
                addresses: addresses.clone(),
                ports: vec![],
                host_network: false,
                finished: false,
                terminating: false,
                created: 0,
                announced: vec![],
            };
            self.objects.pods.insert(name.clone(), Arc::new(pod));
            let id = EndpointId::of(&name.name, "eth0");
            let endpoint = Endpoint {
                container_id: name.name.to_string(),
                ifname: "eth0".into(),
                network: "margay".into(),
                netns: String::new(),
                host_ifname: id.host_ifname(),
                mac: String::new(),
                host_mac: String::new(),
                addresses,
                mtu: 1500,
                pod: None,
            };
            endpoints.push((name, endpoint));
        }
        for document in serde_saphyr::from_multiple::<serde_json::Value>(policies).unwrap() {
            self.add(document);
        }
        touched.extend(Touched::everything(&self.objects));
        self.changes = self.compiler.update(&self.objects, |_| true, &touched);
        let endpoints = endpoints.into_iter().map(|(name, endpoint)| {
            let set = self.compiler.set_of(&name);
            let said = set.and_then(|set| self.compiler.set(set));
            let ways = Way::ALL.into_iter().filter(|way| said.is_some_and(|set| set.way(*way).is_some()));
            (endpoint.id(), Admitted { endpoint: Arc::new(endpoint), set, ways: ways.collect() })
        });
        self.wanted = Wanted { endpoints: Arc::new(endpoints.collect()), ..Wanted::default() };
    }

    fn add(&mut self, document: serde_json::Value) {
        let problems = if document["kind"] == "ClusterNetworkPolicy" {
            let (policy, problems) = convert_cluster(&serde_json::from_value(document).unwrap());
            let policy = policy.unwrap();
            self.objects.cluster_policies.insert(policy.name.clone(), policy);
            problems
        } else {
            let (policy, problems) = convert(&serde_json::from_value(document).unwrap());
            let policy = policy.unwrap();
            self.objects.policies.insert(policy.name.clone(), policy);
            problems
        };
        assert!(problems.is_empty(), "{problems:?}");
    }

    /// Tells a driver that was told all before.
    pub(super) fn tell(&self, driver: &mut Driver) -> Result<usize, margay_netlink::Error> {
        driver.apply(&self.wanted, &self.compiler, &self.changes)
    }

    /// Tells a driver that knows nothing.
    pub(super) fn driver(&self) -> Driver {
        let mut driver = Driver::new();
        driver.apply(&self.wanted, &self.compiler, &self.compiler.everything()).unwrap();
        driver
    }
}

const POLICIES: [&str; 9] = [
    "",
    "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}",
    "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}, {port: 53, protocol: UDP}]}]}}",
    "{metadata: {namespace: x, name: a}, spec: {podSelector: {matchLabels: {pod: p1}}, ingress: [{from: [{podSelector: {matchLabels: {pod: p2}}}], ports: [{port: 80}, {port: 81}]}, {from: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.2/32]}}, {ipBlock: {cidr: '2001:db8::/64'}}, {ipBlock: {cidr: 0.0.0.0/0}}]}]}}",
    "{metadata: {namespace: x, name: a}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/28}}], ports: [{port: 80, endPort: 81}, {protocol: SCTP}]}]}}\n---\n{metadata: {namespace: x, name: all}, spec: {podSelector: {matchLabels: {pod: p1}}, ingress: [{}]}}",
    "{metadata: {namespace: x, name: a}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/29}}], ports: [{port: 79, endPort: 82}]}]}}",
    "{metadata: {namespace: x, name: a}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/29}}], ports: [{port: 100, endPort: 200}]}, {to: [{ipBlock: {cidr: 10.0.0.0/28}}], ports: [{port: 150, endPort: 300}, {protocol: UDP}]}]}}",
    "{metadata: {namespace: x, name: a, annotations: {margay.dev/enforcement: audit}}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}]}}",
    "{kind: ClusterNetworkPolicy, metadata: {name: a}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/29]}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 90}}}}]}, {action: Pass, to: [{namespaces: {}}]}]}}\n---\n{kind: ClusterNetworkPolicy, metadata: {name: b, annotations: {margay.dev/enforcement: audit}}, spec: {tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}\n---\n{metadata: {namespace: x, name: deny}, spec: {podSelector: {matchLabels: {pod: p1}}}}",
];

#[test]
fn going_from_any_state_to_any_other_by_differences_gives_what_writing_it_anew_gives() {
    in_new_namespace(|| {
        for from in POLICIES {
            for to in POLICIES {
                let mut world = World::new(3, from);
                let mut driver = world.driver();
                world.become_of(2, to);
                world.tell(&mut driver).unwrap_or_else(|error| panic!("{from}\n{to}\n{error}"));
                let by_difference = listed();
                assert_eq!(world.tell(&mut driver).unwrap(), 0);
                world.driver();
                assert_eq!(sorted(&by_difference), sorted(&listed()), "{from}\n{to}");
            }
        }
    });
}

/// Sets and chains are listed in the order of their making.
fn sorted(listing: &str) -> Vec<String> {
    let mut lines: Vec<String> = listing.split_whitespace().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_chain_of_nat_is_there_only_while_something_is_masqueraded() {
    let range = |network: &str| covered([network.parse().unwrap()]);
    let of = |sources: &str, kept: &str| {
        let [sources, kept] = [sources, kept].map(range);
        Some(Arc::new(Masquerade { sources, kept }))
    };
    in_new_namespace(|| {
        let mut world = World::new(1, "");
        let mut driver = world.driver();
        let before = listed();
        assert!(!before.contains("postrouting"), "{before}");
        for (masquerade, words) in [
            (of("10.0.0.0/24", "10.0.0.0/8"), ["10.0.0.0/24", "10.0.0.0/8"]),
            (of("10.0.0.0/16", "10.0.0.0/8"), ["10.0.0.0/16", "10.0.0.0/8"]),
            (of("2001:db8::/64", "2001:db8::/32"), ["2001:db8::/64", "2001:db8::/32"]),
        ] {
            world.wanted.masquerade = masquerade;
            assert!(world.tell(&mut driver).unwrap() > 0);
            assert_eq!(world.tell(&mut driver).unwrap(), 0);
            let listing = listed();
            for word in words.into_iter().chain(["masquerade fully-random"]) {
                assert!(listing.contains(word), "{word}: {listing}");
            }
            assert!(driver.verify().unwrap());
            world.driver();
            assert_eq!(sorted(&listing), sorted(&listed()));
        }
        world.wanted.masquerade = None;
        let mut driver = world.driver();
        assert_eq!(sorted(&listed()), sorted(&before));
        world.wanted.masquerade = of("10.0.0.0/24", "10.0.0.0/8");
        world.tell(&mut driver).unwrap();
        world.wanted.masquerade = None;
        world.tell(&mut driver).unwrap();
        assert_eq!(sorted(&listed()), sorted(&before));
    });
}

#[test]
fn tables_of_others_are_not_touched_and_ours_is_replaced_at_the_start() {
    in_new_namespace(|| {
        for command in ["add table ip nat", "add table inet margay", "add chain inet margay strange"] {
            assert!(Command::new("nft").arg(command).status().unwrap().success());
        }
        World::new(1, "").driver();
        let listing = listed();
        assert!(listing.contains("table ip nat"), "{listing}");
        assert!(!listing.contains("strange"), "{listing}");
    });
}

#[test]
fn a_table_that_somebody_took_away_is_an_error_once_and_is_then_written_anew() {
    in_new_namespace(|| {
        let mut world = World::new(1, "");
        let mut driver = world.driver();
        assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
        world.become_of(2, POLICIES[1]);
        let error = world.tell(&mut driver).unwrap_err();
        assert!(error.to_string().contains("No such file or directory"), "{error}");
        world.tell(&mut driver).unwrap();
        assert!(listed().contains("s1_in"), "{}", listed());
    });
}

#[test]
fn a_table_that_somebody_flushed_edited_or_deleted_is_noticed_and_replaced() {
    in_new_namespace(|| {
        let world = World::new(2, POLICIES[3]);
        let mut driver = Driver::new();
        assert!(driver.verify().unwrap(), "nothing is written yet, so nothing can be missing");
        for damage in [
            "flush ruleset",
            "delete table inet margay",
            "flush chain inet margay forward",
            "insert rule inet margay forward accept",
            "add set inet margay strange { type mark; }",
        ] {
            driver.apply(&world.wanted, &world.compiler, &world.compiler.everything()).unwrap();
            assert!(driver.verify().unwrap());
            assert!(Command::new("nft").arg(damage).status().unwrap().success());
            assert!(!driver.verify().unwrap(), "{damage}");
            assert_ne!(world.tell(&mut driver).unwrap(), 0, "{damage}");
            assert!(driver.verify().unwrap(), "{damage}");
        }
    });
}

#[test]
fn a_pod_that_comes_changes_its_own_elements_alone() {
    in_new_namespace(|| {
        for policies in POLICIES.into_iter().filter(|policies| !policies.contains("ipBlock")) {
            let mut world = World::new(2, policies);
            let mut driver = world.driver();
            let before = listed();
            world.become_of(3, policies);
            let changes = world.tell(&mut driver).unwrap();
            assert!((3..=10).contains(&changes), "{changes} changes: {policies}");
            world.become_of(2, policies);
            world.tell(&mut driver).unwrap();
            assert_eq!(sorted(&before), sorted(&listed()), "{policies}");
        }
    });
}

#[test]
fn an_operator_can_read_the_table() {
    in_new_namespace(|| {
        let policy = "{metadata: {namespace: x, name: a}, spec: {podSelector: {}, ingress: [{from: [{podSelector: \
                      {matchLabels: {pod: p1}}}], ports: [{port: 80}, {port: 8000, endPort: 9000}]}]}}";
        World::new(2, policy).driver();
        let listing = listed();
        for line in [
            "type ifname . ipv4_addr",
            "type classid . inet_proto . inet_service : classid",
            "type inet_proto . inet_service : verdict",
            "elements = { tcp . 8000-9000 : goto s1_in_tcp_8000 }",
            "meta l4proto . th dport vmap @s1_in_ranges",
            "meta priority set meta priority map @s1_in_tcp_8000_classes goto s1_in_verdict",
            "type filter hook prerouting priority raw; policy accept;",
            "type filter hook forward priority filter; policy accept;",
            "ct state established,related accept",
            "tcp flags != syn / fin,syn,rst,ack ct state new iifname @isolated goto midstream_out",
            "iifname . ip daddr @sources4 accept",
            "ip6 saddr fe80::/10 icmpv6 type @link_types return",
            "iifname \"mgy*\" jump egress",
            "meta priority set ip daddr map @pods4",
            "oifname vmap @ingress",
            "meta priority set meta priority map @s1_in_classes goto s1_in_verdict",
            "goto s1_in_drop",
            "counter name \"s1_in_drop\"",
            "limit rate 100/second burst 100 packets log prefix \"s1_in_drop\" group 28007 snaplen 128",
        ] {
            assert!(listing.lines().any(|found| found.trim() == line), "{line}\n{listing}");
        }
    });
}

#[test]
fn a_look_at_the_table_reads_nothing_as_long_as_nothing_has_changed() {
    in_new_namespace(|| {
        let world = World::new(2, POLICIES[3]);
        let mut driver = world.driver();
        let written = driver.generation;
        assert!(written.is_some());
        assert!(driver.verify().unwrap());
        assert_eq!(driver.generation, written);
        // Somebody else's table is looked past, and that once.
        assert!(Command::new("nft").arg("add table ip others").status().unwrap().success());
        assert!(driver.verify().unwrap());
        assert_eq!(driver.generation, written.map(|generation| generation + 1));
        // One who comes between the look and the next commit is not taken for us.
        assert!(Command::new("nft").arg("add rule inet margay forward accept").status().unwrap().success());
        driver.table().put_counter("more");
        driver.commit().unwrap();
        assert_eq!(driver.generation, None);
        assert!(!driver.verify().unwrap());
        assert_ne!(world.tell(&mut driver).unwrap(), 0);
        assert!(driver.verify().unwrap());
    });
}

#[test]
fn changes_by_others_are_told_from_our_own_by_their_port() {
    in_new_namespace(|| {
        let world = World::new(1, "");
        let mut driver = world.driver();
        let own = driver.connection.as_ref().unwrap().port();
        assert!(driver.heed(&[own].into()));
        assert_eq!(world.tell(&mut driver).unwrap(), 0);
        assert!(!driver.heed(&[own, own + 1].into()));
        assert_ne!(world.tell(&mut driver).unwrap(), 0);
    });
}

#[test]
fn changes_that_nobody_was_told_of_are_our_own_only_where_there_were_no_others() {
    in_new_namespace(|| {
        let world = World::new(2, POLICIES[3]);
        let mut driver = world.driver();
        assert!(driver.heed_missed());
        assert_eq!(world.tell(&mut driver).unwrap(), 0);
        let before = listed();
        // Elements are no part of what a look sees.
        assert!(Command::new("nft").arg("flush set inet margay sources4").status().unwrap().success());
        assert!(!driver.heed_missed());
        assert_ne!(world.tell(&mut driver).unwrap(), 0);
        assert_eq!(sorted(&listed()), sorted(&before));
    });
}
