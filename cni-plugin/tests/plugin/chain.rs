//! Lists of plugins, called as libcni does: ours first, then the reference plugins of Debian.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use margay_api::{agent::Response, endpoint::EndpointId};
use margay_netlink::netns::Namespace;
use serde_json::{Map, Value, json};

use crate::node::{DUAL, Node, Pod, invoke_program, on_node};

/// Where Debian's `containernetworking-plugins` puts them; they speak 0.3.0 to 1.0.0.
const REFERENCE: &str = "/usr/lib/cni";
const PATIENCE: Duration = Duration::from_secs(10);

/// One attachment to a network of several plugins.
struct Attachment<'a> {
    node: &'a Node,
    pod: &'a Pod,
    network: &'static str,
    version: &'static str,
    ifname: &'static str,
    plugins: Vec<Value>,
    capabilities: Value,
    /// Where plugins find programs.
    path: String,
}

impl<'a> Attachment<'a> {
    fn new(node: &'a Node, pod: &'a Pod, version: &'static str, later: &[Value]) -> Self {
        let ours = json!({"type": "margay", "mtu": 1400, "capabilities": {"ips": true, "mac": true}});
        let plugins = std::iter::once(ours).chain(later.iter().cloned()).collect();
        Self {
            node,
            pod,
            network: "margay",
            version,
            ifname: "eth0",
            plugins,
            capabilities: json!({}),
            path: "/usr/sbin:/usr/bin:/sbin:/bin".into(),
        }
    }

    /// Leaves plugins only one of `iptables` and `ip6tables`. The CHECK of the reference portmap looks for the rules of
    /// its pod's one family in the tables of every family that it finds a program for, and fails where it finds two.
    fn with_tables_of(mut self, program: &str) -> Self {
        let directory = self.node.dir.path().join("programs");
        std::fs::create_dir(&directory).unwrap();
        symlink(Path::new("/usr/sbin").join(program), directory.join(program)).unwrap();
        self.path = directory.display().to_string();
        self
    }

    fn call(&self, verb: &str, plugin: &Value, previous: Option<&Value>) -> Result<Value, Value> {
        let kind = plugin["type"].as_str().unwrap();
        let mut config = plugin.as_object().unwrap().clone();
        let declared = config.remove("capabilities").unwrap_or_default();
        let given: Map<String, Value> = self.capabilities.as_object().unwrap().clone();
        let given = given.into_iter().filter(|(name, _)| declared[name] == true).collect();
        config.insert("runtimeConfig".into(), Value::Object(given));
        config.insert("name".into(), self.network.into());
        config.insert("cniVersion".into(), self.version.into());
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let program = if kind == "margay" {
            config.insert("runDir".into(), json!(self.node.run_dir()));
            config.insert("stateDir".into(), json!(self.node.state_dir()));
            env!("CARGO_BIN_EXE_margay").to_owned()
        } else {
            format!("{REFERENCE}/{kind}")
        };
        assert!(Path::new(&program).exists(), "{program} is missing; ./setup installs it");
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &self.pod.id),
            ("CNI_NETNS", &self.pod.path()),
            ("CNI_IFNAME", self.ifname),
            ("CNI_PATH", REFERENCE),
            ("PATH", &self.path),
        ];
        invoke_program(&program, &variables, &Value::Object(config).to_string())
            .map_err(|error| json!({"plugin": kind, "verb": verb, "error": error}))
    }

    /// ADD of each, each with the result of the one before.
    fn add(&self) -> Value {
        self.plugins
            .iter()
            .fold(None, |previous, plugin| {
                Some(self.call("ADD", plugin, previous.as_ref()).unwrap_or_else(|error| panic!("{error}")))
            })
            .unwrap()
    }

    /// CHECK of each with the last result of the ADD.
    fn check(&self, result: &Value) -> Result<(), Value> {
        self.plugins.iter().try_for_each(|plugin| self.call("CHECK", plugin, Some(result)).map(drop))
    }

    /// DEL of each, the last one first.
    fn del(&self, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            self.call("DEL", plugin, Some(result)).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A host beside the node, on a link of its own, that routes all through it.
fn neighbour_host(node: &Node) -> Pod {
    for (setting, value) in [("ipv4/conf/all/forwarding", "1"), ("ipv6/conf/all/forwarding", "1")] {
        std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
    }
    let host = Pod::new("beside");
    run("ip", &format!("link add uplink type veth peer name eth0 netns {}", host.path()));
    for arguments in [
        "link set lo up",
        "address add 198.51.100.1/24 dev uplink",
        "address add 2001:db8:1::1/64 dev uplink nodad",
        "link set uplink up",
    ] {
        run("ip", arguments);
    }
    let _inside = host.namespace.enter().unwrap();
    for arguments in [
        "address add 198.51.100.2/24 dev eth0",
        "address add 2001:db8:1::2/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 198.51.100.1",
        "-6 route add default via 2001:db8:1::1",
    ] {
        run("ip", arguments);
    }
    assert_eq!(node.left(), (0, 0, 0));
    host
}

fn dial(from: &Namespace, to: SocketAddr) -> std::io::Result<String> {
    let _inside = from.enter().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Answers each connection to the pod with its peer's address, for ever.
fn serve(pod: &Pod, port: u16) {
    let _inside = pod.namespace.enter().unwrap();
    let listener = TcpListener::bind(("::", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            write!(&stream, "{peer}").unwrap();
        }
    });
}

#[test]
fn portmap_behind_us_opens_a_port_of_the_node_until_the_del() {
    const V4: [&str; 3] = ["192.0.2.0/24", "198.51.100.1", "198.51.100.2"];
    const V6: [&str; 3] = ["2001:db8:7::/64", "2001:db8:1::1", "2001:db8:1::2"];
    for (version, families, checked_with) in [
        ("0.3.1", &[V4, V6][..], None),
        ("0.4.0", &[V4], Some("iptables")),
        ("1.0.0", &[V6], Some("ip6tables")),
        ("1.0.0", &[V4, V6], None),
    ] {
        let blocks: Vec<&str> = families.iter().map(|[block, ..]| *block).collect();
        on_node(&blocks, Some(Response::Done), |node| {
            let (host, pod) = (neighbour_host(node), Pod::new("c1"));
            let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
            let mut attachment = Attachment::new(node, &pod, version, &[portmap]);
            let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
            attachment.capabilities = json!({"portMappings": mapping});
            if let Some(program) = checked_with {
                attachment = attachment.with_tables_of(program);
            }
            let result = attachment.add();
            serve(&pod, 80);
            let dial_port =
                |address: &str| dial(&host.namespace, SocketAddr::new(address.parse().unwrap(), 8080));
            for [_, node_address, peer] in families {
                assert_eq!(dial_port(node_address).unwrap(), *peer, "{version}");
            }
            if checked_with.is_some() {
                attachment.check(&result).unwrap();
            }
            attachment.del(&result);
            for [_, node_address, _] in families {
                let refused = dial_port(node_address).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{version}");
            }
            assert_eq!(node.left(), (0, 0, 0));
        });
    }
}

#[test]
fn bandwidth_behind_us_shapes_the_pods_link() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let mut attachment = Attachment::new(node, &pod, "1.0.0", &[bandwidth]);
        let mut limits = json!({"ingressRate": 1_000_000, "ingressBurst": 100_000});
        // What leaves the pod is shaped on a device of a kind that some kernels lack, as they lack it for any plugin.
        let has_ifb = Command::new("ip").args(["link", "add", "probe", "type", "ifb"]).output().unwrap();
        if has_ifb.status.success() {
            run("ip", "link del probe");
            limits["egressRate"] = json!(1_000_000);
            limits["egressBurst"] = json!(100_000);
        }
        attachment.capabilities = json!({"bandwidth": limits});
        let result = attachment.add();
        let link = EndpointId::of("c1", "eth0").host_ifname();
        let shaped = run("tc", &format!("qdisc show dev {link}"));
        assert!(shaped.contains("tbf") && shaped.contains("rate 1Mbit"), "{shaped}");
        attachment.check(&result).unwrap();
        attachment.del(&result);
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn tuning_behind_us_changes_what_it_is_asked_to_and_the_check_of_the_list_holds() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let tuning = json!({
            "type": "tuning",
            "sysctl": {"net.core.somaxconn": "500"},
            "mtu": 1300,
            "promisc": true,
            "allmulti": true,
            "dataDir": node.dir.path().join("tuning"),
        });
        let mut attachment = Attachment::new(node, &pod, "1.0.0", &[tuning]);
        attachment.capabilities = json!({"mac": "02:11:22:33:44:66"});
        let result = attachment.add();
        assert_eq!(result["interfaces"][1]["mac"], "02:11:22:33:44:66");
        {
            let _inside = pod.namespace.enter().unwrap();
            assert_eq!(std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim(), "500");
            assert!(run("ip", "link show eth0").contains("mtu 1300"));
        }
        attachment.check(&result).unwrap();
        {
            let _inside = pod.namespace.enter().unwrap();
            run("ip", "link set eth0 mtu 1450");
        }
        // Ours looks at what is ours, and so before tuning does.
        let error = attachment.check(&result).unwrap_err();
        assert_eq!((&error["plugin"], &error["error"]["code"]), (&json!("margay"), &json!(101)), "{error}");
        attachment.del(&result);
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn a_link_layer_address_set_by_tuning_instead_of_us_is_found_by_the_check() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let tuning = json!({
            "type": "tuning",
            "mac": "02:11:22:33:44:77",
            "dataDir": node.dir.path().join("tuning"),
        });
        let attachment = Attachment::new(node, &pod, "1.0.0", &[tuning]);
        let result = attachment.add();
        // The kernel forgets the neighbours of a link whose address changes, and the node sends to the old one.
        let error = attachment.check(&result).unwrap_err();
        let text = error["error"]["msg"].as_str().unwrap();
        for words in ["eth0 in the pod has address 02:11:22:33:44:77", "neighbour 169.254.1.1"] {
            assert!(text.contains(words), "{error}");
        }
        attachment.del(&result);
        assert_eq!(node.left(), (0, 0, 0));
    });
}

#[test]
fn two_networks_of_one_pod_live_and_end_each_for_itself() {
    on_node(&["192.0.2.0/24"], Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.net1.rp_filter": "2"}});
        let mut first = Attachment::new(node, &pod, "1.0.0", &[portmap]).with_tables_of("iptables");
        first.capabilities =
            json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
        let first_result = first.add();
        let mut second = Attachment::new(node, &pod, "1.0.0", &[tuning]);
        (second.network, second.ifname) = ("storage", "net1");
        let second_result = second.add();
        assert_eq!(second_result["interfaces"][1]["name"], "net1");
        assert_eq!(node.left(), (2, 2, 2));
        first.check(&first_result).unwrap();
        second.check(&second_result).unwrap();
        second.del(&second_result);
        first.check(&first_result).unwrap();
        second.del(&second_result);
        first.del(&first_result);
        assert_eq!(node.left(), (0, 0, 0));
    });
}
