//! The agent killed while pods are added.

use std::collections::BTreeSet;

use margay_lab::{Daemon, clock};
use margay_tests::soak;
use nix::sys::signal::Signal;

use crate::cluster::{PATIENCE, is_open, left, pod, start, until_restarted};

#[tokio::test(flavor = "multi_thread")]
async fn pods_added_while_the_agent_dies_again_and_again_all_come_up_and_leave_nothing_when_they_go() {
    let lab = start(2).await;
    let node = lab.node(0);
    let pods: Vec<_> = (0..12).map(|number| pod(&format!("p{number}"), node.name())).collect();
    let keys: Vec<_> = pods.iter().map(|(key, _)| key.clone()).collect();
    lab.create_pods(&pods).await.unwrap();
    for _ in 0..4 * soak() {
        let pid = node.pid(Daemon::Agent);
        // Not before it has begun to serve: its socket is what ADDs wait on.
        node.signal(Daemon::Agent, Signal::SIGKILL).unwrap();
        until_restarted(node, Daemon::Agent, pid).await;
    }
    lab.wait_pods(&keys, PATIENCE).await.unwrap_or_else(|error| panic!("{error:#}{}", lab.log_tail(30)));
    let addresses: BTreeSet<_> = keys.iter().flat_map(|key| lab.pod_addresses(key)).collect();
    assert_eq!(addresses.len(), 12);
    assert!(is_open(&lab, "p0", "p11").await && is_open(&lab, "p5", "p6").await);
    assert_eq!(left(node).await, (12, 12, 12));

    lab.delete_pods(&keys).await.unwrap();
    // An ADD that was cut off leaves something for at most one reconcile.
    let look = || async { (left(node).await == (0, 0, 0)).then_some(()) };
    let gone = clock::until(PATIENCE, "nothing is left", look).await;
    assert!(gone.is_ok(), "left: {:?}{}", left(node).await, lab.log_tail(30));
    lab.stop().await;
}
