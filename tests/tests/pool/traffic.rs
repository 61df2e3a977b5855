//! Pods with addresses of claimed blocks reach each other, and go on through restarts.

use margay_lab::{Daemon, IpFamilies, LabConfig, Party, clock};
use nix::sys::signal::Signal;

use crate::cluster::{PATIENCE, PORT, config, key, margayctl, run, start, until_status};

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_two_nodes_reach_each_other_in_both_families_and_a_restart_changes_no_block() {
    let lab = start(LabConfig { ip_families: IpFamilies::Dual, ..config(2, vec![]) }).await;
    let before = lab.blocks().await.unwrap();
    let of = |node: &str| before.iter().filter(|(_, owner)| *owner == node).count();
    assert_eq!((of("n1"), of("n2")), (2, 2), "one of each family for each node: {before:?}");
    run(&lab, "a", "n1", &[]).await;
    run(&lab, "b", "n2", &[]).await;
    let addresses = lab.pod_addresses(&key("b"));
    assert_eq!(addresses.len(), 2);
    for address in &addresses {
        assert!(before.iter().any(|(block, owner)| block.contains(*address) && owner == "n2"), "{address}");
        let what = format!("a reaches {address}");
        clock::until(PATIENCE, &what, || async {
            let reach = lab.reach_address(&Party::from(key("a")), *address, PORT).await.ok()?;
            reach.is_open().then_some(())
        })
        .await
        .unwrap();
    }
    let pid = lab.node(1).pid(Daemon::Agent);
    lab.node(1).signal(Daemon::Agent, Signal::SIGKILL).unwrap();
    let restarted = || async { lab.node(1).pid(Daemon::Agent).filter(|new| Some(*new) != pid) };
    clock::until(PATIENCE, "another agent", restarted).await.unwrap();
    // The new one adds pods from the blocks that the old one claimed.
    let address = run(&lab, "c", "n2", &[]).await;
    assert!(before.iter().any(|(block, owner)| block.contains(address) && owner == "n2"), "{address}");
    assert_eq!(lab.blocks().await.unwrap(), before);

    let status = until_status(&lab, "pods-ipv4", "Ready", Some(2)).await;
    assert_eq!(status["totalBlocks"], 1024);
    let shown = margayctl(&lab, 1, "ipam show").await;
    for word in ["pods-ipv4", "10.244.0.0/16", "default/b", &address.to_string()] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    lab.stop().await;
}
