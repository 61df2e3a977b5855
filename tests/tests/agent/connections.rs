//! Connections that exist end when a change forbids them, and no others.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use margay_netlink::netns::Namespace;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::{
    node::{Node, on_node},
    plugin::{Call, Outcome, namespace},
};

/// How long what is allowed may take; and what is dropped is waited for, once it is known to be.
const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 80;

struct Pod {
    netns: Arc<Namespace>,
    addresses: Vec<IpAddr>,
}

async fn add(node: &Node, name: &'static str) -> Pod {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    node.api.put_raw(pod).unwrap();
    let netns = Arc::new(namespace());
    let call = Call::add(node.path(""), name, Arc::clone(&netns));
    let outcome = spawn_blocking(move || call.run()).await.unwrap();
    let Outcome::Success(result) = outcome else { panic!("ADD of {name}: {outcome:?}") };
    let addresses = result["ips"].as_array().unwrap().iter();
    let addresses =
        addresses.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap());
    Pod { addresses: addresses.collect(), netns }
}

/// Two ends of a connection from one namespace to an address in another.
fn connect(from: &Pod, to: &Pod, address: IpAddr) -> [TcpStream; 2] {
    let inside = to.netns.enter().unwrap();
    let listener = TcpListener::bind(SocketAddr::new(address, 0)).unwrap();
    drop(inside);
    let inside = from.netns.enter().unwrap();
    let near = TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
    drop(inside);
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
        end.set_nodelay(true).unwrap();
    }
    [near, far]
}

/// Whether octets come through both ways, in time.
fn works([near, far]: &mut [TcpStream; 2]) -> bool {
    let mut octet = [0];
    near.write_all(b"a").is_ok()
        && far.read_exact(&mut octet).is_ok()
        && far.write_all(b"b").is_ok()
        && near.read_exact(&mut octet).is_ok()
}

/// Whether what one end sends does not come to the other, although time enough is given; the far end speaks first.
fn is_dead([near, far]: &mut [TcpStream; 2]) -> bool {
    let mut octet = [0];
    for end in [&*near, &*far] {
        end.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    }
    // The far end first: that must not make a connection of its own of it.
    far.write_all(b"b").is_ok()
        && near.read(&mut octet).is_err()
        && near.write_all(b"a").is_ok()
        && far.read(&mut octet).is_err()
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec})
}

async fn start(node: &mut Node) {
    node.configure_agent(&json!({"bgp": {"enabled": false}, "reconcileSeconds": 1}));
    node.put_node(&json!({"podCIDRs": ["10.0.0.0/24", "2001:db8:7::/64"]}));
    node.start_agent();
    node.ready().await;
}

/// Until the log says that this many connections were ended.
async fn until_ended(node: &Node, count: usize) {
    node.eventually(&format!("{count} connections ended"), async || {
        let log = std::fs::read_to_string(node.path("agent.log")).unwrap();
        let ended = log.lines().filter(|line| line.contains("policy forbids them now"));
        let counts = ended.filter_map(|line| {
            let (_, rest) = line.split_once("connections")?;
            let digits: String =
                rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
            digits.parse::<usize>().ok()
        });
        let sum: usize = counts.sum();
        if sum == count { Ok(()) } else { Err(log) }
    })
    .await;
}

#[test]
fn what_a_policy_forbids_ends_whoever_speaks_next_and_the_rest_goes_on() {
    on_node(async |node| {
        start(node).await;
        let (web, client, other) =
            (add(node, "web").await, add(node, "client").await, add(node, "other").await);
        let mut denied = Vec::new();
        let mut allowed = Vec::new();
        for address in &web.addresses {
            denied.push(connect(&client, &web, *address));
            allowed.push(connect(&other, &web, *address));
        }
        for (address, own) in client.addresses.iter().zip(&other.addresses) {
            allowed.push(connect(&web, &client, *address));
            allowed.push(connect(&client, &other, *own));
        }
        assert!(denied.iter_mut().chain(&mut allowed).all(works));
        // Only the other may, and web itself may speak to the client.
        let only = json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "other"}}}]}],
        });
        node.api.put_raw(policy("only-other", &only)).unwrap();
        until_ended(node, denied.len()).await;
        assert!(denied.iter_mut().all(is_dead), "an ended connection lives on");
        assert!(allowed.iter_mut().all(works), "an allowed connection ended");
        // A peer that loses its label loses its connections.
        let mut pod = node.api.find("v1", "Pod", "default", "other").unwrap();
        pod["metadata"]["labels"]["app"] = json!("stranger");
        node.api.put_raw(pod).unwrap();
        until_ended(node, denied.len() + web.addresses.len()).await;
        let (mut gone, mut kept): (Vec<_>, Vec<_>) =
            allowed.into_iter().enumerate().partition(|(place, _)| *place < web.addresses.len());
        assert!(gone.iter_mut().all(|(_, ends)| is_dead(ends)));
        assert!(kept.iter_mut().all(|(_, ends)| works(ends)));
    });
}

#[test]
fn datagrams_and_what_an_agent_missed_end_too() {
    on_node(async |node| {
        start(node).await;
        let (web, client) = (add(node, "web").await, add(node, "client").await);
        let udp = |pod: &Pod, port| {
            let inside = pod.netns.enter().unwrap();
            let socket = UdpSocket::bind((pod.addresses[0], port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            drop(inside);
            socket
        };
        let (server, asking) = (udp(&web, PORT), udp(&client, 0));
        let ask = |text: &str| asking.send_to(text.as_bytes(), (web.addresses[0], PORT)).unwrap();
        let mut buffer = [0; 16];
        // A busy machine drops a datagram now and then.
        let is_answered = (0..20).any(|_| {
            ask("first");
            let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
            server.send_to(b"answer", from).unwrap();
            asking.recv(&mut buffer).is_ok()
        });
        assert!(is_answered);
        while server.recv_from(&mut buffer).is_ok() {}
        let mut stream = connect(&client, &web, web.addresses[1]);
        assert!(works(&mut stream));
        // The agent hears of it only when it is there again.
        node.kill_agent();
        let deny = json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]});
        node.api.put_raw(policy("deny", &deny)).unwrap();
        assert!(works(&mut stream));
        node.start_agent();
        until_ended(node, 2).await;
        ask("second");
        assert!(server.recv_from(&mut buffer).is_err());
        assert!(is_dead(&mut stream));
        drop(stream.map(|end| end.shutdown(Shutdown::Both)));
    });
}

#[test]
fn what_is_forbidden_ends_while_the_runtimes_configuration_cannot_be_written() {
    on_node(async |node| {
        start(node).await;
        let (web, client) = (add(node, "web").await, add(node, "client").await);
        let mut stream = connect(&client, &web, web.addresses[0]);
        assert!(works(&mut stream));
        // A file in the place of its directory.
        std::fs::remove_dir_all(node.path("cni")).unwrap();
        std::fs::write(node.path("cni"), "").unwrap();
        node.eventually("an agent that cannot configure its node", async || {
            let log = std::fs::read_to_string(node.path("agent.log")).unwrap();
            if log.contains("trying again") { Ok(()) } else { Err(log) }
        })
        .await;
        let deny = json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]});
        node.api.put_raw(policy("deny", &deny)).unwrap();
        until_ended(node, 1).await;
        assert!(is_dead(&mut stream));
    });
}
