//! Pools that fill, empty, overlap, go and return.

use crate::cluster::{
    apply, config, create, key, margayctl, pool, pool_yaml, run, start, until_blocks, until_reason,
    until_refused,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_fails_an_add_with_what_to_do_until_there_is_another_pool() {
    // Two blocks of six addresses.
    let lab = start(config(1, vec![pool("first", "10.244.0.0/28", 29)])).await;
    for number in 0..4 {
        run(&lab, &format!("a{number}"), "n1", &[]).await;
    }
    assert_eq!(lab.blocks().await.unwrap().len(), 1, "four of six are below three quarters");
    run(&lab, "a4", "n1", &[]).await;
    until_blocks(&lab, "a block is claimed ahead", |blocks| blocks.len() == 2).await;
    until_reason(&lab, "first", "Full").await;
    for number in 5..12 {
        run(&lab, &format!("a{number}"), "n1", &[]).await;
    }
    create(&lab, "late", "n1", &[]).await;
    let words =
        ["no address is free on node n1", "no block is left in pool first (10.244.0.0/28)", "add an IPPool"];
    until_refused(&lab, "late", &words).await;
    let said = margayctl(&lab, 0, "node status").await;
    assert!(said.contains("no block is left in pool first"), "{said}");

    apply(&lab, &pool_yaml("second", "cidr: 10.245.0.0/24, blockSize: 29")).await;
    lab.wait_pods(&[key("late")], crate::cluster::PATIENCE).await.unwrap();
    assert!(lab.pod_addresses(&key("late"))[0].to_string().starts_with("10.245."));

    // One block of the two that empty is given back.
    let pods: Vec<_> = (0..12).map(|number| key(&format!("a{number}"))).collect();
    lab.remove_pods(&pods).await.unwrap();
    until_blocks(&lab, "an empty block is given back", |blocks| {
        blocks.keys().filter(|block| block.to_string().starts_with("10.244.")).count() == 1
    })
    .await;
    until_reason(&lab, "first", "Ready").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_pool_is_in_its_status_and_a_deleted_pool_stays_in_use_until_its_pods_go() {
    let lab = start(config(1, vec![pool("pods", "10.244.0.0/24", 29)])).await;
    for (name, spec, reason) in [
        ("younger", "cidr: 10.244.0.128/25", "Overlaps"),
        ("large", "cidr: 10.245.0.0/24, blockSize: 16", "InvalidBlockSize"),
        ("bits", "cidr: 10.246.0.1/24", "InvalidCIDR"),
        ("shut", "cidr: 10.247.0.0/24, disabled: true", "Disabled"),
    ] {
        // As it is: a rule of the definition forbids one of them, and it may be older than the rule.
        let pool = serde_saphyr::from_str(&pool_yaml(name, spec)).unwrap();
        lab.api_server().unwrap().put_raw(pool).unwrap();
        until_reason(&lab, name, reason).await;
        assert!(lab.blocks().await.unwrap().keys().all(|block| block.to_string().starts_with("10.244.0.")));
        lab.kubectl(&["delete", "ippool", name], "").await.unwrap();
    }

    let address = run(&lab, "a", "n1", &[]).await;
    lab.kubectl(&["delete", "ippool", "pods"], "").await.unwrap();
    create(&lab, "b", "n1", &[(margay_api::annotation::POOLS, "pods")]).await;
    until_refused(&lab, "b", &["pool pods, which does not exist"]).await;
    let block = *lab.blocks().await.unwrap().keys().find(|block| block.contains(address)).unwrap();
    // Made again, it has its block again.
    apply(&lab, &pool_yaml("pods", "cidr: 10.244.0.0/24, blockSize: 29")).await;
    lab.wait_pods(&[key("b")], crate::cluster::PATIENCE).await.unwrap();
    assert!(block.contains(lab.pod_addresses(&key("b"))[0]));
    // Shrunk, its block is no longer inside, and goes with its last pod.
    let elsewhere = if block.to_string() == "10.244.0.0/29" { "10.244.0.128/25" } else { "10.244.0.0/29" };
    apply(&lab, &pool_yaml("pods", &format!("cidr: {elsewhere}, blockSize: 29"))).await;
    until_blocks(&lab, "a block of the new range", |blocks| blocks.len() == 2).await;
    lab.remove_pods(&[key("a"), key("b")]).await.unwrap();
    until_blocks(&lab, "the old block is gone", |blocks| !blocks.contains_key(&block)).await;

    // An object that somebody deletes while pods have addresses of it is made again.
    let address = run(&lab, "c", "n1", &[]).await;
    lab.kubectl(&["delete", "ipblocks", "--all"], "").await.unwrap();
    until_blocks(&lab, "the block is claimed again", |blocks| {
        blocks.keys().any(|block| block.contains(address))
    })
    .await;
    lab.stop().await;
}
