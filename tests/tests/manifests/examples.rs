//! The examples can be applied as they are.

use crate::cluster::{Cluster, manifests};

/// The others are for its namespace.
const FIRST: &str = "my-app.yaml";

#[tokio::test]
async fn every_example_applies() {
    let cluster = Cluster::new().await;
    let folder = manifests().join("examples");
    let mut others: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(FIRST))
        .collect();
    others.sort();
    assert!(!others.is_empty());

    for file in [vec![folder.join(FIRST)], others].concat() {
        let said = cluster.apply(&file).await;
        assert!(said.lines().all(|line| line.ends_with(" created")), "{}: {said}", file.display());
    }
}
