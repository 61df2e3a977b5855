use super::*;

const SMALL: &str = "asn: 64500\nrouter_id: 192.0.2.1\n";

#[test]
fn defaults_fill_what_is_left_out() {
    let config = Config::from_yaml(SMALL).unwrap();
    assert_eq!(config, Config::new(config.asn, config.router_id));
    let neighbor = "neighbors: [{address: 192.0.2.2, remote_as: 64501}]";
    let config = Config::from_yaml(&format!("{SMALL}{neighbor}")).unwrap();
    let expected = Neighbor::new("192.0.2.2".parse().unwrap(), Asn::new(64501).unwrap());
    assert_eq!(config.neighbors, [expected]);
    assert_eq!(config.check().unwrap().neighbors[&config.neighbors[0].address].ttl, 1);
}

#[test]
fn yaml_and_json_carry_the_same() {
    let mut config = Config::from_yaml(SMALL).unwrap();
    config.networks = vec![Network::from("198.51.100.0/24".parse::<Prefix>().unwrap())];
    config.neighbors = vec![Neighbor::new("2001:db8::2".parse().unwrap(), config.asn)];
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    assert_eq!(Config::from_yaml(&json).unwrap(), config);
}

#[test]
fn another_cluster_takes_another_session_inside_the_as_and_none_outside() {
    let config = |cluster: &str| {
        let neighbors =
            "neighbors: [{address: 192.0.2.2, remote_as: 64500}, {address: 192.0.2.3, remote_as: 64501}]";
        let text = format!("{SMALL}cluster_id: {cluster}\n{neighbors}");
        Config::from_yaml(&text).unwrap().check().unwrap().neighbors
    };
    let (before, after) = (config("192.0.2.1"), config("192.0.2.9"));
    let same: Vec<bool> =
        before.values().zip(after.values()).map(|(before, after)| after.has_session_of(before)).collect();
    assert_eq!(same, [false, true]);
}

#[test]
fn bfd_is_for_one_hop_where_the_session_is() {
    let cases = [
        ("remote_as: 64501, bfd: {}", Hops::One),
        ("remote_as: 64501, ttl: 2, bfd: {}", Hops::Several),
        ("remote_as: 64501, ttl_security: 1, bfd: {}", Hops::One),
        ("remote_as: 64501, ttl_security: 2, bfd: {}", Hops::Several),
        ("remote_as: 64500, bfd: {}", Hops::Several),
        ("remote_as: 64500, bfd: {multihop: false}", Hops::One),
        ("remote_as: 64501, bfd: {multihop: true}", Hops::Several),
    ];
    for (neighbor, hops) in cases {
        let text = format!("{SMALL}neighbors: [{{address: 192.0.2.2, {neighbor}}}]");
        let checked = Config::from_yaml(&text).unwrap().check().unwrap();
        let bfd = checked.neighbors.values().next().unwrap().bfd.unwrap();
        assert_eq!(bfd.hops, hops, "{neighbor}");
    }
}

#[test]
fn another_bfd_interval_takes_no_other_session() {
    let neighbor = |bfd: &str| {
        let text = format!("{SMALL}neighbors: [{{address: 192.0.2.2, remote_as: 64501{bfd}}}]");
        Config::from_yaml(&text).unwrap().check().unwrap().neighbors.into_values().next().unwrap()
    };
    let (off, slow) = (neighbor(""), neighbor(", bfd: {min_tx: 1000}"));
    assert!(slow.has_session_of(&off));
    assert!(neighbor(", bfd: {}").has_session_of(&slow));
}

#[test]
fn errors_say_where_and_what() {
    let cases = [
        ("colour: red", "colour"),
        ("hold_time: 2", "hold time 2 s"),
        ("networks: [{prefix: 192.0.2.1/24}]", "did you mean 192.0.2.0/24"),
        ("neighbors: [{address: 192.0.2.2, remote_as: 0}]", "AS number `0`"),
        ("neighbors: [{address: 192.0.2.2, remote_as: 1, port: 0}]", "neighbors[0].port: 0"),
        ("neighbors: [{address: 192.0.2.2, remote_as: 1, families: []}]", "neighbors[0].families"),
        ("neighbors: [{address: fe80::1, remote_as: 1}]", "neighbors[0].interface: is missing"),
        (
            "neighbors: [{address: 192.0.2.2, interface: eth0, remote_as: 1}]",
            "neighbors[0].interface: 192.0.2.2 is not link-local",
        ),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, ttl: 2, ttl_security: 1}]",
            "neighbors[0].ttl: is 255",
        ),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, ttl_security: 255}]",
            "neighbors[0].ttl_security: 255",
        ),
        ("neighbors: [{address: 192.0.2.2, remote_as: 1, password: ''}]", "neighbors[0].password: 0"),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, graceful_restart: {restart_time: 4096}}]",
            "neighbors[0].graceful_restart.restart_time: 4096 s",
        ),
        (
            "dynamic_neighbors: [{prefix: 192.0.2.0/24, remote_as: 1, limit: 0}]",
            "dynamic_neighbors[0].limit: 0",
        ),
        (
            "dynamic_neighbors: [{prefix: 192.0.2.0/24, remote_as: 1, families: []}]",
            "dynamic_neighbors[0].families",
        ),
        ("deferral_time: 3601", "deferral_time: 3601 s"),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, bfd: {min_tx: 9}}]",
            "neighbors[0].bfd.min_tx: 9 ms",
        ),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, bfd: {multiplier: 0}}]",
            "neighbors[0].bfd.multiplier: 0",
        ),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1}, {address: 192.0.2.2, remote_as: 2}]",
            "neighbors[1].address: 192.0.2.2 is there twice",
        ),
        ("import: x", "import: there is no policy `x`"),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, export: x}]",
            "neighbors[0].export: there is no policy `x`",
        ),
        (
            "policies: {p: {terms: [{match: {prefix: [l]}, then: accept}]}}",
            "policies.p.terms[0].match.prefix[0]: there is no prefix list `l`",
        ),
        ("prefix_lists: {l: [{prefix: 10.0.0.0/8, le: 7}]}", "prefix_lists.l[0]: 10.0.0.0/8: expected 8"),
        ("policies: {p: {terms: [{match: {communities: ['1:2:3:4']}, then: next}]}}", "community `1:2:3:4`"),
        (
            "import: p\npolicies: {p: {terms: [{set: {next_hop: self}, then: accept}]}}",
            "import: policy `p` sets next_hop self",
        ),
        ("kernel: {protocol: 2}", "kernel.protocol: 2"),
        ("connect_retry: 0", "connect_retry: 0 s"),
        ("decision: {external_paths: 0}", "decision.external_paths: 0"),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, route_reflector_client: true}]",
            "neighbors[0].route_reflector_client: 192.0.2.2 is not in AS 64500",
        ),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, max_prefixes: {limit: 9, warn_percent: 0}}]",
            "neighbors[0].max_prefixes.warn_percent: 0",
        ),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, max_prefixes: {limit: 9, restart_time: 0}}]",
            "neighbors[0].max_prefixes.restart_time: 0 s: expected 1 to 86400",
        ),
        (
            "neighbors: [{address: 192.0.2.2, remote_as: 1, max_prefixes: {limit: 9, action: idle, restart_time: 9}}]",
            "neighbors[0].max_prefixes.restart_time: the action is not `restart`",
        ),
    ];
    refuses(&cases);
}

#[test]
fn errors_about_collectors_say_where_and_what() {
    refuses(&[
        ("bmp: {sys_name: ''}", "bmp.sys_name: 0 octets"),
        ("bmp: {collectors: [{address: 192.0.2.9}]}", "invalid socket address"),
        (
            "bmp: {collectors: [{address: '0.0.0.0:1790'}]}",
            "bmp.collectors[0].address: 0.0.0.0 is no address",
        ),
        (
            "bmp: {collectors: [{address: '192.0.2.9:0'}]}",
            "bmp.collectors[0].address: 192.0.2.9:0: expected a port",
        ),
        (
            "bmp: {collectors: [{address: '192.0.2.9:1790'}, {address: '192.0.2.9:1790'}]}",
            "bmp.collectors[1].address: 192.0.2.9:1790 is there twice",
        ),
        (
            "bmp: {collectors: [{address: '192.0.2.9:1790', local_address: '2001:db8::1'}]}",
            "bmp.collectors[0].local_address: 2001:db8::1 is of another family",
        ),
        (
            "bmp: {collectors: [{address: '192.0.2.9:1790', routes: []}]}",
            "bmp.collectors[0].routes: is empty",
        ),
        ("bmp: {collectors: [{address: '192.0.2.9:1790', routes: [all]}]}", "unknown variant"),
        (
            "bmp: {collectors: [{address: '192.0.2.9:1790', statistics_interval: 4}]}",
            "bmp.collectors[0].statistics_interval: 4 s",
        ),
        (
            "bmp: {collectors: [{address: '192.0.2.9:1790', connect_retry: 721}]}",
            "bmp.collectors[0].connect_retry: 721 s",
        ),
    ]);
}

fn refuses(cases: &[(&str, &str)]) {
    for (line, expected) in cases {
        let result = Config::from_yaml(&format!("{SMALL}{line}")).and_then(|config| config.check());
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}
