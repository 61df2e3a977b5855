//! The commands in the text of docs/operating.md, below the walk that `operators/walkthrough.rs` runs: those of kubectl are run, those
//! of margayctl are ones that it understands (`operators/forms.rs` runs each, or names the tests that do). Those of a node's own are run by `operators/host.rs`.

use margay_tests::guide::{in_backquotes, text};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// What is in single backquotes below the first section and begins with this.
fn commands(program: &str) -> Vec<String> {
    let text = text("docs/operating.md");
    let (_, text) = text.split_once("\n## On every node\n").unwrap();
    let mut spans = in_backquotes(text);
    spans.retain(|span| span.starts_with(&format!("{program} ")));
    spans
}

/// The kinds of the Prometheus operator that the manifests have objects of.
fn define_monitoring(cluster: &Cluster) {
    for (kind, plural) in [("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")] {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        });
        cluster.api.put_raw(definition).unwrap();
    }
}

fn daemon_set(cluster: &Cluster) -> Value {
    cluster.api.find("apps/v1", "DaemonSet", "kube-system", "margay").unwrap()
}

/// What the controller of `DaemonSet`s keeps of each version of the pods, for `rollout undo`.
fn keep_revision(cluster: &Cluster, revision: u32) {
    let set = daemon_set(cluster);
    let mut template = set["spec"]["template"].clone();
    template["$patch"] = "replace".into();
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": revision,
        "metadata": {
            "name": format!("margay-{revision}"), "namespace": "kube-system",
            "labels": set["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "margay", "controller": true,
                "uid": set["metadata"]["uid"],
            }],
        },
        "data": {"spec": {"template": template}},
    });
    cluster.api.put_raw(object).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_has_one_say_to_kubectl_is_taken() {
    let cluster = Cluster::new().await;
    let unavailable = json!([{"type": "NetworkUnavailable", "status": "True"}]);
    for object in [
        json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {"conditions": unavailable}}),
        json!({"kind": "Pod", "metadata": {"name": "web"}, "spec": {"nodeName": "n1", "containers": []}}),
    ] {
        let mut object = object;
        object["apiVersion"] = "v1".into();
        cluster.api.put_raw(object).unwrap();
    }
    cluster.succeed("kubectl apply -f manifests/margay.yaml").await;
    define_monitoring(&cluster);
    keep_revision(&cluster, 1);
    let first = daemon_set(&cluster)["spec"]["template"].clone();
    let commands = commands("kubectl");
    assert!(commands.len() >= 10, "{commands:?}");
    let mut restarts = 0;
    for command in commands {
        match command.split(' ').collect::<Vec<_>>()[..] {
            // Beginnings of commands.
            ["kubectl", "describe"] => drop(cluster.succeed("kubectl describe node n1").await),
            ["kubectl", "describe", "pod"] => drop(cluster.succeed("kubectl describe pod web").await),
            ["kubectl", "get", ..] => drop(cluster.succeed(&command).await),
            ["kubectl", "-n", "kube-system", "rollout", "restart", _] => {
                let before = daemon_set(&cluster)["spec"]["template"].clone();
                // One in the same second is the same restart.
                let (said, status) = cluster.run(&command).await;
                let is_new = daemon_set(&cluster)["spec"]["template"] != before;
                assert!(
                    is_new || (restarts > 0 && said.contains("already been triggered")),
                    "{status:?}: {said}"
                );
                restarts += 1;
            }
            ["kubectl", "-n", "kube-system", "rollout", "undo", _] => {
                keep_revision(&cluster, 2);
                cluster.succeed(&command).await;
                assert_eq!(daemon_set(&cluster)["spec"]["template"], first, "{command}");
            }
            // What comes behind `--` is one of those below; there are no containers here.
            ["kubectl", "-n", "kube-system", "exec", _, "-c", "margay-node", "--", "margayctl", ..] => {
                is_understood(&cluster, command.split_once(" -- ").unwrap().1).await;
            }
            ["kubectl", "apply", "-k", "manifests/monitoring"] => {
                cluster.succeed(&command).await;
                assert_eq!(cluster.api.list("monitoring.coreos.com/v1", "PrometheusRule").len(), 1);
            }
            ["kubectl", "delete", "-f", "manifests/margay.yaml"] => {
                cluster.succeed(&command).await;
                assert!(cluster.api.find("apps/v1", "DaemonSet", "kube-system", "margay").is_none());
            }
            ["kubectl", "patch", "node", "NODE", ..] => {
                cluster.succeed(&command.replace("NODE", "n1")).await;
                let node = cluster.read(&["node", "n1"]).await;
                assert_eq!(node["status"]["conditions"][0]["status"], "False", "{command}");
            }
            _ => panic!("docs/operating.md has a command that no test runs: {command}"),
        }
    }
}

/// That margayctl takes these arguments. There is neither node nor agent here, of which it may complain.
async fn is_understood(cluster: &Cluster, command: &str) {
    let command = command.replace("NS/POD", "default/web").replace("NAMESPACE", "default");
    let command = command.split(" > ").next().unwrap();
    let (said, _) =
        cluster.run(&format!("cd && {command} --run-dir none --state-dir none > /dev/null")).await;
    let is_refused =
        ["Usage:", "For more information, try '--help'"].iter().any(|words| said.contains(words));
    assert!(!is_refused, "{command}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_has_one_say_to_margayctl_is_understood() {
    let cluster = Cluster::new().await;
    let commands = commands("margayctl");
    assert!(commands.len() >= 10, "{commands:?}");
    for command in commands {
        is_understood(&cluster, &command).await;
    }
}
