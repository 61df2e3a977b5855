//! Nodes have sessions with a router as objects say.

use serde_json::json;
use tokio::time::Instant;

use crate::cluster::{
    ROUTER, apply, kubectl, margayctl, neighbors, node_status, router, session, start, until, until_problem,
    until_router, until_state,
};

const TOR: &str = "apiVersion: margay.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\n\
    spec: {address: 172.18.0.1, asn: 64600, description: the router, nodeSelector: {matchLabels: {rack: a}}, \
    password: {secretKeyRef: {name: margay-bgp, key: tor}}, holdTimeSeconds: 9}\n";

/// The Secret with one entry, in Base64.
fn secret(password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: margay-bgp, namespace: kube-system}}\ndata: {{tor: {password}}}\n"
    )
}

const ONE: &str = "b25l";
const TWO: &str = "dHdv";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_follows_its_object_its_password_and_the_labels_of_nodes() {
    let mut lab = start(2).await;
    lab.run_router(&router(&[("n1", 1, 64512, Some("one")), ("n2", 2, 64512, Some("one"))])).await.unwrap();
    apply(&lab, TOR).await;
    kubectl(&lab, "label node n1 rack=a").await;
    until_problem(&lab, "n1", &["BGPPeer tor: spec.password", "there is no Secret margay-bgp"]).await;
    assert_eq!(session(&lab, 0, ROUTER).await, None, "no session without its password");

    apply(&lab, &secret(ONE)).await;
    until_state(&lab, 0, ROUTER, "Established").await;
    until_problem(&lab, "n1", &[]).await;
    until_router(&lab, "show route 10.244.1.0/24 all", &["BGP.as_path: 64512", "172.18.0.2"], &[]).await;
    assert_eq!(session(&lab, 1, ROUTER).await, None, "the selector does not choose n2");
    // The mesh stays, and its routes were told on.
    until_state(&lab, 0, "172.18.0.3", "Established").await;

    // Another password ends the session until the router has it too.
    apply(&lab, &secret(TWO)).await;
    until(&lab, "the session is down", async || {
        session(&lab, 0, ROUTER).await.is_some_and(|it| it.state != "Established")
    })
    .await;
    lab.run_router(&router(&[("n1", 1, 64512, Some("two"))])).await.unwrap();
    until_state(&lab, 0, ROUTER, "Established").await;

    kubectl(&lab, "label node n1 rack-").await;
    until(&lab, "the session is gone", async || {
        neighbors(&lab, 0).await.is_some_and(|all| all.len() == 1 && all[0].state == "Established")
    })
    .await;
    until_router(&lab, "show route for 10.244.1.0/24", &[], &["172.18.0.2"]).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_by_name_and_costs_no_other_session() {
    let mut lab = start(2).await;
    lab.run_router(&router(&[("n1", 1, 64513, None), ("n2", 2, 64512, None)])).await.unwrap();
    // An AS of its own: sessions between nodes are external then.
    kubectl(&lab, "annotate node n1 margay.dev/bgp-asn=64513").await;
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\n\
         spec: {address: 172.18.0.1, asn: 64600, import: {rules: []}, export: {rules: [\
         {match: {source: Local}, set: {addCommunities: ['64512:7']}, action: Accept}]}}\n",
    )
    .await;
    until_state(&lab, 0, ROUTER, "Established").await;
    until_state(&lab, 1, ROUTER, "Established").await;
    until_state(&lab, 1, "172.18.0.2", "Established").await;
    assert_eq!(session(&lab, 1, "172.18.0.2").await.unwrap().remote_as.number(), 64513);
    let own = "show route 10.244.1.0/24 all protocol n1";
    until_router(&lab, own, &["BGP.as_path: 64513\n", "BGP.community: (64512,7)"], &[]).await;
    // The filter tells nobody what other nodes said.
    until_router(&lab, "show route 10.244.2.0/24 all", &["BGP.as_path: 64512\n"], &["BGP.as_path: 64513"])
        .await;
    let seen_up = Instant::now();

    // No rule of the definition forbids these.
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: client}\n\
         spec: {address: 172.18.0.77, asn: 64600, routeReflectorClient: true}\n---\n\
         apiVersion: margay.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n\
         spec: {announcements: [{cidr: 10.0.0.1/8, communities: ['64512:9']}]}\n",
    )
    .await;
    // One does this, and the object is of a time before the rule.
    let half = json!({
        "apiVersion": "margay.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": "half"},
        "spec": {"address": "172.18.0.78"},
    });
    lab.api_server().unwrap().put_raw(half).unwrap();
    for words in [
        ["BGPPeer client: route_reflector_client", "not in AS 64513"],
        ["BGPPeer half: spec.asn", "is missing"],
        ["BGPConfiguration default: spec.announcements[0]", "10.0.0.0/8"],
    ] {
        until_problem(&lab, "n1", &words).await;
    }
    let (text, status) = margayctl(&lab, &["bgp", "status"]).await;
    assert_eq!(status, Some(1), "{text}");
    for word in ["BGPPeer half: spec.asn", "BGPPeer tor", "172.18.0.1", "Established", "node n2"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let now = session(&lab, 0, ROUTER).await.unwrap();
    assert!(now.state == "Established" && now.since_seconds >= seen_up.elapsed().as_secs(), "{now:?}");

    for object in ["bgppeer client", "bgppeer half", "bgpconfiguration default"] {
        kubectl(&lab, &format!("delete {object}")).await;
    }
    until_problem(&lab, "n1", &[]).await;
    until(&lab, "margayctl finds all well", async || {
        margayctl(&lab, &["bgp", "status", "-o", "json"]).await.1 == Some(0)
    })
    .await;
    let status = node_status(&lab, "n1").await.unwrap();
    assert_eq!(status["status"]["asn"], 64513);
    assert_eq!(status["metadata"]["ownerReferences"][0]["kind"], "Node");
    lab.stop().await;
}
