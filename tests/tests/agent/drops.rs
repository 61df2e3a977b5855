//! What is dropped is told with names, counted by policy, and logged where a namespace asks for it.

use std::{
    fs,
    io::Write,
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Command, Stdio},
    time::Duration,
};

use margay_api::endpoint::{Endpoint, EndpointId, PodRef, Records};
use margay_netlink::{
    Socket, conntrack,
    link::{self, End, Veth},
    netns::Namespace,
    nflog::Listener,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};

use crate::{
    node::{Node, on_node, program, table},
    plugin::namespace,
};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 53;
/// The group that the agent listens to.
const GROUP: u16 = 28007;

/// A pod of the node with a link, made as the plugin makes it.
pub(crate) struct Pod {
    namespace: Namespace,
    addresses: [IpAddr; 2],
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

impl Pod {
    fn new(node: &Node, name: &str, number: u8) -> Self {
        let addresses = [format!("10.0.0.{number}"), format!("2001:db8:7::{number}")];
        let addresses = addresses.map(|text| text.parse::<IpAddr>().unwrap());
        let host_ifname = EndpointId::of(name, "eth0").host_ifname();
        let (mac, host_mac) = (format!("02:00:00:00:{number:02}:01"), format!("02:00:00:00:{number:02}:02"));
        let namespace = namespace();
        let far = Some(namespace.as_fd());
        let veth = Veth {
            near: End {
                name: &host_ifname.parse().unwrap(),
                address: Some(host_mac.parse().unwrap()),
                netns: None,
            },
            far: End { name: &"eth0".parse().unwrap(), address: Some(mac.parse().unwrap()), netns: far },
            mtu: None,
        };
        Socket::open().unwrap().execute(&link::add_veth(&veth)).unwrap();
        ip(&format!("address add 169.254.1.1/32 dev {host_ifname}"));
        ip(&format!("address add fe80::1/64 dev {host_ifname} nodad"));
        for address in addresses {
            ip(&format!("route add {address} dev {host_ifname} proto 109"));
        }
        let inside = namespace.enter().unwrap();
        for arguments in ["link set lo up", "link set eth0 up"] {
            ip(arguments);
        }
        ip(&format!("address add {}/32 dev eth0", addresses[0]));
        ip(&format!("address add {}/128 dev eth0 nodad", addresses[1]));
        ip("route add default via 169.254.1.1 dev eth0 onlink");
        ip("route add default via fe80::1 dev eth0");
        drop(inside);
        let endpoint = Endpoint {
            container_id: name.to_owned(),
            ifname: "eth0".into(),
            network: "margay".into(),
            netns: String::new(),
            host_ifname,
            mac,
            host_mac,
            addresses: addresses.to_vec(),
            mtu: 1500,
            pod: Some(PodRef { namespace: "default".into(), name: name.to_owned(), uid: None }),
        };
        Records::below(&node.path("run")).write(&endpoint).unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        });
        node.api.put_raw(object).unwrap();
        Self { namespace, addresses }
    }

    fn socket(&self, address: IpAddr, port: u16) -> UdpSocket {
        let _inside = self.namespace.enter().unwrap();
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends to each address of another pod, and gives the ports that it sent from.
    pub(crate) fn send(&self, to: &Self) -> [u16; 2] {
        let ends = [(self.addresses[0], to.addresses[0]), (self.addresses[1], to.addresses[1])];
        ends.map(|(from, to)| {
            let socket = self.socket(from, 0);
            socket.send_to(b"hello", (to, PORT)).unwrap();
            socket.local_addr().unwrap().port()
        })
    }
}

/// A `margayctl monitor`, which ends with this.
struct Monitor {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Monitor {
    /// Starts one that misses nothing from now on.
    async fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut child = tokio::process::Command::new(program("margayctl"))
            .arg(format!("--run-dir={}", node.path("run").display()))
            .args(["monitor", "--drops"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut aside = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = timeout(PATIENCE, aside.next_line()).await.unwrap().unwrap();
        assert_eq!(line.as_deref(), Some("listening"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, lines }
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.lines.next_line()).await.expect("an event").unwrap().expect("an open monitor")
    }

    async fn event(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }
}

pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec,
    })
}

fn put_namespace(node: &Node, annotations: &Value) {
    let metadata = json!({"name": "default", "annotations": annotations});
    node.api.put_raw(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).unwrap();
}

/// An agent with the pods `a` and `b`, of which a policy named `deny` isolates the latter.
async fn start(node: &mut Node, policies: &[Value]) -> [Pod; 2] {
    start_with(node, &json!({"bgp": {"enabled": false}}), policies).await
}

/// The same, with a configuration.
pub(crate) async fn start_with(node: &mut Node, configuration: &Value, policies: &[Value]) -> [Pod; 2] {
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
    }
    node.configure_agent(configuration);
    node.put_node(&json!({"podCIDRs": ["10.0.0.0/24", "2001:db8:7::/64"]}));
    let pods = [("a", 1), ("b", 2)].map(|(name, number)| Pod::new(node, name, number));
    for policy in policies {
        node.api.put_raw(policy.clone()).unwrap();
    }
    node.start_agent();
    node.ready().await;
    pods
}

pub(crate) fn deny() -> Value {
    policy("deny", &json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"]}))
}

pub(crate) async fn until_counted(node: &Node, line: &str) {
    node.eventually(line, async || {
        let metrics = node.get("/metrics").await?;
        if metrics.lines().any(|found| found == line) { Ok(()) } else { Err(metrics) }
    })
    .await;
}

fn log(node: &Node) -> String {
    fs::read_to_string(node.path("agent.log")).unwrap()
}

#[test]
fn a_denied_packet_is_told_to_all_who_watch_with_names_and_counted() {
    on_node(async |node| {
        let [a, b] = start(node, &[deny()]).await;
        let mut all = Monitor::start(node, &["-o", "json"]).await;
        let mut ingress =
            Monitor::start(node, &["-n", "default", "--pod", "b", "--direction", "ingress"]).await;
        let ports = a.send(&b);
        for (port, family) in ports.into_iter().zip(0..) {
            let event = all.event().await;
            let time = event["time"].as_str().unwrap();
            assert!(time.starts_with("20") && time.len() == 27 && time.ends_with('Z'), "{time}");
            let interface = EndpointId::of("b", "eth0").host_ifname();
            let expected = json!({
                "time": time, "node": "n1", "verdict": "drop", "direction": "ingress", "reason": "isolation",
                "source": {"address": a.addresses[family], "pod": {"namespace": "default", "name": "a"}},
                "destination": {"address": b.addresses[family], "pod": {"namespace": "default", "name": "b"}},
                "protocol": "UDP", "sourcePort": port, "destinationPort": PORT, "interface": interface,
                "policies": [{"kind": "NetworkPolicy", "namespace": "default", "name": "deny"}],
            });
            assert_eq!(event, expected);
            let [from, to] = [a.addresses[family], b.addresses[family]];
            let words = format!(
                "n1 drop  ingress UDP default/a ({from}):{port} -> default/b ({to}):{PORT}, dropped by NetworkPolicy default/deny"
            );
            let line = ingress.line().await;
            assert!(line.ends_with(&words), "{line}\n{words}");
        }
        let by_policy = |number| {
            format!(
                "margay_policy_drops_total{{kind=\"NetworkPolicy\",policy=\"default/deny\",direction=\"ingress\"}} {number}"
            )
        };
        until_counted(node, &by_policy(2)).await;
        until_counted(node, "margay_drops_total{reason=\"isolation\",direction=\"ingress\"} 2").await;
        assert!(!log(node).contains("dropped by"), "{}", log(node));
        // What was counted outlives the table.
        let before = fs::metadata(node.path("agent.log")).unwrap().len();
        assert!(Command::new("nft").args(["delete", "table", "inet", "margay"]).status().unwrap().success());
        node.eventually("the table is there again", async || table().map(|_| ())).await;
        assert!(fs::metadata(node.path("agent.log")).unwrap().len() > before);
        a.send(&b);
        all.event().await;
        all.event().await;
        until_counted(node, &by_policy(4)).await;
        // And the policy, for a while.
        node.delete("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/deny").await;
        node.eventually("b is open", async || {
            let listing = table()?;
            if listing.contains("jump s") { Err(listing) } else { Ok(()) }
        })
        .await;
        until_counted(node, &by_policy(4)).await;
        until_counted(node, "margay_drops_total{reason=\"isolation\",direction=\"ingress\"} 4").await;
    });
}

#[test]
fn nobody_listens_to_the_kernel_when_nobody_watches() {
    on_node(async |node| {
        let [a, b] = start(node, &[deny()]).await;
        let is_free = || Listener::open(GROUP, 128).is_ok();
        assert!(is_free());
        let mut first = Monitor::start(node, &[]).await;
        let mut second = Monitor::start(node, &[]).await;
        assert!(!is_free());
        a.send(&b);
        first.line().await;
        drop(first);
        second.line().await;
        assert!(!is_free());
        a.send(&b);
        second.line().await;
        drop(second);
        node.eventually("nobody listens", async || if is_free() { Ok(()) } else { Err("taken".into()) })
            .await;
        // Who comes while somebody else listens, is told so.
        let other = Listener::open(GROUP, 128).unwrap();
        let run_dir = format!("--run-dir={}", node.path("run").display());
        let refused = tokio::process::Command::new(program("margayctl")).args([&run_dir, "monitor"]).output();
        let refused = timeout(PATIENCE, refused).await.unwrap().unwrap();
        let words = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && words.contains("does another program listen to it"), "{words}");
        drop(other);
        Monitor::start(node, &[]).await;
    });
}

#[test]
fn drops_of_a_namespace_are_logged_when_its_annotation_says_so() {
    on_node(async |node| {
        put_namespace(node, &json!({"margay.dev/log-drops": "yes"}));
        let [a, b] = start(node, &[deny()]).await;
        let mut monitor = Monitor::start(node, &[]).await;
        a.send(&b);
        monitor.line().await;
        monitor.line().await;
        drop(monitor);
        let text = log(node);
        assert!(text.contains("Namespace default: annotation margay.dev/log-drops is `yes`"), "{text}");
        assert!(!text.contains("dropped by NetworkPolicy default/deny"), "{text}");
        put_namespace(node, &json!({"margay.dev/log-drops": "true"}));
        let logged = async |words: &str| {
            a.send(&b);
            let text = log(node);
            if text.lines().any(|line| line.contains(words)) { Ok(()) } else { Err(words.to_owned()) }
        };
        node.eventually("a line of the log", async || {
            logged("dropped by NetworkPolicy default/deny").await?;
            logged("source_pod=default/a").await
        })
        .await;
        // More than 20 at once, and 10 a second, are only counted.
        for _ in 0..30 {
            a.send(&b);
        }
        node.eventually("a line for the rest", async || {
            let text = log(node);
            if text.contains("more drops not logged") { Ok(()) } else { Err(text) }
        })
        .await;
    });
}

#[test]
fn an_audited_policy_lets_pass_and_says_what_it_would_have_dropped() {
    on_node(async |node| {
        put_namespace(node, &json!({"margay.dev/log-drops": "true"}));
        let mut trial = deny();
        trial["metadata"] = json!({"name": "trial", "annotations": {"margay.dev/enforcement": "audit"}});
        let out = json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"]});
        let [a, b] = start(node, &[trial, policy("closed", &out)]).await;
        let mut all = Monitor::start(node, &["-o", "json"]).await;
        let mut drops = Monitor::start(node, &["-o", "json", "--no-audit"]).await;
        for family in 0..2 {
            let server = b.socket(b.addresses[family], PORT);
            let client = a.socket(a.addresses[family], 0);
            client.send_to(b"on trial", (b.addresses[family], PORT)).unwrap();
            assert_eq!(server.recv_from(&mut [0; 16]).unwrap().0, 8);
            let event = all.event().await;
            assert_eq!(
                (&event["verdict"], &event["direction"]),
                (&json!("audit"), &json!("ingress")),
                "{event}"
            );
            assert_eq!(event["policies"][0]["name"], "trial");
            assert_eq!(event["source"]["pod"]["name"], "a");
        }
        b.send(&a);
        let event = drops.event().await;
        assert_eq!((&event["verdict"], &event["direction"]), (&json!("drop"), &json!("egress")), "{event}");
        assert_eq!(event["policies"][0]["name"], "closed");
        let labels = "kind=\"NetworkPolicy\",policy=\"default/trial\",direction=\"ingress\"";
        until_counted(node, &format!("margay_policy_audit_total{{{labels}}} 2")).await;
        let labels = "reason=\"isolation\",direction=\"egress\"";
        until_counted(node, &format!("margay_drops_total{{{labels}}} 2")).await;
        until_counted(node, "margay_drops_total{reason=\"isolation\",direction=\"ingress\"} 0").await;
        node.eventually("the log has it", async || {
            let text = log(node);
            let words = "would be dropped by NetworkPolicy default/trial";
            if text.contains(words) { Ok(()) } else { Err(text) }
        })
        .await;
    });
}

#[test]
fn drops_that_are_no_policys_say_why() {
    on_node(async |node| {
        let from_a = json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [{"podSelector": {}}]}]});
        let [a, b] = start(node, &[policy("in", &from_a)]).await;
        let mut monitor = Monitor::start(node, &["-o", "json"]).await;
        // A connection that the kernel has forgotten.
        let inside = b.namespace.enter().unwrap();
        let listener = TcpListener::bind((b.addresses[0], 80)).unwrap();
        drop(inside);
        let inside = a.namespace.enter().unwrap();
        let near = TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
        drop(inside);
        let (mut far, _) = listener.accept().unwrap();
        conntrack::forget(&[b.addresses[0]].into()).unwrap();
        far.write_all(b"hello").unwrap();
        let event = monitor.event().await;
        assert_eq!(
            (&event["reason"], &event["direction"]),
            (&json!("midstream"), &json!("egress")),
            "{event}"
        );
        assert_eq!((&event["source"]["pod"]["name"], &event["protocol"]), (&json!("b"), &json!("TCP")));
        assert!(event.get("policies").is_none());
        drop(near);
        // A pod that sends as another, of both families; a host outside has the address.
        let inside = a.namespace.enter().unwrap();
        ip("address add 198.51.100.9/32 dev eth0");
        ip("address add 2001:db8:9::9/128 dev eth0 nodad");
        drop(inside);
        for (address, to) in [("198.51.100.9", b.addresses[0]), ("2001:db8:9::9", b.addresses[1])] {
            let socket = a.socket(address.parse().unwrap(), 0);
            socket.send_to(b"hello", (to, PORT)).unwrap();
            let event = loop {
                let event = monitor.event().await;
                if event["reason"] != "midstream" {
                    break event;
                }
            };
            assert_eq!(
                (&event["reason"], &event["direction"]),
                (&json!("spoof"), &json!("egress")),
                "{event}"
            );
            let sender = json!({"address": address, "pod": {"namespace": "default", "name": "a"}});
            assert_eq!(event["source"], sender);
            assert_eq!(event["interface"], EndpointId::of("a", "eth0").host_ifname());
        }
        node.eventually("both are counted", async || {
            let metrics = node.get("/metrics").await?;
            let has = |labels: &str| metrics.contains(&format!("margay_drops_total{{{labels}}}"));
            let both = ["midstream", "spoof"]
                .map(|reason| has(&format!("reason=\"{reason}\",direction=\"egress\"")));
            if both == [true, true] { Ok(()) } else { Err(metrics) }
        })
        .await;
    });
}
