//! The examples can be applied as they are, all at once.

use crate::cluster::{Cluster, manifests};

/// What they decide is tested in `operators/admission.rs`.
#[tokio::test]
async fn the_policies_that_hold_agents_to_their_nodes_apply_and_are_about_the_account_of_the_roles() {
    let cluster = Cluster::new().await;
    let said = cluster.apply(&manifests().join("admission")).await;
    assert_eq!(said.lines().filter(|line| line.ends_with(" created")).count(), 4, "{said}");
    let bound: Vec<String> = cluster
        .api
        .list("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding")
        .iter()
        .map(|binding| binding["spec"]["policyName"].as_str().unwrap().to_owned())
        .collect();
    let role = std::fs::read_to_string(manifests().join("base/rbac.yaml")).unwrap();
    let policies = cluster.api.list("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy");
    assert_eq!(policies.len(), 2);
    for policy in policies {
        assert!(bound.iter().any(|name| policy["metadata"]["name"] == name.as_str()), "{bound:?}");
        let agents = "request.userInfo.username == 'system:serviceaccount:kube-system:margay'";
        assert_eq!(policy["spec"]["matchConditions"][0]["expression"], agents);
        // All that the role lets agents write of these is judged.
        for rule in policy["spec"]["matchConstraints"]["resourceRules"].as_array().unwrap() {
            let subresource = rule["resources"][1].as_str().unwrap();
            assert!(role.contains(subresource), "{subresource}");
        }
    }
}

#[tokio::test]
async fn the_folder_of_examples_applies_in_the_order_of_its_names() {
    let cluster = Cluster::new().await;
    cluster.apply(&manifests().join("base/crds.yaml")).await;
    let said = cluster.apply(&manifests().join("examples")).await;
    assert!(said.lines().count() > 3, "{said}");
    assert!(said.lines().all(|line| line.ends_with(" created")), "{said}");
    let said = cluster.apply(&manifests().join("examples/recipes")).await;
    assert!(said.lines().count() > 9, "{said}");
    assert!(said.lines().all(|line| line.ends_with(" created")), "{said}");
    let said = cluster.apply(&manifests().join("examples/bgp")).await;
    assert!(said.lines().count() > 3, "{said}");
    assert!(said.lines().all(|line| line.ends_with(" created")), "{said}");
    cluster.api.put_raw(margay_lab::cluster_network_policies()).unwrap();
    let said = cluster.apply(&manifests().join("examples/cluster")).await;
    assert!(said.lines().count() > 1, "{said}");
    assert!(said.lines().all(|line| line.ends_with(" created")), "{said}");
}
