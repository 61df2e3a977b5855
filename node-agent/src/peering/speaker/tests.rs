//! Rules of whom a node speaks with.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU8,
};

use k8s_openapi::api::core::v1::Secret;
use margay_api::resource::{BGPConfiguration, BGPPeer};
use margay_bgp::config::{AddPathOption, Config, Neighbor};

use super::{Known, Outcome, secrets, speaker};
use crate::{
    config::Bgp,
    decide::{PeerNode, Topology},
    watch::{ConfigurationFacts, PeerFacts, SecretFacts, reading},
};

/// A cluster as the objects of a test describe it; the own node is the first.
#[derive(Default)]
struct Cluster {
    settings: Bgp,
    nodes: Vec<PeerNode>,
    configuration: ConfigurationFacts,
    peers: BTreeMap<String, PeerFacts>,
    secrets: BTreeMap<String, Option<SecretFacts>>,
}

impl Cluster {
    /// Nodes n1, n2, ..., at 192.0.2.1, 192.0.2.2, ..., each with these lines in its metadata.
    fn of(nodes: &[&str]) -> Self {
        let read = |(index, metadata): (usize, &&str)| {
            let address = format!("192.0.2.{}", index + 1);
            let text = format!(
                "{{metadata: {{name: n{}, {metadata}}}, status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}",
                index + 1
            );
            let facts = reading::node(&serde_saphyr::from_str(&text).unwrap());
            PeerNode { addresses: facts.node.addresses, facts: facts.node.bgp, labels: facts.peer.labels }
        };
        Self { nodes: nodes.iter().enumerate().map(read).collect(), ..Self::default() }
    }

    fn configured(mut self, spec: &str) -> Self {
        let text = format!("{{metadata: {{name: default}}, spec: {spec}}}");
        let object: BGPConfiguration = serde_saphyr::from_str(&text).unwrap();
        self.configuration = reading::configuration(&object).unwrap();
        self
    }

    fn peer(mut self, name: &str, spec: &str) -> Self {
        let text = format!("{{metadata: {{name: {name}}}, spec: {spec}}}");
        let object: BGPPeer = serde_saphyr::from_str(&text).unwrap();
        self.peers.insert(name.into(), reading::peer(&object).unwrap());
        self
    }

    fn secret(mut self, name: &str, data: Option<&str>) -> Self {
        let facts = data.map(|data| {
            let object: Secret = serde_saphyr::from_str(&format!("{{data: {data}}}")).unwrap();
            reading::secret(&object).unwrap()
        });
        self.secrets.insert(name.into(), facts);
        self
    }

    /// What the node with this number is told, from 1.
    fn outcome(&self, number: usize) -> Outcome {
        let topology = self.topology(number);
        let known = Known {
            settings: &self.settings,
            topology: &topology,
            configuration: &self.configuration,
            peers: &self.peers,
            secrets: &self.secrets,
            services: BTreeSet::from(["10.96.0.0/12".parse().unwrap()]),
        };
        let outcome = speaker(&known).unwrap();
        // Whatever the objects say, the speaker takes it.
        outcome.config.check().unwrap();
        outcome
    }

    fn topology(&self, number: usize) -> Topology {
        let named =
            self.nodes.iter().enumerate().map(|(index, node)| (format!("n{}", index + 1), node.clone()));
        let mut others: BTreeMap<String, PeerNode> = named.collect();
        let name = format!("n{number}");
        let own = others.remove(&name).unwrap();
        Topology { name, uid: "u".into(), own, others, blocks: vec!["10.0.0.0/24".parse().unwrap()] }
    }

    fn config(&self, number: usize) -> Config {
        let Outcome { config, problems } = self.outcome(number);
        assert!(problems.is_empty(), "{problems:?}");
        config
    }

    /// The last octets of the neighbours' addresses.
    fn neighbors(&self, number: usize) -> Vec<u8> {
        let last =
            |neighbor: &Neighbor| neighbor.address.to_string().rsplit('.').next().unwrap().parse().unwrap();
        self.config(number).neighbors.iter().map(last).collect()
    }
}

fn neighbor(config: &Config, address: &str) -> Neighbor {
    let address: std::net::IpAddr = address.parse().unwrap();
    config.neighbors.iter().find(|neighbor| neighbor.address == address).unwrap().clone()
}

const REFLECTOR: &str = "labels: {margay.dev/route-reflector: '1'}";

#[test]
fn without_objects_the_settings_count_and_with_them_field_by_field_the_objects() {
    let mut cluster = Cluster::of(&["", ""]);
    let yaml = "{asn: 64500, holdTime: 30, peers: [{address: 198.51.100.1, asn: 64501}]}";
    cluster.settings = serde_saphyr::from_str(yaml).unwrap();
    let config = cluster.config(1);
    assert_eq!((config.asn.number(), config.hold_time.seconds(), config.listen[0].port()), (64500, 30, 179));
    assert_eq!(config.router_id.to_string(), "192.0.2.1");
    assert_eq!(neighbor(&config, "198.51.100.1").remote_as.number(), 64501);
    let mesh = neighbor(&config, "192.0.2.2");
    assert_eq!((mesh.remote_as.number(), mesh.local_address), (64500, Some("192.0.2.1".parse().unwrap())));
    assert_eq!((mesh.export, mesh.ttl), (None, None));
    let networks: Vec<_> = config.networks.iter().map(|it| (it.prefix.to_string(), it.blackhole)).collect();
    assert_eq!(networks, [("10.0.0.0/24".to_owned(), true), ("10.96.0.0/12".to_owned(), false)]);

    let cluster = cluster
        .configured(
            "{asn: 64510, listenPort: 1179, mesh: Disabled, gracefulRestart: {restartTimeSeconds: 60}}",
        )
        .peer("again", "{address: 198.51.100.1, asn: 64502, port: 2179, holdTimeSeconds: 9}");
    let config = cluster.config(1);
    assert_eq!((config.asn.number(), config.hold_time.seconds(), config.listen[0].port()), (64510, 30, 1179));
    assert_eq!(config.neighbors.len(), 1);
    let peer = neighbor(&config, "198.51.100.1");
    assert_eq!((peer.remote_as.number(), peer.port, peer.hold_time.unwrap().seconds()), (64502, 2179, 9));
    assert_eq!((peer.graceful_restart.restart_time, peer.bfd), (60, None));
    let mut cluster = cluster.configured("{bfd: {intervalMilliseconds: 50}}");
    cluster.peers.clear();
    let bfd = neighbor(&cluster.config(1), "192.0.2.2").bfd.unwrap();
    assert_eq!((bfd.min_tx, bfd.min_rx, bfd.multiplier, bfd.multihop), (50, 50, 3, None));
    let cluster = cluster.configured("{bfd: {multihop: false}}");
    assert_eq!(neighbor(&cluster.config(1), "192.0.2.2").bfd.unwrap().multihop, Some(false));
}

#[test]
fn reflectors_take_the_place_of_the_mesh_or_stand_beside_it() {
    let nodes = ["", "", REFLECTOR, REFLECTOR];
    for (mesh, of_client, of_reflector) in [
        ("{}", vec![3, 4], vec![1, 2, 4]),
        ("{mesh: Auto}", vec![3, 4], vec![1, 2, 4]),
        ("{mesh: Disabled}", vec![3, 4], vec![1, 2, 4]),
        ("{mesh: Full}", vec![2, 3, 4], vec![1, 2, 4]),
    ] {
        let cluster = Cluster::of(&nodes).configured(mesh);
        assert_eq!(cluster.neighbors(1), of_client, "{mesh}");
        assert_eq!(cluster.neighbors(3), of_reflector, "{mesh}");
        let config = cluster.config(3);
        assert_eq!(config.cluster_id, Some("0.0.0.1".parse().unwrap()));
        let clients: Vec<bool> = config.neighbors.iter().map(|it| it.route_reflector_client).collect();
        assert_eq!(clients, [true, true, false], "{mesh}");
        assert!(cluster.config(1).neighbors.iter().all(|it| !it.route_reflector_client));
    }
    assert_eq!(Cluster::of(&["", "", ""]).neighbors(1), [2, 3]);
    assert_eq!(Cluster::of(&["", "", ""]).configured("{mesh: Disabled}").neighbors(1), [0_u8; 0]);
}

#[test]
fn nodes_of_different_ases_meet_and_reflect_for_their_own_only() {
    let other = "annotations: {margay.dev/bgp-asn: '64513', margay.dev/bgp-router-id: 203.0.113.9}";
    let cluster = Cluster::of(&[REFLECTOR, other, ""]);
    let config = cluster.config(1);
    let foreign = neighbor(&config, "192.0.2.2");
    assert_eq!(
        (foreign.remote_as.number(), foreign.ttl, foreign.route_reflector_client),
        (64513, Some(64), false)
    );
    assert!(neighbor(&config, "192.0.2.3").route_reflector_client);
    let config = cluster.config(2);
    assert_eq!((config.asn.number(), config.router_id.to_string()), (64513, "203.0.113.9".into()));
    assert_eq!(neighbor(&config, "192.0.2.1").remote_as.number(), 64512);
}

#[test]
fn services_are_told_to_reflectors_and_routers_and_hidden_from_nodes() {
    let services = "{serviceAddresses: {clusterIPs: [10.96.0.0/12], loadBalancerIPs: [0.0.0.0/0]}}";
    let cluster = Cluster::of(&["", "", REFLECTOR])
        .configured(services)
        .peer("tor", "{address: 198.51.100.1, asn: 64501}");
    let config = cluster.config(1);
    assert_eq!(neighbor(&config, "192.0.2.3").export, None);
    assert_eq!(neighbor(&config, "198.51.100.1").export, None);
    let config = cluster.config(3);
    assert_eq!(neighbor(&config, "192.0.2.1").export.as_deref(), Some("to-nodes"));
    let list: Vec<_> =
        config.prefix_lists["services"].iter().map(|it| (it.prefix.to_string(), it.ge)).collect();
    // Never a block of pods.
    assert_eq!(
        list,
        [
            ("10.96.0.0/12".to_owned(), None),
            ("10.96.0.0/12".into(), Some(32)),
            ("0.0.0.0/0".into(), Some(32))
        ]
    );
}

#[test]
fn a_selector_of_nodes_gives_both_ends_their_session() {
    let cluster = Cluster::of(&["labels: {rack: a}", "labels: {rack: b}", "labels: {rack: b}", ""])
        .configured("{mesh: Disabled}")
        .peer(
            "racks",
            "{nodeSelector: {matchLabels: {rack: a}}, peerSelector: {matchLabels: {rack: b}}, \
             routeReflectorClient: true, nextHopSelf: true, holdTimeSeconds: 9}",
        );
    assert_eq!(cluster.neighbors(1), [2, 3]);
    assert_eq!(cluster.neighbors(2), [1]);
    assert_eq!(cluster.neighbors(4), [0_u8; 0]);
    let own = neighbor(&cluster.config(1), "192.0.2.2");
    assert!(own.route_reflector_client);
    assert_eq!(own.export.as_deref(), Some("bgppeer-racks-export"));
    let other = neighbor(&cluster.config(2), "192.0.2.1");
    assert!(!other.route_reflector_client);
    assert_eq!((other.export, other.hold_time), (None, own.hold_time));
}

#[test]
fn several_paths_go_the_way_that_the_nodes_of_the_node_selector_see() {
    let spec = "{nodeSelector: {matchLabels: {rack: a}}, peerSelector: {matchLabels: {rack: b}}, \
                addPath: {direction: Send, sendLimit: 4}, bfd: {multihop: true}}";
    let cluster = Cluster::of(&["labels: {rack: a}", "labels: {rack: b}"]).peer("racks", spec);
    let (sender, receiver) =
        (neighbor(&cluster.config(1), "192.0.2.2"), neighbor(&cluster.config(2), "192.0.2.1"));
    assert_eq!([sender.add_path, receiver.add_path], [AddPathOption::Send, AddPathOption::Receive]);
    assert_eq!([sender.add_path_limit, receiver.add_path_limit], [NonZeroU8::new(4), None]);
    assert_eq!([sender.bfd.unwrap().multihop, receiver.bfd.unwrap().multihop], [Some(true); 2]);
}

#[test]
fn a_password_is_waited_for_and_one_that_is_not_there_is_named() {
    let spec = "{address: 198.51.100.1, asn: 64501, password: {secretKeyRef: {name: margay-bgp, key: tor}}}";
    let cluster = Cluster::of(&[""]).peer("tor", spec).peer("plain", "{address: 198.51.100.2, asn: 64501}");
    assert_eq!(secrets(&cluster.topology(1), &cluster.peers), BTreeSet::from(["margay-bgp".to_owned()]));
    assert_eq!(cluster.neighbors(1), [2], "not listed yet");
    let cluster = cluster.secret("margay-bgp", Some("{tor: czNjcmV0}"));
    assert_eq!(neighbor(&cluster.config(1), "198.51.100.1").password.unwrap().0, "s3cret");
    for (data, words) in [
        (None, "there is no Secret margay-bgp"),
        (Some("{}"), "Secret margay-bgp has no entry `tor`"),
        (Some("{tor: eAo=}"), "line break"),
    ] {
        let Cluster { settings, nodes, peers, .. } =
            Cluster::of(&[""]).peer("tor", spec).peer("plain", "{address: 198.51.100.2, asn: 64501}");
        let cluster = Cluster { settings, nodes, peers, ..Cluster::default() }.secret("margay-bgp", data);
        let Outcome { config, problems } = cluster.outcome(1);
        assert_eq!(config.neighbors.len(), 1, "{words}");
        assert!(
            problems[0].starts_with("BGPPeer tor: spec.password: ") && problems[0].contains(words),
            "{problems:?}"
        );
    }
}

#[test]
fn what_is_wrong_with_one_peer_costs_no_other() {
    let cluster = Cluster::of(&["labels: {rack: a}", ""])
        .peer("a", "{address: 198.51.100.1, asn: 64501}")
        .peer("b", "{address: 198.51.100.1, asn: 64502}")
        .peer("c", "{address: 198.51.100.3, asn: 64501, routeReflectorClient: true}")
        .peer("d", "{address: 198.51.100.4, asn: 64501, import: {rules: [{action: Accept, match: {prefixes: [{cidr: 10.0.0.0/8, ge: 4}]}}]}}")
        .peer("e", "{address: 0.0.0.0, asn: 64501}")
        .peer("f", "{address: 198.51.100.6, asn: 64501, ttl: 2, ttlSecurity: 1}")
        .peer("g", "{asn: 64501, nodeSelector: {matchLabels: {rack: b}}}");
    let Outcome { config, problems } = cluster.outcome(1);
    assert_eq!(neighbor(&config, "198.51.100.1").remote_as.number(), 64501);
    let addresses: Vec<String> = config.neighbors.iter().map(|it| it.address.to_string()).collect();
    // An invalid `ttl` beside `ttlSecurity` is left out, as the object's rule says; a rule that cannot be read costs no session.
    assert_eq!(addresses, ["192.0.2.2", "198.51.100.1", "198.51.100.4", "198.51.100.6"]);
    for words in [
        "BGPPeer b: 198.51.100.1 is with BGPPeer a; the first by name counts",
        "BGPPeer c: route_reflector_client: 198.51.100.3 is not in AS 64512",
        "BGPPeer d: spec.import.rules[0]: match.prefixes: 10.0.0.0/8",
        "BGPPeer e: address: 0.0.0.0",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(words)), "{words}: {problems:?}");
    }
    assert_eq!(problems.len(), 4, "{problems:?}");
}

#[test]
fn no_plain_session_takes_the_place_of_an_unusable_one() {
    let to_b = |rest: &str| format!("{{peerSelector: {{matchLabels: {{rack: b}}}}, {rest}}}");
    let signed = to_b("password: {secretKeyRef: {name: margay-bgp, key: mesh}}");
    let refused = to_b(
        "import: {rules: [{action: Accept, match: {prefixes: [{cidr: 10.0.0.0/8, ge: 4}]}}]}, ttlSecurity: 255",
    );
    for (spec, secret) in [
        (signed.clone(), None),
        (signed.clone(), Some(None)),
        (signed.clone(), Some(Some("{}"))),
        (signed, Some(Some("{mesh: eAo=}"))),
        (refused, None),
        (to_b("holdTimeSeconds: 1"), None),
        (to_b("nodeSelector: {matchExpressions: [{key: a, operator: Near}]}"), None),
    ] {
        for mesh in ["{mesh: Auto}", "{mesh: Full}"] {
            let mut cluster = Cluster::of(&["", "labels: {rack: b}", ""])
                .configured(mesh)
                .peer("first", &spec)
                // Nor does another object.
                .peer("second", &to_b("passive: true"));
            cluster.settings.peers = serde_saphyr::from_str(
                "[{address: 192.0.2.2, asn: 64501}, {address: 192.0.2.1, asn: 64501}]",
            )
            .unwrap();
            if let Some(data) = secret {
                cluster = cluster.secret("margay-bgp", data);
            }
            // The own address as a router of the file is nobody's but the file's.
            for (number, expected) in
                [(1, ["192.0.2.1", "192.0.2.3"].as_slice()), (2, ["192.0.2.2"].as_slice())]
            {
                let Outcome { config, problems } = cluster.outcome(number);
                let found: Vec<_> = config.neighbors.iter().map(|it| it.address.to_string()).collect();
                assert_eq!(found, expected, "node {number}, {mesh}: {spec}: {problems:?}");
            }
        }
    }
}

#[test]
fn a_malformed_router_is_no_router_of_the_file_instead() {
    let mut cluster =
        Cluster::of(&[""]).peer("tor", "{address: 198.51.100.1, asn: 64501, holdTimeSeconds: 1}");
    cluster.settings.peers =
        serde_saphyr::from_str("[{address: 198.51.100.1, asn: 64501}, {address: 198.51.100.2, asn: 64501}]")
            .unwrap();
    let addresses: Vec<_> =
        cluster.outcome(1).config.neighbors.iter().map(|it| it.address.to_string()).collect();
    assert_eq!(addresses, ["198.51.100.2"]);
}

#[test]
fn an_address_that_no_router_can_have_costs_its_own_session_alone() {
    for wrong in ["fe80::2", "0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
        let mut cluster = Cluster::of(&["", "", ""]);
        cluster.settings.peers =
            serde_saphyr::from_str(&format!("[{{address: '{wrong}', asn: 64501}}]")).unwrap();
        cluster.nodes[0].addresses.push("2001:db8::1".parse().unwrap());
        cluster.nodes[1].addresses = vec![wrong.parse().unwrap()];
        let Outcome { config, problems } = cluster.outcome(1);
        let addresses: Vec<_> = config.neighbors.iter().map(|it| it.address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.3"], "{wrong}");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("bgp.peers[0] of the agent's file: "), "{problems:?}");
        assert!(problems[1].starts_with("node n2: "), "{problems:?}");
        assert!(problems.iter().all(|problem| problem.contains(wrong)), "{problems:?}");
    }
}

#[test]
fn both_ends_follow_the_first_of_two_peers_by_name() {
    let cluster = Cluster::of(&["labels: {rack: a}", "labels: {rack: b}"])
        .peer(
            "b",
            "{nodeSelector: {matchLabels: {rack: a}}, peerSelector: {matchLabels: {rack: b}}, holdTimeSeconds: 30}",
        )
        .peer(
            "a",
            "{nodeSelector: {matchLabels: {rack: b}}, peerSelector: {matchLabels: {rack: a}}, holdTimeSeconds: 9}",
        );
    for (number, address) in [(1, "192.0.2.2"), (2, "192.0.2.1")] {
        let Outcome { config, problems } = cluster.outcome(number);
        assert_eq!(neighbor(&config, address).hold_time.unwrap().seconds(), 9, "node {number}");
        assert_eq!(problems, [format!("BGPPeer b: {address} is with BGPPeer a; the first by name counts")]);
    }
}

#[test]
fn next_hops_may_be_behind_the_default_route() {
    assert!(Cluster::of(&[REFLECTOR, ""]).config(1).kernel.resolve_via_default);
}

#[test]
fn announcements_come_before_filters_and_next_hop_self_in_between() {
    let cluster = Cluster::of(&[""])
        .configured("{announcements: [{cidr: 10.0.0.0/8, communities: ['64512:1'], localPreference: 50}]}")
        .peer("a", "{address: 198.51.100.1, asn: 64501}")
        .peer(
            "b",
            "{address: 198.51.100.2, asn: 64501, nextHopSelf: true, export: {rules: [{name: own, match: {source: Local}, action: Accept}]}}",
        );
    let config = cluster.config(1);
    let names = |policy: &str| -> Vec<String> {
        config.policies[policy].terms.iter().map(|term| term.name.clone().unwrap()).collect()
    };
    assert_eq!(neighbor(&config, "198.51.100.1").export.as_deref(), Some("announced"));
    assert_eq!(names("announced"), ["announcements[0]"]);
    assert_eq!(names("bgppeer-b-export"), ["announcements[0]", "next hop self", "own"]);
}

#[test]
fn the_examples_do_what_they_say() {
    let file = |text: &str| -> Vec<serde_json::Value> { serde_saphyr::from_multiple(text).unwrap() };
    let spec = |text: &str, index: usize| file(text)[index]["spec"].to_string();
    let [configuration, router, nodes] = [
        include_str!("../../../../manifests/examples/bgp/configuration.yaml"),
        include_str!("../../../../manifests/examples/bgp/router.yaml"),
        include_str!("../../../../manifests/examples/bgp/nodes.yaml"),
    ];
    let border = "labels: {site: berlin, role: border, rack: '7'}";
    let cluster = Cluster::of(&[border, "labels: {site: berlin, role: worker}", ""])
        .configured(&spec(configuration, 0))
        .peer("rack-7", &spec(router, 1))
        .peer("berlin", &spec(nodes, 0))
        .secret("margay-bgp", Some("{rack-7: Y2hhbmdlIG1l}"));
    let config = cluster.config(1);
    let router = neighbor(&config, "198.51.100.1");
    assert_eq!((router.ttl_security, router.password.unwrap().0), (Some(1), "change me".to_owned()));
    assert_eq!(config.policies["bgppeer-rack-7-export"].terms.len(), 2);
    assert!(neighbor(&config, "192.0.2.2").route_reflector_client);
    assert_eq!(cluster.neighbors(2), [1, 3]);
    assert_eq!(config.hold_time.seconds(), 30);
}
