//! The way that docs/operating.md leads somebody who has never seen Margay, line by line.

use std::process::Stdio;

use margay_lab::{Lab, LabConfig, Party, PodKey, Port};
use margay_tests::guide::{self, blocks, programs, text};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::cluster::{PATIENCE, start, until};

const ON_A_NODE: &str = "kubectl -n kube-system exec $agent -c margay-node -- margayctl ";
/// What is not run here: what takes machines, and cannot be had without a download; and what `agent/containerd/image.rs` runs.
const ELSEWHERE: [&str; 2] =
    ["kubeadm init --pod-network-cidr=10.244.0.0/16", "ctr -n k8s.io images import margay.tar"];
const ROLLOUT: &str = "kubectl -n kube-system rollout status daemonset/margay";

/// The lines of the blocks of commands below the first heading.
fn commands() -> Vec<String> {
    let text = text("docs/operating.md");
    let section = text.split("\n## ").nth(1).unwrap();
    assert!(section.starts_with("From a new cluster"), "{section}");
    blocks(section).flat_map(str::lines).map(str::to_owned).collect()
}

/// A line, for a shell on an operator's machine.
fn command(lab: &Lab, line: &str) -> Command {
    let mut command = Command::from(guide::shell(line, &lab.kubeconfig()));
    command.env("KUBECACHEDIR", lab.kubeconfig().with_file_name("kubectl")).kill_on_drop(true);
    command
}

/// Runs a line: what it printed, and its exit status.
pub(crate) async fn shell(lab: &Lab, line: &str) -> (String, Option<i32>) {
    let output = command(lab, line).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

fn client() -> PodKey {
    PodKey::new("app", "stranger")
}

fn server() -> PodKey {
    PodKey::new("app", "my-app")
}

fn node_of(lab: &Lab, pod: &PodKey) -> String {
    let pods = lab.ready_pods();
    let (_, node) = pods.iter().find(|(key, _)| key == pod).unwrap();
    node.clone()
}

async fn is_let_in(lab: &Lab) -> bool {
    let (from, to) = (Party::from(client()), Party::from(server()));
    lab.reach(&from, &to, Port::tcp(80)).await.unwrap().is_open()
}

/// Of the nodes so many have their pod.
fn roll_out(lab: &Lab, available: usize) {
    let api = lab.api_server().unwrap();
    let mut object = api.find("apps/v1", "DaemonSet", "kube-system", "margay").unwrap();
    guide::roll_out(&mut object, lab.nodes().len(), available);
    api.put_raw(object).unwrap();
}

/// The command waits until the pods of all nodes are there, and then ends well.
async fn waits_for_the_rollout(lab: &Lab) {
    let nodes = lab.nodes().len();
    roll_out(lab, 0);
    let mut waits = command(lab, ROLLOUT).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(waits.stdout.take().unwrap()).lines();
    for available in 0..nodes {
        let line = said.next_line().await.unwrap().unwrap();
        assert!(line.contains(&format!("{available} of {nodes} updated pods are available")), "{line}");
        roll_out(lab, available + 1);
    }
    let line = said.next_line().await.unwrap().unwrap();
    assert!(line.contains("successfully rolled out"), "{line}");
    assert!(waits.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_does_what_the_text_around_it_says() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let mut seen = 0;
    // What a line gives a name to is there in those that follow.
    let mut named = String::new();
    for line in commands() {
        if ELSEWHERE.contains(&line.as_str()) {
            continue;
        }
        seen += 1;
        if line == ROLLOUT {
            waits_for_the_rollout(&lab).await;
            continue;
        }
        if let Some((name, _)) = line.split_once("=$(") {
            named.extend([line.as_str(), "\n"]);
            let (said, status) = shell(&lab, &format!("set -e\n{named}echo ${name}")).await;
            assert_eq!(status, Some(0), "{line}: {said}");
            match name {
                "node" => assert_eq!(said.trim(), node_of(&lab, &server()), "{line}"),
                // The lab has no pods of a DaemonSet; that its pods would be found is what their label says.
                "agent" => {
                    let installed = text("manifests/margay.yaml");
                    let (label, value) = ("app.kubernetes.io/name", "margay");
                    assert!(
                        installed.contains(&format!("        {label}: {value}\n")),
                        "pods have the label"
                    );
                    assert!(line.contains(&format!("-l {label}={value} ")), "{line}");
                    assert!(line.contains(r#""spec.nodeName=$node""#), "{line}");
                }
                other => panic!("a name that nobody looks at: {other}"),
            }
            continue;
        }
        if let Some(arguments) = line.strip_prefix(ON_A_NODE) {
            // The first packet that is told of ends it.
            let command = format!("{}/margayctl {arguments} | head -n 1", programs().display());
            let node = lab.node_named(&node_of(&lab, &server())).unwrap();
            let arguments = ["-c", command.as_str()];
            let watching = node.output("sh", &arguments);
            let trying = async {
                loop {
                    assert!(!is_let_in(&lab).await, "the stranger is let in");
                }
            };
            let told = tokio::select! {
                told = watching => told.unwrap(),
                () = trying => String::new(),
            };
            for words in ["app/stranger (", "-> app/my-app (", "dropped by NetworkPolicy app/"] {
                assert!(told.contains(words), "{words}: {told}");
            }
            continue;
        }
        let (said, status) = shell(&lab, &line).await;
        match line.as_str() {
            // There is no such router here, and so it says.
            "margayctl bgp status" => {
                until(&lab, "the router is missed", async || {
                    let (said, status) = shell(&lab, &line).await;
                    (status == Some(1) && said.contains("rack-7")).then_some(())
                })
                .await;
            }
            // The lab has no pods of a DaemonSet.
            "margayctl status" => {
                assert!(said.contains("2 of 2 ready") && said.contains("no agent is there"), "{said}");
            }
            line if line.starts_with("margayctl policy explain") => {
                assert_eq!(status, Some(1), "{said}");
                assert!(said.contains("denied") && said.contains("app/deny-all"), "{said}");
            }
            _ => assert_eq!(status, Some(0), "{line}: {said}"),
        }
        if line.contains("allow-my-app.yaml") {
            lab.wait_pods(&[client(), server()], PATIENCE).await.unwrap();
            until(&lab, "the stranger is refused", async || (!is_let_in(&lab).await).then_some(())).await;
        }
    }
    assert!(seen >= 12, "{seen} lines were run");
    lab.stop().await;
}
