//! Whole clusters, with the real programs: build them first with `cargo build --workspace --bins`.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test by panicking")]

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use margay_lab::apiserver::ApiServer;
use margay_lab::{
    Daemon, ExternalConfig, FabricKind, IpFamilies, Lab, LabConfig, Party, PodKey, PodSpec, Port, clock,
    conformance,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(1);
const ALL: [&str; 3] = ["80/TCP", "80/UDP", "80/SCTP"];

fn ports() -> Vec<Port> {
    ALL.iter().map(|text| text.parse().unwrap()).collect()
}

async fn start(config: LabConfig) -> Lab {
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(LIMIT).await.unwrap();
    lab.create_namespace("app", &BTreeMap::new()).await.unwrap();
    lab
}

fn two_nodes() -> LabConfig {
    LabConfig { nodes: 2, ..LabConfig::default() }
}

/// A pod on each of two nodes, Ready.
async fn two_pods(lab: &Lab) -> [Party; 2] {
    let keys = [PodKey::new("app", "a"), PodKey::new("app", "b")];
    let pod = |node| PodSpec::new(&[], &ports()).on(node);
    lab.create_pods(&[(keys[0].clone(), pod("n1")), (keys[1].clone(), pod("n2"))]).await.unwrap();
    lab.wait_pods(&keys, LIMIT).await.unwrap();
    keys.map(Party::from)
}

async fn assert_open(lab: &Lab, parties: &[Party], open: bool) {
    for port in ports() {
        // Policy takes a moment to come everywhere.
        clock::until(Duration::from_secs(10), &format!("port {port} open={open}"), || async {
            let matrix = lab.matrix(parties, port).await.unwrap();
            matrix.differences(|_, _| open).is_empty().then_some(())
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_with_their_own_addresses_until_a_policy_says_no() {
    let lab = start(two_nodes()).await;
    let [a, b] = two_pods(&lab).await;
    let parties = [a.clone(), b.clone(), Party::Node("n1".into())];
    assert_open(&lab, &[a.clone(), b.clone()], true).await;
    let from_node = lab.reach(&parties[2], &b, Port::tcp(80)).await.unwrap();
    assert!(from_node.is_open(), "{from_node:?}");
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                metadata: {name: deny-all, namespace: app}\nspec: {podSelector: {}}\n";
    lab.kubectl(&["apply", "-f", "-"], deny).await.unwrap();
    assert_open(&lab, &[a, b], false).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_routed_fabric_pods_and_external_hosts_meet_over_ebgp() {
    let mut lab = start(LabConfig { fabric: FabricKind::Routed, ..two_nodes() }).await;
    let external =
        ExternalConfig { name: "web".into(), addresses: vec!["192.0.2.10".parse().unwrap()], ports: ports() };
    lab.attach_external(&external).await.unwrap();
    let [a, b] = two_pods(&lab).await;
    assert_open(&lab, &[a, b, Party::External("web".into())], true).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flat_fabric_takes_pod_traffic_of_external_hosts_but_not_between_nodes() {
    let mut lab = start(LabConfig { ip_families: IpFamilies::Dual, ..two_nodes() }).await;
    let addresses = ["192.0.2.10", "2001:db8:100::10"].map(|text| text.parse().unwrap()).into();
    let external = ExternalConfig { name: "web".into(), addresses, ports: ports() };
    lab.attach_external(&external).await.unwrap();
    let [a, b] = two_pods(&lab).await;
    assert_open(&lab, &[a.clone(), b.clone(), Party::External("web".into())], true).await;
    let Party::Pod(key) = &b else { unreachable!() };
    for address in lab.pod_addresses(key) {
        for from in [&a, &Party::External("web".into())] {
            for port in ports() {
                let reach = lab.reach_address(from, address, port).await.unwrap();
                assert!(reach.is_open(), "{from} to {address} {port}: {reach:?}");
            }
        }
    }
    // Without the routes that BGP brings, which the speaker would put back, the gateway must not help.
    lab.node(0).signal(Daemon::Bgp, Signal::SIGSTOP).unwrap();
    lab.node(0).output("ip", &["route", "flush", "proto", "bgp"]).await.unwrap();
    let cell = lab.reach(&a, &b, Port::tcp(80)).await.unwrap();
    assert!(!cell.reach.is_open(), "{cell:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_add_is_told_in_an_event_and_tried_until_it_succeeds() {
    let lab = start(LabConfig { nodes: 1, ..LabConfig::default() }).await;
    lab.node(0).stop_daemon(Daemon::Agent).await;
    let key = PodKey::new("app", "a");
    lab.create_pods(&[(key.clone(), PodSpec::new(&[], &ports()))]).await.unwrap();
    let events: Api<Event> = Api::namespaced(lab.client(), "app");
    let message = clock::until(LIMIT, "an event", || async {
        let events = events.list(&ListParams::default()).await.unwrap();
        events
            .into_iter()
            .find(|e| e.reason.as_deref() == Some("FailedCreatePodSandBox"))
            .and_then(|e| e.message)
    })
    .await
    .unwrap();
    assert!(message.contains("plugin type=\"margay\" failed (add)"), "{message}");
    lab.node(0).start_daemon(Daemon::Agent).await;
    lab.wait_pods(&[key], LIMIT).await.unwrap();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_started_again_and_the_api_can_go_away_and_return() {
    let lab = start(two_nodes()).await;
    let parties = two_pods(&lab).await;
    let before = lab.node(0).pid(Daemon::Agent).unwrap();
    lab.node(0).signal(Daemon::Agent, Signal::SIGKILL).unwrap();
    assert_open(&lab, &parties, true).await;
    clock::until(LIMIT, "another agent", || async {
        lab.node(0).pid(Daemon::Agent).filter(|pid| *pid != before)
    })
    .await
    .unwrap();
    lab.cut_api().await;
    // A request that was on its way may still be answered.
    let is_away = || async { lab.client().apiserver_version().await.is_err().then_some(()) };
    clock::until(LIMIT, "the API is away", is_away).await.unwrap();
    assert_open(&lab, &parties, true).await;
    lab.restore_api().unwrap();
    lab.wait_nodes_ready(LIMIT).await.unwrap();
    let late = PodKey::new("app", "late");
    lab.create_pods(&[(late.clone(), PodSpec::new(&[], &ports()))]).await.unwrap();
    lab.wait_pods(&[late], LIMIT).await.unwrap();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_others_can_be_the_api_server() {
    let server = ApiServer::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(server.serve(listener, std::future::pending()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}],\
         contexts: [{{name: c, context: {{cluster: c}}}}]}}"
    );
    std::fs::write(&path, text).unwrap();
    let lab = start(LabConfig { kubeconfig: Some(path), ..two_nodes() }).await;
    assert!(lab.api_server().is_none());
    let parties = two_pods(&lab).await;
    assert_open(&lab, &parties, true).await;
    let nodes: Api<Node> = Api::all(lab.client());
    lab.stop().await;
    assert!(nodes.list(&ListParams::default()).await.unwrap().items.is_empty());
    serving.abort();
}

/// A case that uses what no case of the shared set does.
const EVERYTHING: &str = "
name: everything
needs: [ip-reuse, long-connections, terminating-pods, sidecars, startup-probes, host, host-pods, raw-objects, external]
probe: {nodes: true, ports: [80/TCP, 53/UDP]}
cluster:
  nodes: {n1: {zone: a}, n2: {}}
  namespaces: {x: {}}
  pods:
    - {name: x/a, ports: [80/TCP, 53/UDP], node: n1}
    - {name: x/b, labels: {b: yes}, ports: [80/TCP], sidecar-ports: [53/UDP], node: n2}
    - {name: x/h, host: true, ports: [8080/TCP], node: n1}
  external: {e: {ipv4: 192.0.2.10, ports: [80/TCP]}}
steps:
  - name: open
    expect: {default: allow, self: allow}
    open: {t: {from: x/a, to: x/b, port: 80/TCP}, u: {from: x/a, to: x/b, port: 53/UDP}}
  - name: terminate
    terminate: [x/b]
    expect: {default: allow, open: {t: alive, u: alive}}
  - name: remove
    remove: [x/b]
    expect: {default: allow, open: {t: ended, u: ended}}
  - name: isolate
    apply:
      - apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata: {namespace: x, name: closed}
        spec: {podSelector: {matchLabels: {b: 'yes'}}}
    expect: {default: allow}
  - name: again
    pods: [{name: x/c, labels: {b: 'yes'}, ports: [80/TCP], node: n2, reuse-ip-of: x/b}]
    expect: {default: allow, rules: [{deny: {to: x/c}}, {allow: {from: 'node:n2', to: x/c}}], from-start: true}
  - name: finish
    finish: [x/c]
    expect: {default: allow}
";

async fn run(cases: &[(&str, &str)]) -> conformance::Report {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in cases {
        std::fs::write(directory.path().join(format!("{name}.yaml")), text).unwrap();
    }
    let paths = [directory.path().to_owned()];
    conformance::run(&paths, two_nodes(), |line| {
        tracing::info!(line);
        Ok(())
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_takes_every_step_of_the_format() {
    let report = run(&[("everything", &EVERYTHING.replace("b: yes", "b: 'yes'"))]).await;
    assert_eq!(report.counts(), (1, 0, 0), "{:#}", report.to_json());
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_names_the_rows_that_are_wrong_and_the_needs_that_are_not_met() {
    let cluster = "{namespaces: {x: {}}, pods: [{name: x/a, ports: [80/TCP]}, {name: x/b, ports: [80/TCP]}]}";
    let wrong = format!(
        "name: wrong\ncluster: {cluster}\nsteps: [{{name: one, expect: {{default: allow, rules: [{{deny: {{to: x/b}}}}]}}}}]"
    );
    let unmet = format!("name: unmet\nneeds: [sctp, teleport]\ncluster: {cluster}\nsteps: [{{}}]");
    let report = run(&[("unmet", &unmet), ("wrong", &wrong)]).await;
    let json = report.to_json();
    assert_eq!(report.counts(), (0, 1, 1), "{json:#}");
    assert_eq!(json["cases"][0]["reason"], "needs teleport");
    let failure = &json["cases"][1]["failures"][0];
    let row = ["step", "from", "to", "port", "expected", "seen"].map(|key| failure[key].as_str().unwrap());
    assert_eq!(row, ["one", "x/a", "x/b", "80/TCP", "deny", "open"]);
}

/// Processes below one.
fn descendants(of: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// What the host itself has where nodes have theirs: its own network plugins may have something there.
fn of_host() -> Vec<Vec<String>> {
    let names = |path: &&str| {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    ["/etc/cni/net.d", "/run/margay", "/var/lib/margay"].iter().map(names).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_demo_that_is_killed_or_interrupted() {
    let before = of_host();
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_margay-lab"))
            .args(["demo", "--nodes", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let children = clock::until(LIMIT, "the demo's processes", || async {
            let children = descendants(demo.id());
            (children.len() >= 4).then_some(children)
        })
        .await
        .unwrap();
        kill(Pid::from_raw(demo.id().try_into().unwrap()), signal).unwrap();
        let status = tokio::task::spawn_blocking(move || demo.wait().unwrap()).await.unwrap();
        assert!(!status.success());
        clock::until(LIMIT, "the end of the demo's processes", || async {
            (!children.iter().copied().any(is_running)).then_some(())
        })
        .await
        .unwrap();
    }
    assert_eq!(of_host(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_pod_frees_its_network_and_finishing_it_keeps_the_object() {
    let lab = start(LabConfig { nodes: 1, ..LabConfig::default() }).await;
    let keys = [PodKey::new("app", "a"), PodKey::new("app", "b")];
    lab.create_pods(&keys.clone().map(|key| (key, PodSpec::new(&[], &ports())))).await.unwrap();
    lab.wait_pods(&keys, LIMIT).await.unwrap();
    lab.finish_pod(&keys[0]).await.unwrap();
    lab.delete_pods(&keys[1..]).await.unwrap();
    let left = std::fs::read_dir(lab.node(0).path("/run/margay/endpoints")).unwrap().count();
    assert_eq!(left, 0);
    let namespaces = std::fs::read_dir(lab.node(0).path("/run/netns")).unwrap().count();
    assert_eq!(namespaces, 0);
    assert_eq!(phases(lab.client()).await, ["Succeeded"]);
    lab.stop().await;
}

async fn phases(client: Client) -> Vec<String> {
    let pods = Api::<Pod>::namespaced(client, "app").list(&ListParams::default()).await.unwrap();
    pods.into_iter().filter_map(|pod| pod.status?.phase).collect()
}
