//! The Helm chart installs what `manifests/margay.yaml` does, and what its values say.

use std::{collections::BTreeMap, process::Command};

use serde_json::{Value, json};

use crate::cluster::{kubectl, manifests};

/// What helm prints, or its error.
fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("helm")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("run helm: {error}; ./setup installs it"));
    let text = |octets| String::from_utf8(octets).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn template(arguments: &[&str]) -> Result<Objects, String> {
    let chart = manifests().join("helm/margay");
    let chart = chart.to_str().unwrap();
    helm(&[&["template", "margay", chart, "--namespace", "kube-system"], arguments].concat())
        .map(|text| objects(&text))
}

type Objects = BTreeMap<String, Value>;

/// By kind and name.
fn objects(yaml: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let key = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
    };
    documents.into_iter().filter(|object| !object.is_null()).map(|object| (key(&object), object)).collect()
}

fn configuration(objects: &Objects) -> Value {
    let text = objects["ConfigMap/margay-node"]["data"]["margay-node.yaml"].as_str().unwrap();
    serde_saphyr::from_str(text).unwrap()
}

fn pod(objects: &Objects) -> &Value {
    &objects["DaemonSet/margay"]["spec"]["template"]["spec"]
}

#[tokio::test]
async fn without_values_it_installs_what_the_single_file_does() {
    let home = tempfile::tempdir().unwrap();
    let base = kubectl(home.path(), &["kustomize", manifests().join("base").to_str().unwrap()]).await;
    let mut base = objects(&base);
    let mut chart = template(&[]).unwrap();

    assert_eq!(configuration(&chart), configuration(&base));
    for objects in [&mut base, &mut chart] {
        objects.remove("ConfigMap/margay-node");
        for object in objects.values_mut() {
            // What only the chart needs: definitions outlive it, and an agent begins anew with a new configuration.
            let keep = object["metadata"].as_object_mut().unwrap().remove("annotations");
            assert!(keep.is_none_or(|keep| keep == json!({"helm.sh/resource-policy": "keep"})));
        }
        let template = &mut objects.get_mut("DaemonSet/margay").unwrap()["spec"]["template"]["metadata"];
        template.as_object_mut().unwrap().remove("annotations");
    }
    assert_eq!(chart.keys().collect::<Vec<_>>(), base.keys().collect::<Vec<_>>());
    for (name, object) in &chart {
        assert_eq!(object, &base[name], "{name}");
    }
}

#[test]
fn values_change_what_they_say_and_nothing_else() {
    let plain = template(&[]).unwrap();
    let changed = template(&[
        "--set=image.repository=registry.example/margay,image.digest=sha256:\
         0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "--set=config.overlay.encapsulation=VXLAN,config.bgp.enabled=false,speaker=false",
        "--set=bgpSecrets={rack-7},cni.binDir=/var/lib/cni/bin",
    ])
    .unwrap();
    let image =
        "registry.example/margay@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let containers = pod(&changed)["containers"].as_array().unwrap();
    assert_eq!((containers.len(), &containers[0]["image"]), (1, &json!(image)));
    assert_eq!(configuration(&changed)["overlay"]["encapsulation"], "VXLAN");
    assert_eq!(configuration(&changed)["ipam"], configuration(&plain)["ipam"]);
    let secrets = &changed["Role/margay-bgp"]["rules"][0]["resourceNames"];
    assert_eq!(*secrets, json!(["margay-bgp", "rack-7"]));
    let volumes = pod(&changed)["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["hostPath"]["path"] == "/var/lib/cni/bin"));
    assert_eq!(changed["ClusterRole/margay"], plain["ClusterRole/margay"]);
    assert_ne!(
        changed["DaemonSet/margay"]["spec"]["template"]["metadata"]["annotations"],
        plain["DaemonSet/margay"]["spec"]["template"]["metadata"]["annotations"],
        "agents would go on with the old configuration"
    );
    assert!(!template(&["--set=crds.install=false"]).unwrap().keys().any(|name| name.contains("CustomRes")));
}

#[test]
fn a_value_that_is_wrong_is_named() {
    for (value, word) in [
        ("imagee.tag=1", "imagee"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=sha256:12", "digest"),
        ("speaker=maybe", "speaker"),
        ("cni.binDir=opt/cni/bin", "binDir"),
    ] {
        let error = template(&[&format!("--set={value}")]).unwrap_err();
        assert!(error.contains(word), "{value}: {error}");
    }
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    let chart = manifests().join("helm/margay");
    helm(&["lint", "--strict", chart.to_str().unwrap()]).unwrap();
}
