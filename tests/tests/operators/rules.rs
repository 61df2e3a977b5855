//! The roles of the manifests let the agent do all that it does, and a rule that lacks is told of.

use margay_lab::{IpamMode, Lab, LabConfig, identity};
use serde_json::{Value, json};

use crate::cluster::{apply, create, kubectl, object, run, start, until};

const BGP: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: margay-bgp, namespace: kube-system}\ndata: {tor: b25l}\n\
    ---\napiVersion: margay.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\n\
    spec: {address: 172.18.0.1, asn: 64600, password: {secretKeyRef: {name: margay-bgp, key: tor}}}\n\
    ---\napiVersion: margay.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n\
    spec: {serviceAddresses: {clusterIPs: [10.96.0.0/16], externalIPs: [198.51.100.0/24]}}\n";

const POLICIES: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
    metadata: {name: deny}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, \
    egress: [{action: Deny, to: [{networks: [192.0.2.0/24]}]}]}\n\
    ---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: default}\n\
    spec: {podSelector: {matchLabels: {app: none}}}\n";

/// Whatever the agents were not allowed.
fn refusals(lab: &Lab) -> Vec<String> {
    lab.api_server().unwrap().refusals().iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_do_all_they_can_are_refused_nothing() {
    let pools = vec![("small".into(), Lab::pool_of("10.244.0.0/27"))];
    let pools = pools
        .into_iter()
        .map(|(name, spec)| (name, margay_api::resource::IPPoolSpec { block_size: Some(29), ..spec }))
        .collect();
    let give_back_after = std::time::Duration::from_secs(1);
    let lab =
        start(LabConfig { nodes: 2, ipam: IpamMode::Pool, pools, give_back_after, ..LabConfig::default() })
            .await;
    apply(&lab, BGP).await;
    apply(&lab, POLICIES).await;
    // More than a block of pods, so that another is claimed; and given back when they are gone.
    for number in 0..7 {
        run(&lab, &format!("p{number}"), "n1").await;
    }
    create(&lab, "wrong", "n1", &[("margay.dev/ip", "203.0.113.1")]).await;
    let blocks = async || Some(lab.blocks().await.ok()?.values().filter(|node| *node == "n1").count());
    until(&lab, "a second block", async || (blocks().await? > 1).then_some(())).await;
    kubectl(&lab, "delete pods --all").await;
    until(&lab, "the block goes back", async || (blocks().await? == 1).then_some(())).await;
    for node in ["n1", "n2"] {
        until(&lab, "each node tells of its sessions", async || {
            let status = object(&lab, &format!("bgpnodestatus {node}")).await?;
            let configured = status["status"]["configured"].as_u64()?;
            (configured == 2).then_some(())
        })
        .await;
    }
    until(&lab, "the pool has its status", async || {
        let pool = object(&lab, "ippool small").await?;
        pool["status"]["conditions"].is_array().then_some(())
    })
    .await;
    assert_eq!(refusals(&lab), Vec::<String>::new());
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_lacks_is_a_refusal_that_is_recorded_and_told() {
    let lab = start(LabConfig { nodes: 1, ..LabConfig::default() }).await;
    let api = lab.api_server().unwrap();
    let before = api.find("rbac.authorization.k8s.io/v1", "ClusterRole", "", "margay").unwrap();
    let mut role = before.clone();
    let rules = role["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"] != json!(["networkpolicies"]));
    assert_eq!(rules.len() + 1, before["rules"].as_array().unwrap().len());
    api.put_raw(role).unwrap();
    // A watch that is there goes on, as with a real server; a new one is another request.
    api.end_watches();
    let wanted = format!(
        "User \"system:serviceaccount:{}:margay\" cannot watch resource \"networkpolicies\" in API group \
         \"networking.k8s.io\" at the cluster scope",
        identity::NAMESPACE
    );
    until(&lab, "the refusal is recorded", async || refusals(&lab).contains(&wanted).then_some(())).await;
    assert!(refusals(&lab).iter().all(|refusal| refusal.contains("networkpolicies")), "{:?}", refusals(&lab));

    let answer = ask(&lab, "/apis/networking.k8s.io/v1/networkpolicies?watch=true", identity::TOKEN).await;
    assert_eq!(
        (&answer["kind"], &answer["code"], &answer["reason"]),
        (&json!("Status"), &json!(403), &json!("Forbidden"))
    );
    let message = format!("networkpolicies.networking.k8s.io is forbidden: {wanted}");
    assert_eq!(answer["message"], message);
    assert_eq!(answer["details"], json!({"group": "networking.k8s.io", "kind": "networkpolicies"}));
    let answer = ask(&lab, "/api/v1/nodes", "somebody").await;
    assert_eq!((&answer["code"], &answer["reason"]), (&json!(401), &json!("Unauthorized")));
    lab.stop().await;
}

/// What the API server answers to who brings a token.
async fn ask(lab: &Lab, path: &str, token: &str) -> Value {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/6443; printf 'GET {path} HTTP/1.1\\r\\nHost: lab\\r\\nAuthorization: Bearer {token}\\r\\n\
         Connection: close\\r\\n\\r\\n' >&3; cat <&3"
    );
    let text = lab.node(0).output("bash", &["-c", &script]).await.unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}
