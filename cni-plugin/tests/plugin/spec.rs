//! Every verb in every version against what the CNI specification says of it, as tables.
//!
//! The inputs have the shapes of the specification's examples (1.1.0, "Appendix: Examples", and their like in the
//! texts of 0.3.0 to 1.0.0).

use std::{fs, os::unix::net::UnixListener};

use margay_api::{agent::Response, endpoint::EndpointId, paths};
use margay_ipam::Owner;
use margay_netlink::{
    Socket, addr,
    link::{self, IfName},
    neigh,
    route::{self, Filter, Protocol},
};
use serde_json::{Value, json};

use crate::node::{Call, DUAL, Node, Pod, on_node};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What must come of a call.
enum Expected {
    /// Success without a word.
    Silence,
    /// Success with exactly this.
    Output(Value),
    /// This code, and a message or details with all of these words.
    Error(u64, &'static [&'static str]),
}

use Expected::{Error, Output, Silence};

/// Runs a call and compares.
fn check(case: &str, call: &Call, expected: &Expected) {
    let outcome = call.run();
    match (expected, &outcome) {
        (Silence, Ok(Value::Null)) => {}
        (Output(wanted), Ok(found)) => assert_eq!(found, wanted, "{case}"),
        (Error(code, words), Err(error)) => {
            assert_eq!(error["code"], *code, "{case}: {error}");
            let text = ["msg", "details"].map(|key| error[key].as_str().unwrap_or_default()).join(" ");
            for word in *words {
                assert!(text.contains(word), "{case}: `{word}` is not in {error}");
            }
            let asked = call.config["cniVersion"].as_str().filter(|asked| VERSIONS.contains(asked));
            assert_eq!(error["cniVersion"], asked.unwrap_or("1.1.0"), "{case}: {error}");
            let fields = error.as_object().unwrap().keys();
            let known = ["cniVersion", "code", "msg", "details"];
            assert!(fields.clone().all(|key| known.contains(&key.as_str())), "{case}: {error}");
        }
        _ => panic!("{case}: {outcome:?}"),
    }
}

fn is_at_least(version: &str, since: &str) -> bool {
    let place = |text| VERSIONS.iter().position(|version| *version == text);
    place(version) >= place(since)
}

/// The result of the first ADD on a node, as the text of each version has it.
fn result(version: &str, pod: &Pod) -> Value {
    let id = EndpointId::of(&pod.id, "eth0");
    let mut result = json!({
        "cniVersion": version,
        "interfaces": [
            {"name": id.host_ifname(), "mac": host_mac(&id)},
            {"name": "eth0", "mac": pod_mac(&id), "sandbox": pod.path()},
        ],
        "ips": [
            {"address": "192.0.2.1/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "2001:db8:7::1/128", "gateway": "fe80::1", "interface": 1},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::1"},
        ],
    });
    if is_at_least(version, "1.1.0") {
        for interface in result["interfaces"].as_array_mut().unwrap() {
            interface["mtu"] = json!(1400);
        }
    }
    if !is_at_least(version, "1.0.0") {
        for (ip, family) in result["ips"].as_array_mut().unwrap().iter_mut().zip(["4", "6"]) {
            ip["version"] = json!(family);
        }
    }
    result
}

fn pod_mac(id: &EndpointId) -> String {
    mac(id, 0)
}

fn host_mac(id: &EndpointId) -> String {
    mac(id, 0xff)
}

/// A locally administered unicast address made of the endpoint's digits.
fn mac(id: &EndpointId, last: u8) -> String {
    let mut octets: Vec<u8> =
        (0..6).map(|n| u8::from_str_radix(&id.as_str()[2 * n..2 * n + 2], 16).unwrap()).collect();
    octets[0] = octets[0] & 0xfc | 2;
    octets[5] ^= last;
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

#[test]
fn every_verb_answers_in_every_version_as_its_text_says() {
    for version in VERSIONS {
        on_node(DUAL, Some(Response::Done), |node| {
            let pod = Pod::new("c1");
            let previous = json!({"prevResult": result(version, &pod)});
            let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
            let supported = json!({"cniVersion": version, "supportedVersions": VERSIONS});
            let since = |first: &str, silence| {
                if is_at_least(version, first) { silence } else { Error(1, &["came with version"]) }
            };
            let none = json!({});
            for (verb, more, expected) in [
                ("VERSION", &none, Output(supported)),
                ("STATUS", &none, since("1.1.0", Silence)),
                ("ADD", &none, Output(result(version, &pod))),
                ("CHECK", &previous, since("0.4.0", Silence)),
                ("CHECK", &none, since("0.4.0", Error(7, &["prevResult"]))),
                ("GC", &json!({"cni.dev/valid-attachments": valid}), since("1.1.0", Silence)),
                ("GC", &json!({"cni.dev/attachments": valid}), since("1.1.0", Silence)),
                ("GC", &none, since("1.1.0", Error(7, &["cni.dev/valid-attachments"]))),
                ("ADD", &none, Error(4, &["DEL must come before"])),
                ("DEL", &previous, Silence),
                ("DEL", &none, Silence),
            ] {
                check(
                    &format!("{verb} {version} {more}"),
                    &node.prepare(verb, version, &pod).configured(more),
                    &expected,
                );
            }
            assert_eq!(node.left(), (0, 0, 0), "{version}");
        });
    }
}

#[test]
fn a_version_that_is_not_spoken_is_refused_with_code_1_by_all_verbs_but_version() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        for version in [json!("0.1.0"), json!("0.2.0"), json!("1.2.0"), json!("x"), json!(null)] {
            for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
                let call = node.prepare(verb, "1.1.0", &pod).configured(&json!({"cniVersion": version}));
                check(&format!("{verb} {version}"), &call, &Error(1, &["0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"]));
            }
            let call = node.prepare("VERSION", "1.1.0", &pod).configured(&json!({"cniVersion": version}));
            check(
                "VERSION",
                &call,
                &Output(
                    json!({"cniVersion": version.as_str().unwrap_or("1.1.0"), "supportedVersions": VERSIONS}),
                ),
            );
        }
        assert_eq!(node.left(), (0, 0, 0));
    });
}

/// The result of the specification's `bridge` plugin, with the fields that came with 1.1.0 and one that nobody knows.
fn bridged(version: &str) -> Value {
    let mut result = json!({
        "cniVersion": version,
        "interfaces": [
            {"name": "cni0", "mac": "00:11:22:33:44:55"},
            {"name": "net0", "mac": "99:88:77:66:55:44", "sandbox": "/var/run/netns/blue"},
        ],
        "ips": [{"address": "198.51.100.5/16", "gateway": "198.51.100.1", "interface": 1}],
        "routes": [{"dst": "203.0.113.0/24"}],
        "dns": {"nameservers": ["198.51.100.1"]},
        "vendor": {"any": [1, 2]},
    });
    if is_at_least(version, "1.1.0") {
        result["interfaces"][1]["socketPath"] = json!("/run/x.sock");
        result["interfaces"][1]["pciID"] = json!("8086:9a01");
        result["routes"][0]["priority"] = json!(7);
    }
    if !is_at_least(version, "1.0.0") {
        result["ips"][0]["version"] = json!("4");
    }
    result
}

#[test]
fn behind_another_plugin_all_of_its_result_is_passed_on_and_ours_points_to_our_interfaces() {
    for version in VERSIONS {
        on_node(DUAL, Some(Response::Done), |node| {
            let pod = Pod::new("c1");
            let own = result(version, &pod);
            let mut wanted = bridged(version);
            for key in ["interfaces", "ips", "routes"] {
                let entries = own[key].as_array().unwrap().iter().cloned();
                wanted[key].as_array_mut().unwrap().extend(entries);
            }
            for ip in &mut wanted["ips"].as_array_mut().unwrap()[1..] {
                ip["interface"] = json!(3);
            }
            let previous = json!({"prevResult": bridged(version)});
            let add = node.prepare("ADD", version, &pod).configured(&previous);
            check(&format!("ADD {version}"), &add, &Output(wanted.clone()));
            for verb in ["CHECK", "DEL"] {
                if verb == "DEL" || is_at_least(version, "0.4.0") {
                    let call = node.prepare(verb, version, &pod).configured(&json!({"prevResult": wanted}));
                    check(&format!("{verb} {version}"), &call, &Silence);
                }
            }
        });
    }
}

#[test]
fn the_dns_of_the_configuration_is_in_the_result() {
    on_node(DUAL, Some(Response::Done), |node| {
        let dns = json!({
            "nameservers": ["192.0.2.53", "2001:db8::53"],
            "domain": "example.org",
            "search": ["a.example.org"],
            "options": ["ndots:5"],
        });
        for (id, previous) in [("alone", json!(null)), ("behind", bridged("1.1.0"))] {
            let more = json!({"dns": dns, "prevResult": previous});
            let found = node.call("ADD", &Pod::new(id), &more).unwrap();
            assert_eq!(found["dns"], dns);
        }
        let found = node.call("ADD", &Pod::new("kept"), &json!({"prevResult": bridged("1.1.0")})).unwrap();
        assert_eq!(found["dns"], bridged("1.1.0")["dns"]);
    });
}

#[test]
fn errors_have_the_code_of_the_specification_and_say_what_is_wrong() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let call = |verb| node.prepare(verb, "1.1.0", &pod);
        let add = |more: Value| call("ADD").configured(&more);
        let with = |key: &'static str, value: &str| call("ADD").with(&[(key, value)]);
        let nothing = [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", "")];
        let taken = Pod::new("other");
        node.add(&taken);
        let before = node.left();
        for (call, code, words) in [
            // 1: see above. 2: a field that asks for what is not done here, with its value.
            (add(json!({"bridge": "cni0"})), 2, &["`bridge`", "\"cni0\""][..]),
            (add(json!({"ipam": {"type": "host-local"}})), 2, &["`ipam`", "host-local"]),
            (add(json!({"ipMasq": true})), 2, &["`ipMasq`", "true"]),
            // 3: nothing to take down.
            (with("CNI_NETNS", "/run/netns/no-such"), 3, &["CNI_NETNS", "/run/netns/no-such"]),
            (with("CNI_NETNS", "/etc/passwd"), 3, &["/etc/passwd"]),
            // 4: the environment, with the names of all variables.
            (call("").with(&nothing), 4, &["CNI_COMMAND"]),
            (call("PUT"), 4, &["CNI_COMMAND", "PUT"]),
            (call("ADD").with(&nothing), 4, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            (call("CHECK").with(&nothing), 4, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            (call("DEL").with(&nothing), 4, &["CNI_CONTAINERID, CNI_IFNAME"]),
            (with("CNI_CONTAINERID", "../c1"), 4, &["CNI_CONTAINERID", "../c1"]),
            (with("CNI_IFNAME", "a/b"), 4, &["CNI_IFNAME", "a/b"]),
            (with("CNI_IFNAME", ".."), 4, &["CNI_IFNAME"]),
            (with("CNI_IFNAME", "sixteen-letters-"), 4, &["CNI_IFNAME"]),
            (with("CNI_IFNAME", "lo"), 4, &["lo", "already"]),
            (with("CNI_NETNS", "/proc/thread-self/ns/net"), 4, &["CNI_NETNS", "host's own"]),
            (
                with("CNI_NETNS", "/proc/thread-self/ns/net").with(&[("CNI_NETNS_OVERRIDE", "1")]),
                4,
                &["host's own"],
            ),
            (with("CNI_ARGS", "FOO=BAR;ABC=123"), 4, &["CNI_ARGS", "IgnoreUnknown"]),
            (with("CNI_ARGS", "IgnoreUnknown=1;FOO"), 4, &["CNI_ARGS", "FOO"]),
            (with("CNI_ARGS", "IP=x"), 4, &["CNI_ARGS", "IP"]),
            (with("CNI_ARGS", "MAC=01:00:5e:00:00:01"), 4, &["CNI_ARGS", "MAC", "multicast"]),
            (with("CNI_ARGS", "K8S_POD_NAME=web"), 4, &["K8S_POD_NAMESPACE"]),
            // 6: not of the right form.
            (add(json!({"mtu": "1400"})), 6, &["configuration"]),
            // 7: of the right form, and wrong.
            (add(json!({"name": null})), 7, &["name"]),
            (add(json!({"name": "a/b"})), 7, &["name", "a/b"]),
            (add(json!({"mtu": 67})), 7, &["mtu", "67"]),
            (add(json!({"runtimeConfig": {"ips": ["300.0.0.1"]}})), 7, &["runtimeConfig.ips", "300.0.0.1"]),
            (
                add(json!({"runtimeConfig": {"ips": ["198.51.100.1"]}})),
                7,
                &["198.51.100.1", "no address block"],
            ),
            (add(json!({"runtimeConfig": {"ips": ["192.0.2.1/24"]}})), 7, &["192.0.2.1", "other/eth0"]),
            (add(json!({"runtimeConfig": {"mac": "x"}})), 7, &["runtimeConfig.mac"]),
            (add(json!({"args": {"cni": {"ips": 3}}})), 7, &["args.cni.ips"]),
        ] {
            let case = format!("{:?} {}", call.variables, call.config);
            check(&case, &call, &Error(code, words));
            assert_eq!(node.left(), before, "{case}");
        }
    });
}

#[test]
fn what_time_mends_is_code_11_and_a_full_node_code_100() {
    let refused = Response::Refused { reason: "no pod app/web is known".into() };
    for (blocks, agent, code, words) in [
        (DUAL, None, 11, &["is the margay pod of this node running"][..]),
        (DUAL, Some(refused), 11, &["no pod app/web is known"]),
        (&[], Some(Response::Done), 11, &["no address block", "podCIDR"]),
        (&["192.0.2.0/30"], Some(Response::Done), 100, &["192.0.2.0/30", "larger podCIDR"]),
    ] {
        on_node(blocks, agent, |node| {
            // Their links go with their namespaces.
            let pods = ["first", "second"].map(Pod::new);
            if code == 100 {
                drop(pods.each_ref().map(|pod| node.add(pod)));
            }
            let before = node.left();
            check("ADD", &node.prepare("ADD", "1.1.0", &Pod::new("c1")), &Error(code, words));
            assert_eq!(node.left(), before);
        });
    }
}

#[test]
fn status_is_50_when_only_new_pods_suffer_and_51_when_those_that_are_here_may() {
    let refused = |reason: &str| Some(Response::Refused { reason: reason.into() });
    let degraded = |reason: &str| Some(Response::Degraded { reason: reason.into() });
    let status = |node: &Node| node.prepare("STATUS", "1.1.0", &Pod::new("c1"));
    for (blocks, agent, expected) in [
        (DUAL, Some(Response::Done), Silence),
        (DUAL, refused("ipam: node n1 has no spec.podCIDRs"), Error(50, &["spec.podCIDRs"])),
        (DUAL, degraded("dataplane: nft failed"), Error(51, &["dataplane: nft failed"])),
        (DUAL, None, Error(51, &["reach the node agent", "agent.sock"])),
        (&[], Some(Response::Done), Error(50, &["no address block"])),
    ] {
        on_node(blocks, agent, |node| check("STATUS", &status(node), &expected));
    }
    for (block, family) in [("192.0.2.0/30", "IPv4"), ("2001:db8:7::/127", "IPv6")] {
        on_node(&[block], Some(Response::Done), |node| {
            check("before", &status(node), &Silence);
            for id in ["first", "second"] {
                // A /127 has room for one.
                drop(node.call("ADD", &Pod::new(id), &json!({})));
            }
            let error = status(node).run().unwrap_err();
            assert_eq!(error["code"], 50);
            assert!(
                error["msg"].as_str().unwrap().contains(&format!("no {family} address is free")),
                "{error}"
            );
        });
    }
    on_node(DUAL, None, |node| {
        fs::create_dir_all(node.run_dir()).unwrap();
        let _silent = UnixListener::bind(node.run_dir().join(paths::AGENT_SOCKET)).unwrap();
        check("a silent agent", &status(node), &Error(51, &["did not answer"]));
    });
}

#[test]
fn capability_args_and_cni_args_choose_address_and_mac_and_name_the_pod() {
    for (args, more, address, mac) in [
        ("", json!({"runtimeConfig": {"ips": ["192.0.2.77/24"]}}), "192.0.2.77/32", None),
        (
            "",
            json!({"runtimeConfig": {"ips": ["192.0.2.77"], "mac": "02:11:22:33:44:66"}}),
            "192.0.2.77/32",
            Some("02:11:22:33:44:66"),
        ),
        ("", json!({"args": {"cni": {"ips": ["192.0.2.78"]}}}), "192.0.2.78/32", None),
        ("", json!({"args": {"labels": {"appVersion": "1.0"}}}), "192.0.2.1/32", None),
        ("IP=192.0.2.79;MAC=02:11:22:33:44:77", json!({}), "192.0.2.79/32", Some("02:11:22:33:44:77")),
        ("IgnoreUnknown=true;FOO=BAR", json!({}), "192.0.2.1/32", None),
        // What a capability has that only a later plugin of the list uses.
        (
            "",
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}),
            "192.0.2.1/32",
            None,
        ),
    ] {
        on_node(&["192.0.2.0/24"], Some(Response::Done), |node| {
            let pod = Pod::new("c1");
            let more_args = [("CNI_ARGS", args)];
            let found = node.prepare("ADD", "1.1.0", &pod).with(&more_args).configured(&more).run().unwrap();
            assert_eq!(found["ips"][0]["address"], address, "{args} {more}");
            if let Some(mac) = mac {
                assert_eq!(found["interfaces"][1]["mac"], mac);
            }
            node.call("CHECK", &pod, &json!({"prevResult": found})).unwrap();
        });
    }
    on_node(DUAL, Some(Response::Done), |node| {
        for args in [
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=app;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1",
            "K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=app",
        ] {
            let pod = Pod::new("c1");
            node.prepare("ADD", "1.1.0", &pod).with(&[("CNI_ARGS", args)]).run().unwrap();
            let record = node.records().read(&EndpointId::of("c1", "eth0")).unwrap().unwrap().pod.unwrap();
            assert_eq!((record.to_string(), record.uid.as_deref()), ("app/web".into(), Some("u1")));
            node.call("DEL", &pod, &json!({})).unwrap();
        }
    });
}

#[test]
fn a_container_id_may_be_of_any_length() {
    on_node(DUAL, Some(Response::Done), |node| {
        let [kept, gone] = ["k", "g"].map(|last| Pod::new(&("c".repeat(300) + last)));
        let result = node.add(&kept);
        node.add(&gone);
        assert_eq!(node.left(), (2, 4, 2));
        node.call("CHECK", &kept, &json!({"prevResult": result})).unwrap();
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": kept.id, "ifname": "eth0"}]});
        node.call("GC", &kept, &valid).unwrap();
        assert_eq!(node.left(), (1, 2, 1));
        node.call("CHECK", &kept, &json!({"prevResult": result})).unwrap();
        node.call("DEL", &kept, &json!({})).unwrap();
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn a_del_succeeds_whatever_is_already_gone() {
    on_node(DUAL, Some(Response::Done), |node| {
        let path = |text: &'static str| [("CNI_NETNS", text)];
        for (case, variables) in [
            ("the namespace is there", vec![]),
            ("it is not named", path("").into()),
            ("it is gone", path("/run/netns/no-such").into()),
            // Multus and others call so after a reboot.
            ("it is the host's", path("/proc/thread-self/ns/net").into()),
        ] {
            let pod = Pod::new("c1");
            let result = node.add(&pod);
            let del = node.prepare("DEL", "1.1.0", &pod).with(&variables);
            check(case, &del.clone().configured(&json!({"prevResult": result})), &Silence);
            assert_eq!(node.left(), (0, 0, 0), "{case}");
            check(case, &del, &Silence);
        }
        let other = node.prepare("DEL", "0.3.0", &Pod::new("never")).with(&[("CNI_ARGS", "bad")]);
        check("no ADD came before", &other, &Silence);
    });
}

#[test]
fn a_gc_frees_what_is_not_named_and_leaves_other_networks_and_newer_pods_alone() {
    on_node(DUAL, Some(Response::Done), |node| {
        let [kept, gone, cut_off, foreign] = ["kept", "gone", "cut-off", "foreign"].map(Pod::new);
        for pod in [&kept, &gone, &cut_off] {
            node.add(pod);
        }
        node.call("ADD", &foreign, &json!({"name": "storage"})).unwrap();
        node.records().remove(&EndpointId::of("cut-off", "eth0")).unwrap();
        assert_eq!(node.left(), (4, 8, 3));
        let valid = |id: &str| json!({"cni.dev/valid-attachments": [{"containerID": id, "ifname": "eth0"}]});
        node.call("GC", &kept, &valid("kept")).unwrap();
        assert_eq!(node.left(), (2, 4, 2));
        // The same container with another interface is another attachment.
        let other = json!({"name": "storage", "cni.dev/valid-attachments": [{"containerID": "foreign", "ifname": "net1"}]});
        node.call("GC", &kept, &other).unwrap();
        assert_eq!(node.left(), (1, 2, 1));
        // A list that is empty is not one that is missing.
        node.call("GC", &kept, &json!({"cni.dev/valid-attachments": []})).unwrap();
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn a_gc_goes_on_past_a_failure_and_reports_it() {
    on_node(DUAL, Some(Response::Done), |node| {
        let [gone, damaged] = ["gone", "damaged"].map(Pod::new);
        node.add(&gone);
        node.add(&damaged);
        let id = EndpointId::of("damaged", "eth0");
        fs::write(node.records().dir().join(format!("{id}.json")), "{").unwrap();
        let call = node.prepare("GC", "1.1.0", &gone).configured(&json!({"cni.dev/valid-attachments": []}));
        check("GC", &call, &Error(5, &["is damaged"]));
        assert!(node.records().read(&EndpointId::of("gone", "eth0")).unwrap().is_none());
        // Whose network the damaged one is cannot be told: it stays.
        assert_eq!(node.left().0, 1);
    });
}

fn socket() -> Socket {
    Socket::open().unwrap()
}

fn index(name: &str) -> link::IfIndex {
    link::by_name(&mut socket(), &name.parse::<IfName>().unwrap()).unwrap().unwrap().index
}

fn run(program: &str, arguments: &str) {
    let status = std::process::Command::new(program).args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "{program} {arguments}");
}

#[test]
fn a_check_names_each_difference() {
    type OnHost = fn(&Node, &str);
    type InPod = fn();
    let on_host: [(OnHost, &[&str]); 12] = [
        (|_, host| run("ip", &format!("link set {host} down")), &["on the host is down"]),
        (|_, host| run("ip", &format!("link set {host} mtu 1399")), &["MTU 1399, not 1400"]),
        (
            |_, host| run("ip", &format!("link set {host} address 02:00:00:00:00:09")),
            &["address 02:00:00:00:00:09"],
        ),
        (
            |_, _| {
                let filter = Filter { table: None, protocol: Some(Protocol::MARGAY) };
                for route in route::list(&mut socket(), filter).unwrap() {
                    socket().execute(&route::delete(&route)).unwrap();
                }
            },
            // All of them, not only the first.
            &["route 192.0.2.1/32", "route 2001:db8:7::1/128"],
        ),
        (
            |_, host| {
                socket().execute(&neigh::delete(index(host), "192.0.2.1".parse().unwrap())).unwrap();
            },
            &["neighbour 192.0.2.1 at", "on the host"],
        ),
        (
            |_, host| {
                let (address, mac) = ("2001:db8:7::1".parse().unwrap(), "02:00:00:00:00:09".parse().unwrap());
                socket().execute(&neigh::replace_permanent(index(host), address, mac)).unwrap();
            },
            &["neighbour 2001:db8:7::1 at"],
        ),
        (
            |_, host| fs::write(format!("/proc/sys/net/ipv4/conf/{host}/forwarding"), "0").unwrap(),
            &["ipv4/forwarding", "is 0, not 1"],
        ),
        (
            |_, host| fs::write(format!("/proc/sys/net/ipv6/conf/{host}/accept_ra"), "2").unwrap(),
            &["ipv6/accept_ra", "is 2, not 0"],
        ),
        (|_, host| run("ip", &format!("link del {host}")), &["is not on the host", "eth0 is not in the pod"]),
        (|node, _| node.records().remove(&EndpointId::of("c1", "eth0")).unwrap(), &["has no record"]),
        (
            |node, _| drop(node.store().release(&Owner::new("c1", "eth0").unwrap()).unwrap()),
            &["address 192.0.2.1 is not held", "address 2001:db8:7::1 is not held"],
        ),
        (
            |node, _| fs::remove_file(node.run_dir().join(paths::AGENT_SOCKET)).unwrap(),
            &["policy", "reach the node agent"],
        ),
    ];
    for (harm, words) in on_host {
        on_node(DUAL, Some(Response::Done), |node| {
            let pod = Pod::new("c1");
            let call =
                node.prepare("CHECK", "1.1.0", &pod).configured(&json!({"prevResult": node.add(&pod)}));
            check("before", &call, &Silence);
            harm(node, &EndpointId::of("c1", "eth0").host_ifname());
            check("after", &call, &Error(101, words));
        });
    }
    let in_pod: [(InPod, &[&str]); 6] = [
        (|| run("ip", "link set eth0 down"), &["eth0 in the pod is down"]),
        (|| run("ip", "link set eth0 mtu 1300"), &["eth0 in the pod has MTU 1300, not 1400"]),
        (|| run("ip", "address del 192.0.2.1/32 dev eth0"), &["address 192.0.2.1 is not on eth0"]),
        (|| run("ip", "-6 route del default"), &["route ::/0", "is not in the pod"]),
        (|| run("ip", "neigh del 169.254.1.1 dev eth0"), &["neighbour 169.254.1.1 at"]),
        (
            || {
                let address = addr::list_on(&mut socket(), index("eth0")).unwrap();
                let six = address.iter().find(|found| found.global && found.network.is_ipv6()).unwrap();
                socket().execute(&addr::delete(six.link, six.network)).unwrap();
            },
            &["address 2001:db8:7::1 is not on eth0"],
        ),
    ];
    for (harm, words) in in_pod {
        on_node(DUAL, Some(Response::Done), |node| {
            let pod = Pod::new("c1");
            let call =
                node.prepare("CHECK", "1.1.0", &pod).configured(&json!({"prevResult": node.add(&pod)}));
            {
                let _inside = pod.namespace.enter().unwrap();
                harm();
            }
            check("in the pod", &call, &Error(101, words));
        });
    }
}

#[test]
fn a_check_compares_the_result_and_finds_a_vanished_namespace_and_policy_that_is_not_in_force() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let good = node.add(&pod);
        let without = |key: &str, index: usize| {
            let mut result = good.clone();
            result[key].as_array_mut().unwrap().remove(index);
            result
        };
        for (result, words) in [
            (without("ips", 0), &["prevResult lacks 192.0.2.1"][..]),
            (without("interfaces", 0), &["prevResult lacks interface mgy"]),
            (without("interfaces", 1), &["prevResult lacks interface eth0"]),
        ] {
            let call = node.prepare("CHECK", "1.1.0", &pod).configured(&json!({"prevResult": result}));
            check("a result that is not of the ADD", &call, &Error(101, words));
        }
        let call = node.prepare("CHECK", "1.1.0", &pod).configured(&json!({"prevResult": good}));
        // Code 3 would say that there is nothing to take down.
        check(
            "gone",
            &call.with(&[("CNI_NETNS", "/run/netns/no-such")]),
            &Error(101, &["namespace is gone"]),
        );
        let never =
            node.prepare("CHECK", "1.1.0", &Pod::new("never")).configured(&json!({"prevResult": good}));
        check("never added", &never, &Error(101, &["has no record"]));
    });
    let refused = Response::Refused { reason: "the policy is not in the kernel: nft failed".into() };
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let call = node.prepare("CHECK", "1.1.0", &pod).configured(&json!({"prevResult": node.add(&pod)}));
        fs::remove_file(node.run_dir().join(paths::AGENT_SOCKET)).unwrap();
        node.serve(refused);
        check("policy", &call, &Error(101, &["policy", "nft failed"]));
    });
}
