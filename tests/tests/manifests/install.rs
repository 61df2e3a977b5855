//! The installation asks for no more than Margay needs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cluster::{Cluster, kubectl, manifests};

async fn installed() -> Cluster {
    let cluster = Cluster::new().await;
    cluster.apply(&manifests().join("margay.yaml")).await;
    cluster
}

async fn pod_spec() -> Value {
    let daemon_set = installed().await.read(&["-n", "kube-system", "daemonset", "margay"]).await;
    daemon_set["spec"]["template"]["spec"].clone()
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().flat_map(|kind| spec[kind].as_array().unwrap())
}

fn strings(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().map(|entry| entry.as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_single_file_is_what_the_base_generates() {
    let home = tempfile::tempdir().unwrap();
    let generated = kubectl(home.path(), &["kustomize", manifests().join("base").to_str().unwrap()]).await;
    let checked_in = std::fs::read_to_string(manifests().join("margay.yaml")).unwrap();
    assert!(
        generated == checked_in,
        "manifests/margay.yaml is not what the base generates: run `make manifests`"
    );
}

#[tokio::test]
async fn applying_again_changes_nothing() {
    let cluster = installed().await;
    let said = cluster.apply(&manifests().join("margay.yaml")).await;
    assert!(said.lines().all(|line| line.ends_with(" unchanged")), "{said}");
}

#[tokio::test]
async fn the_agent_may_list_and_watch_what_it_needs_write_blocks_statuses_and_events_and_nothing_else() {
    let cluster = installed().await;
    let role = cluster.read(&["clusterrole", "margay"]).await;
    let rules = json!([
        {"apiGroups": [""], "resources": ["namespaces", "nodes", "pods", "services"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status", "pods/status"], "verbs": ["patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
        {
            "apiGroups": ["policy.networking.k8s.io"], "resources": ["clusternetworkpolicies"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["margay.dev"], "resources": ["bgpconfigurations", "bgppeers", "ippools", "networkconfigs"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": ["margay.dev"], "resources": ["bgpnodestatuses"], "verbs": ["create"]},
        {
            "apiGroups": ["margay.dev"], "resources": ["ipblocks"],
            "verbs": ["create", "delete", "get", "list", "patch", "watch"],
        },
        {
            "apiGroups": ["margay.dev"],
            "resources": [
                "bgpconfigurations/status", "bgpnodestatuses/status", "bgppeers/status", "ipblocks/status", "ippools/status",
                "networkconfigs/status",
            ],
            "verbs": ["patch"],
        },
    ]);
    assert_eq!(role["rules"], rules);
    assert_eq!(role["aggregationRule"], Value::Null);

    let binding = cluster.read(&["clusterrolebinding", "margay"]).await;
    let to_role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "margay"});
    assert_eq!(binding["roleRef"], to_role);
    let subjects = json!([{"kind": "ServiceAccount", "name": "margay", "namespace": "kube-system"}]);
    assert_eq!(binding["subjects"], subjects);
    assert_eq!(pod_spec().await["serviceAccountName"], "margay");
    cluster.read(&["-n", "kube-system", "serviceaccount", "margay"]).await;
}

#[tokio::test]
async fn of_secrets_the_agent_may_read_one_in_its_own_namespace() {
    let cluster = installed().await;
    let role = cluster.read(&["-n", "kube-system", "role", "margay-bgp"]).await;
    let rules = json!([{
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["margay-bgp"], "verbs": ["list", "watch"],
    }]);
    assert_eq!(role["rules"], rules);
    let binding = cluster.read(&["-n", "kube-system", "rolebinding", "margay-bgp"]).await;
    let to_role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "margay-bgp"});
    assert_eq!(binding["roleRef"], to_role);
    let subjects = json!([{"kind": "ServiceAccount", "name": "margay", "namespace": "kube-system"}]);
    assert_eq!(binding["subjects"], subjects);
    assert_eq!(cluster.read(&["roles", "-A"]).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn containers_have_their_capabilities_and_no_privilege() {
    let spec = pod_spec().await;
    for container in containers(&spec) {
        let name = container["name"].as_str().unwrap();
        let security = &container["securityContext"];
        let needed: &[&str] = match name {
            "install-cni" => &[],
            "margay-node" => &["BPF", "NET_ADMIN", "PERFMON"],
            "margay-bgp" => &["NET_ADMIN", "NET_BIND_SERVICE"],
            _ => panic!("container {name} is not known here"),
        };
        assert_eq!(strings(&security["capabilities"]["add"]), needed.iter().copied().collect(), "{name}");
        assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"].into(), "{name}");
        assert_ne!(security["privileged"], true, "{name}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
    }
    for namespace in ["hostPID", "hostIPC"] {
        assert_ne!(spec[namespace], true, "{namespace}");
    }
}

#[tokio::test]
async fn every_container_asks_for_what_it_needs() {
    for container in containers(&pod_spec().await) {
        for resource in ["cpu", "memory"] {
            let request = &container["resources"]["requests"][resource];
            assert!(request.is_string(), "{}: no request for {resource}: {request}", container["name"]);
        }
    }
}

#[tokio::test]
async fn the_pod_comes_first_on_every_node_and_stays_there() {
    let spec = pod_spec().await;
    assert_eq!(spec["hostNetwork"], true);
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
}

#[tokio::test]
async fn mounts_are_of_volumes_and_probes_ask_the_loopback() {
    let spec = pod_spec().await;
    let volumes: BTreeSet<&str> =
        spec["volumes"].as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    let mut mounted = BTreeSet::new();
    for container in containers(&spec) {
        mounted.extend(
            container["volumeMounts"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()),
        );
    }
    assert_eq!(mounted, volumes);

    let agent = containers(&spec).find(|container| container["name"] == "margay-node").unwrap();
    let variables = agent["env"].as_array().unwrap();
    let sysctl_dir =
        &variables.iter().find(|variable| variable["name"] == "MARGAY_SYSCTL_DIR").unwrap()["value"];
    let mounts = agent["volumeMounts"].as_array().unwrap();
    assert!(
        mounts
            .iter()
            .any(|m| m["name"] == "proc-sys-net" && m["mountPath"] == *sysctl_dir && m["readOnly"] != true)
    );
    let probes = [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")];
    for (probe, path) in probes {
        let request = &agent[probe]["httpGet"];
        assert_eq!((&request["host"], &request["port"]), (&json!("127.0.0.1"), &json!(9099)), "{probe}");
        assert_eq!(request["path"], path, "{probe}");
    }
}

#[tokio::test]
async fn the_job_that_cleans_nodes_has_the_paths_of_the_agent_and_fewer_rights() {
    let cluster = installed().await;
    let text = std::fs::read_to_string(manifests().join("cleanup.yaml")).unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    std::fs::write(&file, text.replace("NODE", "n1.example")).unwrap();
    cluster.apply(file.path()).await;
    let job = cluster.read(&["-n", "kube-system", "job", "margay-cleanup-n1.example"]).await;
    let job = &job["spec"]["template"]["spec"];
    assert_eq!(job["nodeName"], "n1.example");
    let container = &job["containers"][0];
    assert_eq!(container["command"], json!(["margayctl", "node", "cleanup"]));
    assert_eq!(strings(&container["securityContext"]["capabilities"]["add"]), ["NET_ADMIN"].into());
    let agent = pod_spec().await;
    let paths = |spec: &Value| -> BTreeSet<String> {
        let volumes = spec["volumes"].as_array().unwrap().iter();
        volumes.filter_map(|volume| volume["hostPath"]["path"].as_str().map(str::to_owned)).collect()
    };
    // It changes no settings of the kernel.
    let of_agent = paths(&agent).into_iter().filter(|path| path != "/proc/sys/net").collect();
    assert_eq!(paths(job), of_agent);
    let image = |spec: &Value| spec["containers"][0]["image"].clone();
    assert_eq!(image(job), image(&agent));
}
