//! A real runtime, containerd with runc, runs sandboxes with our plugin and our agent.

mod cri;
mod image;
mod runtime;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    time::Duration,
};

use cri::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping};
use margay_api::endpoint::{EndpointId, Records};
use margay_ipam::Store;
use margay_netlink::{Socket, link, netns::Namespace};
use runtime::{GREETING, PORT, Runtime};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    node::{Node, on_node},
    plugin::{Call, Outcome, namespace},
};

const PATIENCE: Duration = Duration::from_secs(10);
const BLOCKS: [&str; 2] = ["10.0.0.0/24", "2001:db8:7::/64"];

/// A node with an agent that has written its network configuration, with these plugins behind ours.
async fn prepare(node: &mut Node, chained: &[Value]) {
    let config = json!({"reconcileSeconds": 1, "bgp": {"enabled": false}, "chainedPlugins": chained});
    node.configure_agent(&config);
    node.put_node(&json!({"podCIDR": BLOCKS[0], "podCIDRs": BLOCKS}));
    // Without one, the node would speak to a new pod from a link-local address that is not confirmed yet.
    ip("address add 2001:db8::1/128 dev lo");
    node.start_agent();
    node.ready().await;
}

/// A pod that the API server knows, as a kubelet hands it to the runtime for the first time.
fn pod(node: &Node, runtime: &Runtime, name: &str) -> PodSandboxConfig {
    let uid = format!("uid-of-{name}");
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": uid},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    node.api.put_raw(object).unwrap();
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid,
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: runtime.cgroup.clone() }),
        ..PodSandboxConfig::default()
    }
}

/// What pods have left: host links, addresses held, records.
fn left(node: &Node) -> (usize, usize, usize) {
    let links = link::list(&mut Socket::open().unwrap()).unwrap();
    (
        links.iter().filter(|link| link.name.starts_with("mgy")).count(),
        Store::new(&node.path("lib/ipam")).allocations().unwrap().len(),
        Records::below(&node.path("run")).list().unwrap().endpoints.len(),
    )
}

/// Addresses are freed a moment after their pod is gone, and what was cut off is the agent's to take back.
async fn until_nothing_is_left(node: &Node) {
    node.eventually("nothing is left", async || {
        let left = left(node);
        if left == (0, 0, 0) { Ok(()) } else { Err(format!("links, addresses, records: {left:?}")) }
    })
    .await;
}

/// Asks a sandbox's web server, from the namespace of the calling thread.
fn greet(address: IpAddr, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The server may not have come to listen yet.
async fn until_greeted(node: &Node, address: IpAddr, port: u16) {
    node.eventually("the sandbox answers", async || {
        let text = greet(address, port).map_err(|error| format!("{address}: {error}"))?;
        if text.ends_with(GREETING) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[test]
fn a_sandbox_has_its_addresses_answers_and_leaves_nothing() {
    on_node(async |node| {
        prepare(node, &[]).await;
        let runtime = Runtime::start(node).await;
        let client = &runtime.client;
        let id = client
            .run(pod(node, &runtime, "a"))
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", runtime.log()));
        let addresses = client.addresses(&id).await.unwrap();
        let record = Records::below(&node.path("run")).read(&EndpointId::of(&id, "eth0")).unwrap().unwrap();
        assert_eq!(addresses, record.addresses);
        let named = record.pod.unwrap();
        assert_eq!((named.to_string().as_str(), named.uid.as_deref()), ("default/a", Some("uid-of-a")));
        assert_eq!(addresses.len(), 2);
        for address in addresses {
            until_greeted(node, address, PORT).await;
        }
        assert_eq!(left(node), (1, 2, 1));
        client.stop(&id).await.unwrap();
        until_nothing_is_left(node).await;
        // The kubelet stops and removes what is stopped already.
        client.stop(&id).await.unwrap();
        client.remove(&id).await.unwrap();
        client.remove(&id).await.unwrap();
    });
}

/// A host beside the node, on a link of its own.
fn neighbour_host() -> Namespace {
    let host = namespace();
    fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), host.as_fd().as_raw_fd());
    ip(&format!("link add uplink type veth peer name eth0 netns {path}"));
    ip("address add 198.51.100.1/24 dev uplink");
    ip("link set uplink up");
    {
        let _inside = host.enter().unwrap();
        ip("address add 198.51.100.2/24 dev eth0");
        ip("link set eth0 up");
    }
    host
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "{arguments}");
}

#[test]
fn a_host_port_leads_to_its_sandbox_through_portmap_behind_us() {
    on_node(async |node| {
        prepare(node, &[json!({"type": "portmap", "capabilities": {"portMappings": true}})]).await;
        let host = neighbour_host();
        let runtime = Runtime::start(node).await;
        let mut config = pod(node, &runtime, "a");
        config.port_mappings =
            vec![PortMapping { protocol: 0, container_port: PORT.into(), host_port: 8081 }];
        let id =
            runtime.client.run(config).await.unwrap_or_else(|error| panic!("{error}\n{}", runtime.log()));
        let address = runtime.client.addresses(&id).await.unwrap()[0];
        until_greeted(node, address, PORT).await;
        let from_outside = || {
            let _inside = host.enter().unwrap();
            greet("198.51.100.1".parse().unwrap(), 8081)
        };
        assert!(from_outside().unwrap().ends_with(GREETING));
        runtime.client.stop(&id).await.unwrap();
        assert_eq!(from_outside().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        until_nothing_is_left(node).await;
    });
}

/// Makes sandboxes at the same time, each in at most so many attempts; each outcome as it comes.
fn run_all(
    node: &Node,
    runtime: &Runtime,
    names: impl Iterator<Item = String>,
    attempts: u32,
) -> JoinSet<Result<String, String>> {
    let mut running = JoinSet::new();
    for name in names {
        let (client, config) = (runtime.client.clone(), pod(node, runtime, &name));
        running.spawn(async move {
            let mut outcome = Err("no attempt".into());
            for attempt in 0..attempts {
                let mut config = config.clone();
                config.metadata.as_mut().unwrap().attempt = attempt;
                outcome = client.run(config).await;
                if outcome.is_ok() {
                    break;
                }
            }
            outcome
        });
    }
    running
}

/// The IDs of sandboxes that must all have been made.
fn made(runtime: &Runtime, outcomes: Vec<Result<String, String>>) -> Vec<String> {
    let id = |outcome: Result<_, _>| outcome.unwrap_or_else(|error| panic!("{error}\n{}", runtime.log()));
    outcomes.into_iter().map(id).collect()
}

async fn stop_all(runtime: &Runtime, ids: Vec<String>) {
    let mut stopping = JoinSet::new();
    for id in ids {
        let client = runtime.client.clone();
        stopping.spawn(async move {
            client.stop(&id).await?;
            client.remove(&id).await
        });
    }
    for outcome in stopping.join_all().await {
        outcome.unwrap_or_else(|error| panic!("{error}\n{}", runtime.log()));
    }
}

async fn addresses_of(runtime: &Runtime, ids: &[String]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for id in ids {
        addresses.extend(runtime.client.addresses(id).await.unwrap());
    }
    addresses
}

#[test]
fn many_sandboxes_at_once_come_with_addresses_of_their_own_and_go() {
    const COUNT: usize = 30;
    on_node(async |node| {
        prepare(node, &[]).await;
        let runtime = Runtime::start(node).await;
        let outcomes = run_all(node, &runtime, (0..COUNT).map(|number| format!("pod-{number}")), 1);
        let ids = made(&runtime, outcomes.join_all().await);
        let addresses = addresses_of(&runtime, &ids).await;
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 2 * COUNT);
        for address in addresses {
            until_greeted(node, address, PORT).await;
        }
        assert_eq!(left(node), (COUNT, 2 * COUNT, COUNT));
        stop_all(&runtime, ids).await;
        until_nothing_is_left(node).await;
    });
}

/// GC as a runtime calls it, with the sandboxes that it knows.
fn collect_garbage(node: &Node, valid: &[String]) {
    let named: Vec<Value> = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
    let call = Call {
        verb: "GC",
        network: "margay",
        container: String::new(),
        ifname: "",
        netns: None,
        pod: None,
        more: json!({"cni.dev/valid-attachments": named}),
        directory: node.path(""),
    };
    let outcome = call.run();
    assert!(matches!(outcome, Outcome::Success(_)), "{outcome:?}");
}

/// What has come of the sandboxes when containerd is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The first links are there.
    Links,
    /// The first are ready.
    Ready,
}

#[test]
fn a_killed_containerd_leaves_no_address_lost_or_given_twice() {
    const COUNT: usize = 12;
    const FIRST: usize = 3;
    for moment in [Moment::Links, Moment::Ready] {
        on_node(async |node| {
            prepare(node, &[]).await;
            let mut runtime = Runtime::start(node).await;
            let mut running = run_all(node, &runtime, (0..COUNT).map(|number| format!("early-{number}")), 1);
            let mut early = Vec::new();
            match moment {
                Moment::Links => {
                    let look =
                        async || if left(node).0 < FIRST { Err("no link yet".to_owned()) } else { Ok(()) };
                    node.eventually("links are made", look).await;
                }
                Moment::Ready => {
                    for _ in 0..FIRST {
                        early.push(running.join_next().await.unwrap().unwrap().unwrap());
                    }
                }
            }
            runtime.kill_containerd();
            early.extend(running.join_all().await.into_iter().flatten());
            assert!(early.len() < COUNT, "nothing was cut off");
            runtime.start_containerd(node).await;

            // Those that were ready go on, with their addresses, which nobody else gets.
            let kept = addresses_of(&runtime, &early).await;
            for address in &kept {
                until_greeted(node, *address, PORT).await;
            }
            // A containerd that was killed finds snapshots that it did not know of, once each, and fails.
            let late = run_all(node, &runtime, (0..COUNT).map(|number| format!("late-{number}")), 5);
            let late = made(&runtime, late.join_all().await);
            let all: Vec<IpAddr> = kept.into_iter().chain(addresses_of(&runtime, &late).await).collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 2 * (early.len() + late.len()));

            // containerd 1.6 knows of those that were cut off too; others forget them, and a GC is for what they forget.
            let known = runtime.client.list().await.unwrap();
            collect_garbage(node, &known);
            for address in all {
                until_greeted(node, address, PORT).await;
            }
            stop_all(&runtime, known).await;
            until_nothing_is_left(node).await;
        });
    }
}
