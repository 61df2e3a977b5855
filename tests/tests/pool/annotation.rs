//! What pods and namespaces ask for.

use margay_api::{
    annotation::{ADDRESS, POOLS},
    resource::{AssignmentMode, IPPoolSpec},
};

use margay_lab::LabConfig;

use crate::cluster::{config, create, key, pool, run, start, until_blocks, until_refused};

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_addresses_of_the_pools_and_the_addresses_that_they_name() {
    let (blue, spec) = pool("blue", "10.245.0.0/24", 29);
    let reserved = vec!["10.245.0.24/29".to_owned()];
    let manual = IPPoolSpec { assignment_mode: AssignmentMode::Manual, reserved, ..spec };
    let lab = start(config(2, vec![pool("green", "10.244.0.0/24", 28), (blue, manual)])).await;
    let blocks = lab.blocks().await.unwrap();
    assert!(blocks.keys().all(|block| block.to_string().starts_with("10.244.")), "none of a manual pool");

    assert!(run(&lab, "plain", "n1", &[]).await.to_string().starts_with("10.244."));
    assert!(run(&lab, "blue", "n1", &[(POOLS, "blue")]).await.to_string().starts_with("10.245."));
    lab.kubectl(&["annotate", "namespace", "default", &format!("{POOLS}=blue")], "").await.unwrap();
    assert!(run(&lab, "by-namespace", "n1", &[]).await.to_string().starts_with("10.245."));
    assert!(run(&lab, "by-pod", "n1", &[(POOLS, "green")]).await.to_string().starts_with("10.244."));

    // In a block that nobody has: it is claimed first.
    let asked = run(&lab, "asked", "n2", &[(ADDRESS, "10.245.0.84")]).await;
    assert_eq!(asked.to_string(), "10.245.0.84");
    until_blocks(&lab, "the block of the address", |blocks| {
        blocks.get(&"10.245.0.80/29".parse().unwrap()).is_some_and(|node| node == "n2")
    })
    .await;
    for (name, annotations, words) in [
        ("elsewhere", &[(ADDRESS, "10.245.0.85")][..], &["10.245.0.80/29", "node n2"][..]),
        ("reserved", &[(ADDRESS, "10.245.0.25")], &["pool blue reserves it"]),
        ("outside", &[(ADDRESS, "10.244.0.7")], &["in no pool that the pod may use", "blue"]),
        ("edge", &[(ADDRESS, "10.245.0.96")], &["is not handed out"]),
        ("unknown", &[(POOLS, "red")], &["pool red, which does not exist", "blue, green"]),
        ("json", &[(POOLS, "[\"blue\"]")], &["separated by commas"]),
        ("words", &[(ADDRESS, "ten")], &["`ten` is no address"]),
    ] {
        create(&lab, name, "n1", annotations).await;
        until_refused(&lab, name, words).await;
    }
    // An address of the node itself.
    lab.node(0).output("ip", &["address", "add", "10.245.0.100/32", "dev", "lo"]).await.unwrap();
    create(&lab, "node", "n1", &[(ADDRESS, "10.245.0.100")]).await;
    until_refused(&lab, "node", &["an interface of this node has it"]).await;

    // Pods that come all at once claim what they need.
    let many: Vec<String> = (0..20).map(|number| format!("many-{number}")).collect();
    for name in &many {
        create(&lab, name, "n2", &[]).await;
    }
    let keys: Vec<_> = many.iter().map(|name| key(name)).collect();
    lab.wait_pods(&keys, crate::cluster::PATIENCE).await.unwrap();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_mode_pod_cidr_a_pod_gets_the_address_that_it_names_too() {
    let lab = start(LabConfig { nodes: 1, ..LabConfig::default() }).await;
    let address = run(&lab, "asked", "n1", &[(ADDRESS, "10.244.1.77")]).await;
    assert_eq!(address.to_string(), "10.244.1.77");
    lab.node(0).output("ip", &["address", "add", "10.244.1.1/32", "dev", "lo"]).await.unwrap();
    for (name, asked, words) in [
        ("outside", "10.244.2.7", &["in no address block of this node"][..]),
        ("taken", "10.244.1.77", &["holds it"]),
        ("node", "10.244.1.1", &["an interface of this node has it"]),
    ] {
        create(&lab, name, "n1", &[(ADDRESS, asked)]).await;
        until_refused(&lab, name, words).await;
    }
    lab.stop().await;
}
