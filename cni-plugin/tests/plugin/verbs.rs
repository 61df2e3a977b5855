//! What the verbs do to the kernel, the records and the addresses.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, UdpSocket},
    os::unix::net::UnixListener,
    process::Command,
    thread,
};

use margay_api::{
    agent::{Request, Response},
    endpoint::EndpointId,
    paths,
};
use margay_netlink::{
    Socket, addr,
    link::{self, IfName},
    netns::Namespace,
    route::{self, Filter, Protocol},
};
use serde_json::{Value, json};

use crate::node::{DUAL, Pod, all_blocks, invoke, on_node};

#[test]
fn add_connects_a_pod_in_both_families_and_del_leaves_nothing() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let result = node.add(&pod);
        assert_eq!(result["cniVersion"], "1.1.0");
        assert_eq!(result["ips"][0]["address"], "192.0.2.1/32");
        assert_eq!(result["ips"][1]["address"], "2001:db8:7::1/128");
        assert_eq!(result["interfaces"][1]["sandbox"], pod.path());
        assert_eq!(node.left(), (1, 2, 1));
        let id = EndpointId::of("c1", "eth0");
        let asked = node.asked.lock().unwrap().clone();
        assert!(
            matches!(&asked[0], Request::Addressing { pod: Some(pod), .. } if pod.name == "web"),
            "{asked:?}"
        );
        assert_eq!(asked[1..], [Request::EndpointAdded { endpoint: id.clone() }]);
        assert_eq!(node.records().read(&id).unwrap().unwrap().pod.unwrap().to_string(), "app/web");

        let routes = route::list(
            &mut Socket::open().unwrap(),
            Filter { table: None, protocol: Some(Protocol::MARGAY) },
        )
        .unwrap();
        let to: Vec<String> = routes.iter().map(|route| route.destination.to_string()).collect();
        assert_eq!(to, ["192.0.2.1/32", "2001:db8:7::1/128"]);
        {
            let _inside = pod.namespace.enter().unwrap();
            let mut socket = Socket::open().unwrap();
            let eth0: IfName = "eth0".parse().unwrap();
            let eth0 = link::by_name(&mut socket, &eth0).unwrap().unwrap();
            assert_eq!((eth0.mtu, eth0.up), (1400, true));
            let own: Vec<IpAddr> = addr::list_on(&mut socket, eth0.index)
                .unwrap()
                .iter()
                .filter(|address| address.global)
                .map(|address| address.network.ip())
                .collect();
            assert_eq!(own, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8:7::1".parse().unwrap()]);
        }
        node.call("CHECK", &pod, &json!({"prevResult": result})).unwrap();
        node.call("DEL", &pod, &json!({"prevResult": result})).unwrap();
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn del_succeeds_twice_with_no_add_no_agent_and_no_namespace() {
    on_node(DUAL, None, |node| {
        let variables =
            [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "never"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")];
        for _ in 0..2 {
            invoke(&variables, &node.config("1.0.0", &json!({})).to_string()).unwrap();
        }
    });
}

#[test]
fn an_agent_that_is_away_or_refuses_or_is_silent_fails_the_add_and_nothing_stays() {
    on_node(DUAL, None, |node| {
        let error = node.call("ADD", &Pod::new("c1"), &json!({})).unwrap_err();
        assert_eq!(error["code"], 11);
        assert!(error["msg"].as_str().unwrap().contains("is the margay pod of this node running"), "{error}");
        assert_eq!(node.left(), (0, 0, 0));
    });
    let refusal = Response::Refused { reason: "no pod app/web is known".into() };
    on_node(DUAL, Some(refusal), |node| {
        let error = node.call("ADD", &Pod::new("c1"), &json!({})).unwrap_err();
        assert!(error["msg"].as_str().unwrap().ends_with("no pod app/web is known"), "{error}");
        assert_eq!(node.left(), (0, 0, 0));
    });
    on_node(DUAL, None, |node| {
        fs::create_dir_all(node.run_dir()).unwrap();
        let _silent = UnixListener::bind(node.run_dir().join(paths::AGENT_SOCKET)).unwrap();
        let error = node.call("ADD", &Pod::new("c1"), &json!({})).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("did not answer within 1s"), "{error}");
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn a_full_block_fails_the_add_with_what_to_do_and_status_says_so_before() {
    on_node(&["192.0.2.0/30"], Some(Response::Done), |node| {
        let pods = [Pod::new("c1"), Pod::new("c2"), Pod::new("c3")];
        node.add(&pods[0]);
        node.call("STATUS", &pods[0], &json!({})).unwrap();
        node.add(&pods[1]);
        let error = node.call("ADD", &pods[2], &json!({})).unwrap_err();
        assert_eq!(error["code"], 100);
        assert!(error["msg"].as_str().unwrap().contains("192.0.2.0/30"), "{error}");
        assert_eq!(node.left(), (2, 2, 2));
        let status = node.call("STATUS", &pods[0], &json!({})).unwrap_err();
        assert_eq!(status["code"], 50);
    });
}

#[test]
fn bad_calls_get_the_code_of_the_spec_and_leave_nothing() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let good = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", &pod.path()),
            ("CNI_IFNAME", "eth0"),
        ];
        let config = node.config("1.1.0", &json!({})).to_string();
        let with = |key: &str, value: &'static str| good.map(|(k, v)| (k, if k == key { value } else { v }));
        for (variables, stdin, code, word) in [
            (with("CNI_COMMAND", ""), &config, 4, "CNI_COMMAND"),
            (with("CNI_COMMAND", "PUT"), &config, 4, "PUT"),
            (with("CNI_CONTAINERID", ""), &config, 4, "CNI_CONTAINERID"),
            (with("CNI_NETNS", ""), &config, 4, "CNI_NETNS"),
            (with("CNI_NETNS", "/run/netns/no-such"), &config, 3, "/run/netns/no-such"),
            (with("CNI_NETNS", "/proc/thread-self/ns/net"), &config, 4, "host's own"),
            (with("CNI_IFNAME", "a/b"), &config, 4, "CNI_IFNAME"),
            (good, &"{".to_owned(), 6, "configuration"),
            (good, &node.config("0.2.0", &json!({})).to_string(), 1, "0.2.0"),
            (
                good,
                &node.config("1.1.0", &json!({"runtimeConfig": {"ips": ["198.51.100.1/32"]}})).to_string(),
                7,
                "198.51.100.1",
            ),
        ] {
            let error = invoke(&variables, stdin).unwrap_err();
            assert_eq!(error["code"], code, "{error}");
            assert!(error["msg"].as_str().unwrap().contains(word), "{error}");
            assert_eq!(node.left(), (0, 0, 0), "{error}");
        }
    });
}

#[test]
fn an_interface_name_that_the_pod_has_already_is_refused() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        node.add(&pod);
        let error = node.call("ADD", &pod, &json!({})).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("DEL must come before"), "{error}");
        // Another container in the same namespace: the pod's own eth0 must survive the refusal.
        let other = Pod { id: "c2".into(), namespace: Namespace::open(pod.path().as_ref()).unwrap() };
        let error = node.call("ADD", &other, &json!({})).unwrap_err();
        assert_eq!(error["code"], 4, "{error}");
        assert_eq!(node.left(), (1, 2, 1));
    });
}

#[test]
fn an_add_that_was_killed_half_way_is_repaired_by_the_next() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        node.add(&pod);
        // Killed before the record was written.
        node.records().remove(&EndpointId::of("c1", "eth0")).unwrap();
        let result = node.add(&pod);
        assert_eq!(result["ips"][0]["address"], "192.0.2.1/32");
        assert_eq!(node.left(), (1, 2, 1));
    });
}

#[test]
fn gc_frees_what_the_runtime_does_not_name_and_needs_to_be_told() {
    on_node(DUAL, Some(Response::Done), |node| {
        let (kept, gone) = (Pod::new("kept"), Pod::new("gone"));
        node.add(&kept);
        node.add(&gone);
        assert_eq!(node.call("GC", &kept, &json!({})).unwrap_err()["code"], 7);
        assert_eq!(node.left(), (2, 4, 2));
        let valid = json!({"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]});
        node.call("GC", &kept, &valid).unwrap();
        assert_eq!(node.left(), (1, 2, 1));
    });
}

#[test]
fn a_del_leaves_link_and_addresses_to_an_agent_that_takes_them_down() {
    on_node(DUAL, None, |node| {
        fs::create_dir_all(node.run_dir()).unwrap();
        let listener = UnixListener::bind(node.run_dir().join(paths::AGENT_SOCKET)).unwrap();
        let (store, records) = (node.store(), node.records());
        let agent = thread::spawn(move || {
            // An ADD, then a DEL.
            listener
                .incoming()
                .take(2)
                .map_while(Result::ok)
                .flat_map(|stream| {
                    let mut told = Vec::new();
                    for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                        let request = serde_json::from_str::<Request>(&line).unwrap();
                        let response = all_blocks(&store, &request);
                        if response.is_none() {
                            let records = records.list().unwrap().endpoints.len();
                            told.push((request, (store.allocations().unwrap().len(), records)));
                        }
                        let response = response.unwrap_or(Response::Done);
                        writeln!(&stream, "{}", serde_json::to_string(&response).unwrap()).unwrap();
                    }
                    told
                })
                .collect::<Vec<_>>()
        });
        let pod = Pod::new("c1");
        node.add(&pod);
        node.call("DEL", &pod, &json!({})).unwrap();
        let endpoint = EndpointId::of("c1", "eth0");
        let told = [
            (Request::EndpointAdded { endpoint }, (2, 1)),
            (Request::TakeDown { container_id: "c1".into(), ifname: "eth0".into() }, (2, 0)),
        ];
        assert_eq!(agent.join().unwrap(), told);
        assert_eq!(node.left(), (1, 2, 0), "this agent has said that it would, and has not");
        // Without an agent the next DEL does it.
        node.call("DEL", &pod, &json!({})).unwrap();
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn connections_of_a_deleted_pod_are_not_those_of_the_next_with_its_address() {
    on_node(&["192.0.2.0/30", "2001:db8:7::/126"], Some(Response::Done), |node| {
        // Tracking is on where a rule asks for it.
        let rule = "add table inet t; add chain inet t c { type filter hook output priority 0; }; add rule inet t c ct state new";
        assert!(Command::new("nft").arg(rule).status().unwrap().success());
        assert!(
            Command::new("ip")
                .args(["address", "add", "198.51.100.1/32", "dev", "lo"])
                .status()
                .unwrap()
                .success()
        );
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let tracked = || fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
        let pod = Pod::new("c1");
        node.add(&pod);
        let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
        for to in ["192.0.2.1:9", "198.51.100.1:9"] {
            socket.send_to(b"x", to).unwrap();
        }
        assert!(tracked().contains("src=192.0.2.1 "), "{}", tracked());
        node.call("DEL", &pod, &json!({})).unwrap();
        assert!(!tracked().contains("=192.0.2.1 "), "{}", tracked());
        assert!(tracked().contains("dst=198.51.100.1 "), "others stay: {}", tracked());
    });
}

#[test]
fn a_node_that_disables_ipv6_and_forwarding_on_new_links_gets_working_pods() {
    on_node(DUAL, Some(Response::Done), |node| {
        for (setting, value) in
            [("ipv6/conf/default/disable_ipv6", "1"), ("ipv4/conf/default/forwarding", "0")]
        {
            fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
        }
        let pod = Pod::new("c1");
        {
            let _inside = pod.namespace.enter().unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        }
        let result = node.add(&pod);
        node.call("CHECK", &pod, &json!({"prevResult": result})).unwrap();
        let link = EndpointId::of("c1", "eth0").host_ifname();
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/conf/{link}/forwarding");
            assert_eq!(fs::read_to_string(&path).unwrap().trim(), "1", "{path}");
        }
    });
}

#[test]
fn a_second_interface_of_a_pod_leaves_the_first_as_it_was() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let first = node.add(&pod);
        let path = pod.path();
        let call = |verb, more: &Value| {
            let variables = [
                ("CNI_COMMAND", verb),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_NETNS", path.as_str()),
                ("CNI_IFNAME", "net1"),
            ];
            invoke(&variables, &node.config("1.1.0", more).to_string()).unwrap()
        };
        let second = call("ADD", &json!({}));
        assert_eq!(second["ips"][0]["address"], "192.0.2.2/32");
        node.call("CHECK", &pod, &json!({"prevResult": first})).unwrap();
        call("CHECK", &json!({"prevResult": second}));
        {
            let _inside = pod.namespace.enter().unwrap();
            for out in [["route", "get", "203.0.113.1"], ["route", "get", "2001:db8:ff::1"]] {
                let output = Command::new("ip").args(out).output().unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                assert!(text.contains("dev eth0"), "{text}");
            }
        }
        call("DEL", &json!({}));
        node.call("CHECK", &pod, &json!({"prevResult": first})).unwrap();
        assert_eq!(node.left(), (1, 2, 1));
    });
}

#[test]
fn check_names_what_is_different() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let previous = json!({"prevResult": node.add(&pod)});
        let mut socket = Socket::open().unwrap();
        let ours =
            route::list(&mut socket, Filter { table: None, protocol: Some(Protocol::MARGAY) }).unwrap();
        socket.execute(&route::delete(&ours[0])).unwrap();
        let error = node.call("CHECK", &pod, &previous).unwrap_err();
        assert_eq!(error["code"], 101);
        assert!(error["msg"].as_str().unwrap().contains("route 192.0.2.1/32"), "{error}");
        assert_eq!(node.call("CHECK", &pod, &json!({})).unwrap_err()["code"], 7);
        assert_eq!(node.call("CHECK", &Pod::new("never"), &previous).unwrap_err()["code"], 101);
    });
}

#[test]
fn version_answers_whatever_it_is_sent() {
    for stdin in ["", "{}", r#"{"cniVersion":"1.0.0"}"#] {
        let answer = invoke(&[("CNI_COMMAND", "VERSION")], stdin).unwrap();
        assert_eq!(answer["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}

#[test]
fn loopback_brings_lo_up() {
    on_node(DUAL, None, |_| {
        let pod = Pod::new("c1");
        let config = json!({"cniVersion": "1.0.0", "name": "cni-loopback", "type": "loopback"}).to_string();
        let variables = |verb| [("CNI_COMMAND", verb), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "lo")];
        let path = pod.path();
        let with_netns =
            |verb| variables(verb).into_iter().chain([("CNI_NETNS", path.as_str())]).collect::<Vec<_>>();
        invoke(&with_netns("CHECK"), &config).unwrap_err();
        let result = invoke(&with_netns("ADD"), &config).unwrap();
        assert_eq!(result["interfaces"][0]["name"], "lo");
        invoke(&with_netns("CHECK"), &config).unwrap();
        invoke(&with_netns("DEL"), &config).unwrap();
    });
}

#[test]
fn many_at_once_get_addresses_of_their_own() {
    on_node(DUAL, Some(Response::Done), |node| {
        let own = Namespace::current().unwrap();
        let results: Vec<Value> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let own = &own;
                    scope.spawn(move || {
                        let _inside = own.enter().unwrap();
                        (0..4).map(|n| node.add(&Pod::new(&format!("c{thread}-{n}")))).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        let mut addresses: Vec<String> = results.iter().map(|r| r["ips"][0]["address"].to_string()).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 32);
    });
}

#[test]
fn the_host_end_sends_when_add_answers_although_others_change_links() {
    on_node(DUAL, Some(Response::Done), |node| {
        let own = Namespace::current().unwrap();
        // The listing, unlike the question for one interface, waits for nobody.
        let is_running = |pod: &Pod| {
            let name = EndpointId::of(&pod.id, "eth0").host_ifname();
            let links = link::list(&mut Socket::open().unwrap()).unwrap();
            links.iter().find(|link| link.name == name).unwrap().running
        };
        let late: Vec<String> = thread::scope(|scope| {
            let add = |thread: usize| {
                let _inside = own.enter().unwrap();
                let pods = (0..12).map(|number| Pod::new(&format!("c{thread}-{number}")));
                pods.filter(|pod| {
                    node.add(pod);
                    !is_running(pod)
                })
                .map(|pod| pod.id)
                .collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || add(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(late.is_empty(), "not running yet: {late:?}");
    });
}
