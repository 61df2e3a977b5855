//! The policies of manifests/admission hold each agent to its own node, and hold up nothing that it has to do there.

use margay_api::{endpoint::Records, paths};
use margay_lab::{IpamMode, Lab, LabConfig, identity};
use serde_json::{Value, json};

use crate::cluster::{apply, create, kubectl, object, run, start, until};

const POLICIES: &str = include_str!("../../../manifests/admission/own-node.yaml");
const MERGE: &str = "application/merge-patch+json";
/// A role with which nothing but admission stands in the way.
const EVERYTHING: &str = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: everything}\n\
    rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]\n\
    ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: everything}\n\
    roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: everything}\n\
    subjects: [{kind: ServiceAccount, name: margay, namespace: kube-system}]\n";

/// What a request is refused for, if it is.
type Answer = Result<(), String>;

/// Asks the API server from the first node with this header of authorization, if any.
async fn send(lab: &Lab, token: Option<&str>, verb: &str, path: &str, body: &Value) -> Answer {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let media = if verb == "PATCH" { MERGE } else { "application/json" };
    let body = body.to_string();
    let request = format!(
        "{verb} {path} HTTP/1.1\r\nHost: lab\r\n{authorization}Content-Type: {media}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let script = "exec 3<>/dev/tcp/127.0.0.1/6443; printf %s \"$1\" >&3; cat <&3";
    let text = lab.node(0).output("bash", &["-c", script, "bash", &request]).await.unwrap();
    let answer: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    if answer["kind"] == "Status" && answer["status"] == "Failure" {
        return Err(answer["message"].as_str().unwrap().to_owned());
    }
    Ok(())
}

/// The token that the agent of the first node has.
fn token_of_first(lab: &Lab) -> String {
    let kubeconfig = std::fs::read_to_string(lab.node(0).path("run/lab/kubeconfig")).unwrap();
    let kubeconfig: Value = serde_json::from_str(&kubeconfig).unwrap();
    kubeconfig["users"][0]["user"]["token"].as_str().unwrap().to_owned()
}

fn denied(lab: &Lab) -> Vec<String> {
    lab.api_server().unwrap().denials()
}

async fn install(lab: &Lab) {
    apply(lab, POLICIES).await;
}

/// Waits until both agents have written all that they write to the API.
async fn until_all_is_written(lab: &Lab) {
    for node in ["n1", "n2"] {
        until(lab, &format!("{node} tells of its sessions"), async || {
            let status = object(lab, &format!("bgpnodestatus {node}")).await?;
            (status["status"]["established"].as_u64()? == 1).then_some(())
        })
        .await;
        until(lab, &format!("{node} has its conditions and annotations"), async || {
            let node = object(lab, &format!("node {node}")).await?;
            let conditions = node["status"]["conditions"].as_array()?;
            let has = |wanted: &str| conditions.iter().any(|condition| condition["type"] == wanted);
            let is_annotated = !node["metadata"]["annotations"]["margay.dev/tunnels-received"].is_null();
            let is_all =
                ["NetworkUnavailable", "PodNetworkImpaired", "PodShortWayClosed"].map(has) == [true; 3];
            (is_all && is_annotated).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_do_all_that_they_do_and_nothing_is_denied() {
    let config = LabConfig { nodes: 2, ipam: IpamMode::Pool, ..LabConfig::default() };
    let pools = vec![("all".to_owned(), Lab::pool_of("10.244.0.0/20"))];
    let lab = Lab::start(LabConfig { pools, ..config }).await.unwrap();
    install(&lab).await;
    lab.wait_ready(crate::cluster::PATIENCE).await.unwrap();
    // Agents whose first words are judged, too.
    for node in lab.nodes() {
        node.stop_daemon(margay_lab::Daemon::Agent).await;
        kubectl(&lab, &format!("delete bgpnodestatus {} --ignore-not-found", node.name())).await;
        node.start_daemon(margay_lab::Daemon::Agent).await;
    }
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: NetworkConfig\nmetadata: {name: default}\nspec: {nodeAddress: {ipv4: {method: first-found}}}\n",
    )
    .await;
    kubectl(&lab, "patch ippool all --type=merge -p {\"spec\":{\"encapsulation\":\"VXLAN\"}}").await;
    run(&lab, "a", "n1").await;
    run(&lab, "b", "n2").await;
    create(&lab, "wrong", "n2", &[("margay.dev/ip", "203.0.113.1")]).await;
    until_all_is_written(&lab).await;
    for pod in ["a", "b"] {
        until(&lab, "the pod's addresses are written on it", async || {
            let pod = object(&lab, &format!("pod {pod}")).await?;
            pod["metadata"]["annotations"]["margay.dev/pod-ips"].is_string().then_some(())
        })
        .await;
    }
    kubectl(&lab, "delete pods --all").await;
    until(&lab, "the agents have let go of the pods", async || {
        let known = lab.nodes().iter().map(|node| Records::below(&node.path(paths::RUN_DIR)).list());
        known
            .into_iter()
            .all(|records| records.is_ok_and(|records| records.endpoints.is_empty()))
            .then_some(())
    })
    .await;
    assert_eq!(denied(&lab), Vec::<String>::new());
    let refused: Vec<String> = lab.api_server().unwrap().refusals().iter().map(ToString::to_string).collect();
    assert_eq!(refused, Vec::<String>::new());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_write_to_its_own_node_and_pods_and_to_no_others() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    run(&lab, "a", "n1").await;
    run(&lab, "b", "n2").await;
    for node in ["n1", "n2"] {
        until(&lab, "there is a status", async || object(&lab, &format!("bgpnodestatus {node}")).await).await;
    }
    install(&lab).await;
    let mine = token_of_first(&lab);
    let labels = json!({"metadata": {"labels": {"margay.dev/route-reflector": "a"}}});
    let annotations = json!({"metadata": {"annotations": {"margay.dev/pod-ips": "10.244.0.9"}}});
    let status = json!({"status": {"configured": 7}});
    let new = |name: &str| {
        json!({
            "apiVersion": "margay.dev/v1alpha1", "kind": "BGPNodeStatus", "metadata": {"name": name},
            "spec": {"node": name},
        })
    };
    let no_other = |what: &str| Some(format!("the agent of node n1 may not write to {what}"));
    let (nodes, pods) = ("/api/v1/nodes", "/api/v1/namespaces/default/pods");
    let sessions = "/apis/margay.dev/v1alpha1/bgpnodestatuses";
    let cases = [
        ("PATCH", format!("{nodes}/n1/status"), labels.clone(), None),
        ("PATCH", format!("{nodes}/n2/status"), labels.clone(), no_other("n2")),
        ("PATCH", format!("{nodes}/n2/status"), json!({"status": {"conditions": []}}), no_other("n2")),
        ("PATCH", format!("{nodes}/n1"), labels.clone(), None),
        ("PATCH", format!("{nodes}/n2"), labels.clone(), no_other("n2")),
        ("PATCH", format!("{pods}/a/status"), annotations.clone(), None),
        ("PATCH", format!("{pods}/b/status"), annotations.clone(), no_other("a pod of another node")),
        ("PATCH", format!("{pods}/b"), labels.clone(), no_other("a pod of another node")),
        ("PATCH", format!("{sessions}/n1/status"), status.clone(), None),
        ("PATCH", format!("{sessions}/n2/status"), status.clone(), no_other("n2")),
        ("POST", sessions.to_owned(), new("n3"), no_other("n3")),
    ];
    let is_denied = |answer: &Answer, why: &str| {
        answer.as_ref().is_err_and(|error| {
            error.contains("ValidatingAdmissionPolicy 'margay-own-") && error.ends_with(&format!(": {why}"))
        })
    };
    // The roles refuse some of it before anybody asks the policies, which are to hold whatever the roles say.
    apply(&lab, EVERYTHING).await;
    for (verb, path, body, why) in &cases {
        let answer = send(&lab, Some(&mine), verb, path, body).await;
        match why {
            None => assert_eq!(answer, Ok(()), "{verb} {path}"),
            Some(why) => assert!(is_denied(&answer, why), "{verb} {path}: {answer:?}"),
        }
    }
    // A token that names no node: of a Kubernetes before 1.30, or bound to nothing.
    let why = "the agent's token names no node; it takes Kubernetes 1.30 and a token that is bound to the agent's pod";
    for (verb, path, body, _) in &cases {
        let answer = send(&lab, Some(identity::TOKEN), verb, path, body).await;
        assert!(is_denied(&answer, why), "{verb} {path}: {answer:?}");
    }
    // Others, and what an agent does elsewhere, are let be.
    for (verb, path, body, _) in &cases {
        assert_eq!(send(&lab, None, verb, path, body).await, Ok(()), "{verb} {path}");
    }
    let event = json!({
        "metadata": {"generateName": "a."}, "regarding": {"kind": "Node", "name": "n2"}, "reason": "Some", "type": "Normal",
    });
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    assert_eq!(send(&lab, Some(&mine), "POST", events, &event).await, Ok(()));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_token_names_another_node_is_denied_its_own() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    install(&lab).await;
    // The credential of one node on another.
    let stolen = token_of_first(&lab).replace("n1", "n2");
    let path = "/api/v1/nodes/n1/status";
    let answer = send(&lab, Some(&stolen), "PATCH", path, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    let why = "the agent of node n2 may not write to n1";
    assert!(answer.as_ref().is_err_and(|error| error.ends_with(why)), "{answer:?}");
    let noted = denied(&lab);
    assert!(
        matches!(&noted[..], [one] if one.starts_with("User \"system:serviceaccount:kube-system:margay\"")),
        "{noted:?}"
    );
    lab.stop().await;
}
