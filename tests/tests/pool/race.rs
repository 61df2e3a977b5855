//! Two nodes and one block: one gets it, and the other when the first is gone.

use margay_api::resource::IPBlock;
use margay_lab::{Daemon, Lab, clock};

use crate::cluster::{PATIENCE, apply, config, margayctl, pool, run, start, until_blocks, until_status};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_block_goes_to_one_node_and_returns_when_that_is_deleted() {
    let lab = Lab::start(config(2, vec![pool("tiny", "10.244.0.0/29", 29)])).await.unwrap();
    until_blocks(&lab, "one block is claimed", |blocks| blocks.len() == 1).await;
    let status = until_status(&lab, "tiny", "Full", Some(1)).await;
    assert_eq!(status["totalBlocks"], 1);
    let winner = lab.blocks().await.unwrap().into_values().next().unwrap();
    let (loser, index) = if winner == "n1" { ("n2", 1) } else { ("n1", 0) };
    // Its agent hears of the other's claim when its own was refused, or before.
    let said = || async {
        let said = margayctl(&lab, index, "node status").await;
        (said.contains("this node has no address block") && said.contains("tiny")).then_some(())
    };
    clock::until(PATIENCE, "the other node says that it has no block", said).await.unwrap();

    lab.kubectl(&["delete", "node", &winner], "").await.unwrap();
    until_blocks(&lab, "the block goes to the node that is left", |blocks| blocks.values().eq([loser])).await;
    let address = run(&lab, "a", loser, &[]).await;
    assert!(lab.blocks().await.unwrap().keys().all(|block| block.contains(address)));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_another_node_got_gives_no_more_addresses_and_its_object_says_that_some_are_in_use() {
    let lab = start(config(2, vec![pool("pods", "10.244.0.0/24", 29)])).await;
    let address = run(&lab, "a", "n1", &[]).await;
    let block = *lab.blocks().await.unwrap().keys().find(|block| block.contains(address)).unwrap();
    // While the agent is away, somebody takes its block away and gives it to another node.
    lab.node(0).stop_daemon(Daemon::Agent).await;
    let name = IPBlock::name_of(block);
    lab.kubectl(&["delete", "ipblock", &name], "").await.unwrap();
    let object = format!(
        "apiVersion: margay.dev/v1alpha1\nkind: IPBlock\nmetadata: {{name: {name}}}\n\
         spec: {{cidr: {block}, pool: pods, node: n2}}\n"
    );
    apply(&lab, &object).await;
    lab.node(0).start_daemon(Daemon::Agent).await;
    let message = || async {
        let path = "jsonpath={.status.conditions[?(@.type==\"Conflict\")].message}";
        lab.kubectl(&["get", "ipblock", &name, "-o", path], "").await.ok().filter(|text| !text.is_empty())
    };
    let said = clock::until(PATIENCE, "the conflict is told", message).await.unwrap();
    assert!(said.contains("pods of node n1"), "{said}");
    let told = || async {
        let events = lab.kubectl(&["get", "events"], "").await.ok()?;
        let fits =
            |line: &str| ["AddressConflict", "pod/a", "node n2 has"].iter().all(|it| line.contains(it));
        events.lines().any(fits).then_some(())
    };
    clock::until(PATIENCE, "the pod with the address is told", told).await.unwrap();
    until_blocks(&lab, "another block", |blocks| {
        blocks.get(&block).is_some_and(|node| node == "n2") && blocks.values().any(|node| node == "n1")
    })
    .await;
    let other = run(&lab, "b", "n1", &[]).await;
    assert!(!block.contains(other), "{other}");
    lab.stop().await;
}
