//! The agent dead or dying while policy is in force and changes.

use std::time::Duration;

use margay_lab::Daemon;
use margay_tests::soak;
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::cluster::{PATIENCE, PORT, deny, is_open, party, run_pods, start, until_open, until_restarted};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_leaves_open_what_was_open_and_closed_what_was_closed_and_no_session_flaps() {
    let lab = start(2).await;
    run_pods(&lab, &[("client", "n1"), ("web", "n2"), ("db", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    let mut kept = lab.keep(&party("client"), &party("web"), PORT).await.unwrap().unwrap();
    let mut allowed = lab.keep(&party("web"), &party("client"), PORT).await.unwrap().unwrap();
    let speaker = lab.node(1).pid(Daemon::Bgp);
    let up_for = lab.node(0).bgp_status().await.unwrap().neighbors[0].since_seconds;

    for node in lab.nodes() {
        node.signal(Daemon::Agent, Signal::SIGKILL).unwrap();
        node.stop_daemon(Daemon::Agent).await;
        assert_eq!(node.pid(Daemon::Agent), None);
    }
    assert!(kept.is_alive(PATIENCE).await);
    assert!(is_open(&lab, "client", "web").await);
    assert!(!is_open(&lab, "client", "db").await);
    deny(&lab, "web").await;
    assert!(is_open(&lab, "client", "web").await, "nobody is there who could have closed it");

    for node in lab.nodes() {
        node.start_daemon(Daemon::Agent).await;
    }
    until_open(&lab, "client", "web", false).await;
    assert!(!is_open(&lab, "client", "db").await);
    let end = async { while kept.is_alive(Duration::from_millis(500)).await {} };
    timeout(PATIENCE, end).await.expect("a connection that was forbidden meanwhile ends");
    assert!(allowed.is_alive(PATIENCE).await, "one that is still allowed goes on");
    assert_eq!(lab.node(1).pid(Daemon::Bgp), speaker);
    let neighbor = &lab.node(0).bgp_status().await.unwrap().neighbors[0];
    assert_eq!(neighbor.state, "Established");
    assert!(
        neighbor.since_seconds >= up_for,
        "the session was up for {up_for} s, now for {} s",
        neighbor.since_seconds
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_during_policy_updates_never_opens_what_is_denied_and_ends_at_the_last_state() {
    let lab = start(2).await;
    run_pods(&lab, &[("client", "n1"), ("web", "n2"), ("db", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    let node = lab.node(1);
    let updates = async {
        for round in (0..6).cycle().take(6 * soak()) {
            let pid = node.pid(Daemon::Agent);
            deny(&lab, "web").await;
            // A few more milliseconds each time: before the event, in the middle, after the transaction.
            let mut moment = tokio::time::interval(Duration::from_millis(2 * round + 1));
            moment.tick().await;
            moment.tick().await;
            node.signal(Daemon::Agent, Signal::SIGKILL).unwrap();
            until_restarted(node, Daemon::Agent, pid).await;
            until_open(&lab, "client", "web", false).await;
            lab.kubectl(&["delete", "networkpolicy", "-n", "default", "deny-web"], "").await.unwrap();
            until_open(&lab, "client", "web", true).await;
        }
    };
    let watch = async {
        let mut probes = 0_u32;
        loop {
            assert!(!is_open(&lab, "client", "db").await, "db was open at probe {probes}");
            probes += 1;
        }
    };
    tokio::select! {
        () = updates => {}
        () = watch => {}
    }
    lab.stop().await;
}
