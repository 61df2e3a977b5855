//! Objects of BGP say whether they can be read.

use margay_lab::{Daemon, Lab, LabConfig};
use serde_json::Value;

use crate::cluster::{apply, kubectl, object, start, until};

async fn until_accepted(lab: &Lab, what: &str, status: &str, generation: i64) -> Value {
    until(lab, &format!("{what}: Accepted is {status} of generation {generation}"), async || {
        let object = object(lab, what).await?;
        let accepted = object["status"]["conditions"].as_array()?.first()?.clone();
        let fits = accepted["type"] == "Accepted"
            && accepted["status"] == status
            && accepted["observedGeneration"] == generation;
        fits.then_some(accepted)
    })
    .await
}

fn peer(ttl: &str) -> String {
    format!(
        "apiVersion: margay.dev/v1alpha1\nkind: BGPPeer\nmetadata: {{name: tor}}\n\
         spec: {{address: 192.0.2.1, asn: 64500{ttl}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_and_the_configuration_say_what_cannot_be_read_and_since_when() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    apply(&lab, &peer("")).await;
    until_accepted(&lab, "bgppeer tor", "True", 1).await;
    apply(&lab, &peer(", sourceAddress: '1.2.3'")).await;
    let wrong = until_accepted(&lab, "bgppeer tor", "False", 2).await;
    assert_eq!(wrong["reason"], "Invalid");
    assert!(wrong["message"].as_str().unwrap().contains("spec.sourceAddress"), "{wrong}");
    // Another agent that comes to write says the same, so that it writes nothing.
    let before = object(&lab, "bgppeer tor").await.unwrap();
    apply(&lab, &peer(", sourceAddress: '1.2.4'")).await;
    let again = until_accepted(&lab, "bgppeer tor", "False", 3).await;
    assert_eq!(again["lastTransitionTime"], wrong["lastTransitionTime"], "{before}");
    lab.node(0).stop_daemon(Daemon::Agent).await;
    kubectl(&lab, "delete node n1").await;
    apply(&lab, &peer("")).await;
    let right = until_accepted(&lab, "bgppeer tor", "True", 4).await;
    assert_eq!(right["reason"], "Valid");
    let table = kubectl(&lab, "get bgppeers").await;
    assert!(table.contains("ACCEPTED") && table.contains("True"), "{table}");

    // A slip in an expression that the API server cannot see, with its place; one that it can is refused by it.
    let filter = |regex: &str| {
        peer(&format!(", import: {{rules: [{{action: Accept, match: {{asPathRegex: ['{regex}']}}}}]}}"))
    };
    apply(&lab, &filter("^64501{2,1}_")).await;
    let wrong = until_accepted(&lab, "bgppeer tor", "False", 5).await;
    let message = wrong["message"].as_str().unwrap();
    assert!(
        message.contains("spec.import.rules[0]: match.asPathRegex: `^64501{2,1}_`, column 7"),
        "{message}"
    );
    let refused = lab.kubectl(&["apply", "-f", "-"], &filter("^(64501")).await.unwrap_err();
    assert!(format!("{refused:#}").contains("asPathRegex"), "{refused:#}");

    let configuration = "apiVersion: margay.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n\
                         spec: {announcements: [{cidr: 10.0.0.1/8}]}\n";
    apply(&lab, configuration).await;
    let wrong = until_accepted(&lab, "bgpconfiguration default", "False", 1).await;
    assert!(wrong["message"].as_str().unwrap().contains("spec.announcements[0]"), "{wrong}");
    lab.stop().await;
}
