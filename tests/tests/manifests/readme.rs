//! What README.md has a reader type is run as it stands there, line by line; a line that no test knows fails.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use margay_tests::guide::{self, blocks, project, text};
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn readme() -> String {
    text("README.md")
}

/// A line of a block: the command, and what is said of it behind `#`.
struct Line {
    command: String,
    comment: String,
}

/// The lines of all blocks but the first, which is a picture.
fn lines() -> Vec<Line> {
    let text = readme();
    let mut blocks = blocks(&text);
    assert!(blocks.next().unwrap().contains("Kubernetes API"), "the first block is the picture");
    let line = |line: &str| {
        let (command, comment) = line.split_once("  #").unwrap_or((line, ""));
        Line { command: command.trim().to_owned(), comment: comment.trim().to_owned() }
    };
    blocks.flat_map(str::lines).map(line).collect()
}

/// That there is all that an installation has.
async fn is_installed(cluster: &Cluster, line: &str) {
    let account = cluster.api.find("v1", "ServiceAccount", "kube-system", "margay");
    assert!(account.is_some(), "{line}");
    let pods = cluster.read(&["-n", "kube-system", "daemonset", "margay"]).await;
    assert!(pods["spec"]["template"]["spec"]["containers"].is_array(), "{line}");
    let definitions = cluster.api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition").len();
    assert!(definitions >= 6, "{line}: {definitions}");
}

/// All pods of one node run.
fn finish_rollout(cluster: &Cluster) {
    let mut object = cluster.api.find("apps/v1", "DaemonSet", "kube-system", "margay").unwrap();
    guide::roll_out(&mut object, 1, 1);
    cluster.api.put_raw(object).unwrap();
}

/// The command waits for the pods, and ends when they are there.
async fn waits_for_the_rollout(cluster: &Cluster, line: &str) {
    let mut child = cluster.shell(line).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let (first, said) = tokio::task::spawn_blocking(move || (said.next(), said)).await.unwrap();
    let first = first.unwrap().unwrap();
    assert!(first.starts_with("Waiting for daemon set"), "{line}: {first}");
    finish_rollout(cluster);
    let (rest, status) = tokio::task::spawn_blocking(move || {
        let rest: Vec<String> = said.map(Result::unwrap).collect();
        (rest, child.wait().unwrap())
    })
    .await
    .unwrap();
    assert!(status.success(), "{line}: {rest:?}");
    assert!(rest.iter().any(|line| line.contains("successfully rolled out")), "{rest:?}");
}

/// The overlays that a line names: in its path, and behind `also:`.
fn overlays(line: &Line) -> Vec<String> {
    let path = line.command.strip_prefix("kubectl apply -k manifests/overlays/").unwrap();
    let others = line.comment.strip_prefix("also: ").unwrap().split(", ");
    std::iter::once(path).chain(others).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_its_blocks_is_run() {
    // The last of the ways to install it has what the commands after it look at.
    let mut cluster = Cluster::new().await;
    let mut seen = 0;
    for line in lines() {
        seen += 1;
        let command = line.command.as_str();
        match command.split(' ').collect::<Vec<_>>()[..] {
            // Each is a test of minutes, or runs this one: that there is such a target must do.
            ["make", target] => is_a_target(target),
            // `agent/containerd/image.rs` takes these two from here, and runs them with the archive of the tests.
            ["ctr" | "skopeo", ..] => {}
            ["kubectl", "apply", "-f", _] => {
                cluster = Cluster::new().await;
                cluster.succeed(command).await;
                is_installed(&cluster, command).await;
            }
            ["kubectl", "apply", "-k", _] => {
                let mut named = overlays(&line);
                for overlay in &named {
                    cluster = Cluster::new().await;
                    cluster.succeed(&format!("kubectl apply -k manifests/overlays/{overlay}")).await;
                    is_installed(&cluster, overlay).await;
                }
                named.sort();
                let there = std::fs::read_dir(project().join("manifests/overlays")).unwrap();
                let mut there: Vec<String> =
                    there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                there.sort();
                assert_eq!(named, there, "the overlays that there are");
            }
            ["helm", "install", ..] => {
                cluster = Cluster::new().await;
                let said = cluster.succeed(command).await;
                assert!(said.contains("STATUS: deployed"), "{said}");
                is_installed(&cluster, command).await;
            }
            ["kubectl", "-n", "kube-system", "rollout", "status", "daemonset/margay"] => {
                waits_for_the_rollout(&cluster, command).await;
            }
            // There is a node, and no agent on it, which is what it has to say.
            ["margayctl", "status"] => {
                cluster
                    .api
                    .put_raw(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}))
                    .unwrap();
                let (said, status) = cluster.run(command).await;
                assert_eq!(status, Some(1), "{said}");
                assert!(said.contains("no agent is there"), "{said}");
            }
            _ => panic!("README.md has a line that no test runs: {command}"),
        }
    }
    assert!(seen >= 10, "{seen} lines were run");
}

#[test]
fn the_targets_and_programs_that_it_names_in_its_text_are_there() {
    let text = readme();
    let spans: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|span| !span.contains('\n')).collect();
    let mut seen = 0;
    for span in spans {
        let words: Vec<&str> = span.split(' ').collect();
        match words[..] {
            ["make", target] | ["sudo", "env", .., "make", target] => is_a_target(target),
            ["cargo", "build", "--release", "-p", package] => is_a_program(package),
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen >= 4, "{seen} were looked at");
}

/// That make has a way to it, and its own list the target.
fn is_a_target(target: &str) {
    let make = |arguments: &[&str]| {
        let output = Command::new("make").args(arguments).current_dir(project()).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "make {arguments:?}: {text}");
        text
    };
    assert!(!make(&["-n", target]).is_empty(), "{target}");
    let list = make(&["help"]);
    assert!(list.lines().any(|line| line.split_whitespace().next() == Some(target)), "{target}: {list}");
}

fn is_a_program(package: &str) {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(project())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages.iter().find(|it| it["name"] == package).unwrap_or_else(|| panic!("no {package}"));
    let targets = found["targets"].as_array().unwrap();
    assert!(targets.iter().any(|it| it["kind"] == json!(["bin"]) && it["name"] == package), "{package}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_helm_has_installed_it_takes_away_but_for_the_definitions() {
    let cluster = Cluster::new().await;
    let install = lines().into_iter().find(|line| line.command.starts_with("helm install")).unwrap().command;
    cluster.succeed(&install).await;
    let listed = cluster.succeed("helm list --namespace kube-system --output json").await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["status"]), (&json!("margay"), &json!("deployed")));
    // Another version of the values is another revision of the same release.
    cluster
        .succeed(
            "helm upgrade margay manifests/helm/margay --namespace kube-system --set config.logLevel=debug",
        )
        .await;
    let configuration = cluster.api.find("v1", "ConfigMap", "kube-system", "margay-node").unwrap();
    assert!(configuration["data"]["margay-node.yaml"].as_str().unwrap().contains("logLevel: debug"));
    let definitions = || cluster.api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition").len();
    let before = definitions();
    let said = cluster.succeed("helm uninstall margay --namespace kube-system").await;
    assert!(said.contains("release \"margay\" uninstalled"), "{said}");
    assert_eq!(definitions(), before);
    for (version, kind) in [
        ("apps/v1", "DaemonSet"),
        ("v1", "ServiceAccount"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ] {
        let left = cluster.api.list(version, kind);
        assert_eq!(left, Vec::<Value>::new(), "{kind}");
    }
}
