//! A cluster for one test, and what the tests look at.

use std::{net::IpAddr, time::Duration};

use margay_lab::{ExternalConfig, Lab, LabConfig, Party, PodKey, PodSpec, Port, Reach, clock, program};
use tokio::{process::Command, time::timeout};

pub(crate) const PORT: Port = Port::tcp(8080);
/// How long anything may take before a test fails, in a machine of software too (`make test-kernels`).
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// A cluster with a pod on each node: a on n1, b on n2, ...
pub(crate) async fn start(config: LabConfig) -> Lab {
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    let pods: Vec<(PodKey, PodSpec)> = ["a", "b", "c"]
        .into_iter()
        .zip(lab.nodes())
        .map(|(name, node)| (key(name), PodSpec::new(&[("name", name)], &[PORT]).on(node.name())))
        .collect();
    lab.create_pods(&pods).await.unwrap();
    let keys: Vec<PodKey> = pods.into_iter().map(|(key, _)| key).collect();
    lab.wait_pods(&keys, PATIENCE).await.unwrap();
    lab
}

pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

pub(crate) fn pod(name: &str) -> Party {
    Party::from(key(name))
}

pub(crate) async fn apply(lab: &Lab, yaml: &str) {
    lab.kubectl(&["apply", "-f", "-"], yaml).await.unwrap();
}

/// Waits until something is so; what a node has of routes, and the logs, otherwise.
pub(crate) async fn until(lab: &Lab, what: &str, look: impl AsyncFn() -> bool) {
    let found = clock::until(PATIENCE, what, || async { look().await.then_some(()) }).await;
    if let Err(error) = found {
        let mut routes = Vec::new();
        for node in lab.nodes() {
            routes.push(node.output("ip", &["route"]).await.unwrap());
        }
        panic!("{error:#}; routes by node:\n{}{}", routes.join("\n"), lab.log_tail(25));
    }
}

/// Waits until all pods reach all pods, and all nodes reach them, seen with their own addresses, in all families.
pub(crate) async fn until_connected(lab: &Lab) {
    let pods = lab.ready_pods().into_iter().map(|(key, _)| Party::from(key));
    let nodes = lab.nodes().iter().map(|node| Party::Node(node.name().to_owned()));
    let parties: Vec<Party> = pods.chain(nodes).collect();
    let serves = |party: &Party| matches!(party, Party::Pod(_));
    let look = || async {
        let matrix = lab.matrix_of(&parties, PORT, serves).await.unwrap();
        matrix.differences(|_, _| true).is_empty().then_some(())
    };
    if let Err(error) = clock::until(PATIENCE, "all reach all", look).await {
        let matrix = lab.matrix_of(&parties, PORT, serves).await.unwrap();
        panic!("{error:#}\n{matrix}\n{:?}{}", matrix.differences(|_, _| true), lab.log_tail(25));
    }
    // The matrix asks over IPv4 where it can.
    for (to, _) in lab.ready_pods() {
        for address in lab.pod_addresses(&to).into_iter().filter(IpAddr::is_ipv6) {
            for from in &parties {
                until(lab, &format!("{from} reaches {address}"), async || {
                    lab.reach_address(from, address, PORT).await.unwrap().is_open()
                })
                .await;
            }
        }
    }
}

/// The routes to blocks of others that a node's agent has made, in short: the block, and the device that it leads to.
pub(crate) async fn ways(lab: &Lab, node: usize) -> Vec<String> {
    let routes = lab.node(node).overlay_routes().await.unwrap();
    let lead = |route: &String| {
        let mut words = route.split(' ');
        let block = words.next()?.to_owned();
        let device = words.skip_while(|word| *word != "dev").nth(1)?;
        (block != "blackhole").then(|| format!("{block} {device}"))
    };
    routes.iter().filter_map(lead).collect()
}

pub(crate) async fn until_ways(lab: &Lab, node: usize, wanted: &[&str]) {
    until(lab, &format!("n{} has the ways {wanted:?}", node + 1), async || ways(lab, node).await == wanted)
        .await;
}

/// Whether pods that are added to a node get this MTU.
pub(crate) fn gives_mtu(lab: &Lab, node: usize, octets: u32) -> bool {
    let path = lab.node(node).path("/etc/cni/net.d/10-margay.conflist");
    std::fs::read_to_string(path).unwrap().contains(&format!("\"mtu\": {octets},"))
}

/// Connects a host outside of the cluster, with an address of each family.
pub(crate) async fn attach_outside(lab: &mut Lab) {
    let addresses = OUTSIDE.map(|text| text.parse().unwrap()).into();
    let config = ExternalConfig { name: "outside".into(), addresses, ports: vec![PORT] };
    lab.attach_external(&config).await.unwrap();
}

const OUTSIDE: [&str; 2] = ["203.0.113.10", "2001:db8:113::10"];

/// From which address the host outside sees a pod, in the family of its address of this number.
pub(crate) async fn seen_outside(lab: &Lab, from: &str, family: usize) -> Option<IpAddr> {
    match lab.reach_address(&pod(from), OUTSIDE[family].parse().unwrap(), PORT).await.unwrap() {
        Reach::Open { client } => Some(client),
        Reach::Closed { .. } => None,
    }
}

/// What `margayctl` prints on a node, whatever its exit status.
pub(crate) async fn margayctl(lab: &Lab, node: usize, args: &str) -> String {
    let command = format!("{} {args} || true", program("margayctl").unwrap().display());
    lab.node(node).output("sh", &["-c", &command]).await.unwrap()
}

/// What `margayctl status` prints for who asks the API server alone, whatever its exit status.
pub(crate) async fn glance(lab: &Lab) -> String {
    let mut command = Command::new(program("margayctl").unwrap());
    let command = command.arg("status").env("KUBECONFIG", lab.kubeconfig()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program in a pod's network; what it printed on either output.
pub(crate) async fn inside(lab: &Lab, pod: &str, command: &str) -> String {
    let (node, netns) = lab.pod_netns(&key(pod)).unwrap();
    let enter = format!("nsenter --net={} {command} 2>&1 || true", netns.unwrap().display());
    node.output("sh", &["-c", &enter]).await.unwrap()
}

/// Whether a packet of this length that must not be cut comes through and back.
pub(crate) async fn passes(lab: &Lab, from: &str, to: &str, octets: usize) -> Result<(), String> {
    let to = lab.pod_addresses(&key(to))[0];
    // The header of IPv4 or IPv6, and 8 octets of ICMP.
    let payload = octets - if to.is_ipv4() { 20 } else { 40 } - 8;
    let said = inside(lab, from, &format!("ping -n -c 1 -W 2 -M do -s {payload} {to}")).await;
    if said.contains(" 1 received") { Ok(()) } else { Err(said) }
}

/// Packets of this length come through and back, and the sender of longer ones is told it.
pub(crate) async fn carries_at_most(lab: &Lab, from: &str, to: &str, mtu: usize) {
    passes(lab, from, to, mtu).await.unwrap();
    let said = passes(lab, from, to, mtu + 1).await.unwrap_err();
    assert!(
        said.contains(&format!("message too long, mtu: {mtu}")) || said.contains(&format!("mtu={mtu}")),
        "{said}"
    );
}

const ALLOW_A: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: from-a, namespace: default}\n\
    spec: {podSelector: {matchLabels: {name: b}}, ingress: [{from: [{podSelector: {matchLabels: {name: a}}}]}]}\n";

/// A policy that lets nobody but a reach b sees who is who, and is gone when it is deleted.
pub(crate) async fn policy_knows_pods(lab: &Lab, stranger: &str) {
    apply(lab, ALLOW_A).await;
    let reaches = async |from: &str| lab.reach(&pod(from), &pod("b"), PORT).await.unwrap().is_open();
    until(lab, &format!("b is closed to {stranger}"), async || !reaches(stranger).await).await;
    assert!(reaches("a").await);
    lab.kubectl(&["delete", "networkpolicy", "from-a"], "").await.unwrap();
    until(lab, &format!("b is open to {stranger}"), async || reaches(stranger).await).await;
}
