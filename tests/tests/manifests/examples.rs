//! The examples can be applied as they are, all at once.

use crate::cluster::{Cluster, manifests};

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
