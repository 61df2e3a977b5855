//! The overlays apply, and change what they say they do.

use serde_json::{Value, json};

use crate::cluster::{Cluster, kubectl, manifests};

/// The cluster after `kubectl apply -k manifests/overlays/NAME`.
async fn installed(name: &str) -> Cluster {
    let cluster = Cluster::new().await;
    let folder = manifests().join("overlays").join(name);
    let said = cluster.kubectl(&["apply", "-k", folder.to_str().unwrap()]).await;
    assert!(said.contains("daemonset.apps/margay created"), "{said}");
    cluster
}

async fn containers(cluster: &Cluster) -> Value {
    let daemon_set = cluster.read(&["-n", "kube-system", "daemonset", "margay"]).await;
    daemon_set["spec"]["template"]["spec"]["containers"].clone()
}

/// What the agents find in their file.
async fn configuration(cluster: &Cluster) -> Value {
    let object = cluster.read(&["-n", "kube-system", "configmap", "margay-node"]).await;
    serde_saphyr::from_str(object["data"]["margay-node.yaml"].as_str().unwrap()).unwrap()
}

/// The value of a variable of the agent.
fn variable<'a>(containers: &'a Value, name: &str) -> Option<&'a str> {
    containers[0]["env"].as_array().unwrap().iter().find(|it| it["name"] == name)?["value"].as_str()
}

#[tokio::test]
async fn every_overlay_has_a_test_here() {
    let mut names: Vec<String> = std::fs::read_dir(manifests().join("overlays"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["ebpf", "nftables", "route-reflectors", "vxlan"]);
}

#[tokio::test]
async fn vxlan_has_tunnels_and_no_speaker() {
    let cluster = installed("vxlan").await;
    let configuration = configuration(&cluster).await;
    assert_eq!(configuration["overlay"]["encapsulation"], "VXLAN");
    assert_eq!(configuration["bgp"]["enabled"], false);
    assert_eq!(containers(&cluster).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dataplane_is_asked_for_by_name_and_nftables_needs_less() {
    for (name, added) in
        [("ebpf", json!(["NET_ADMIN", "BPF", "PERFMON"])), ("nftables", json!(["NET_ADMIN"]))]
    {
        let containers = containers(&installed(name).await).await;
        assert_eq!(variable(&containers, "MARGAY_DATAPLANE"), Some(name));
        assert_eq!(containers[0]["securityContext"]["capabilities"]["add"], added);
        assert!(variable(&containers, "MARGAY_SYSCTL_DIR").is_some(), "the variables of the base are gone");
    }
}

#[tokio::test]
async fn route_reflectors_are_in_the_place_of_a_mesh() {
    let cluster = installed("route-reflectors").await;
    assert_eq!(configuration(&cluster).await["bgp"]["mesh"], false);
    assert_eq!(containers(&cluster).await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn all_of_them_are_built_of_the_base() {
    let home = tempfile::tempdir().unwrap();
    let build = async |folder: &str| {
        kubectl(home.path(), &["kustomize", manifests().join(folder).to_str().unwrap()]).await
    };
    let role = |text: String| {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        documents.into_iter().find(|object| object["kind"] == "ClusterRole").unwrap()
    };
    let base = role(build("base").await);
    for name in ["ebpf", "nftables", "route-reflectors", "vxlan"] {
        assert_eq!(role(build(&format!("overlays/{name}")).await), base, "{name}");
    }
}
