//! Route reflectors in the place of a mesh; and no packet is lost while anything of it restarts.

use std::time::Duration;

use margay_bgp::control::NeighborStatus;
use margay_lab::{Counted, Daemon, Lab, Party};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::cluster::{PATIENCE, PORT, apply, key, kubectl, neighbors, node_status, run, start, until};

/// Between two datagrams of a stream.
const EVERY: Duration = Duration::from_millis(5);

/// The default of `deferral_time`.
const DEFERRAL_SECONDS: u64 = 15;

/// Three nodes, of which n1 reflects for the others, with pods a on n2 and b on n3.
async fn reflected() -> Lab {
    let lab = start(3).await;
    kubectl(&lab, "label node n1 margay.dev/route-reflector=1").await;
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {mesh: Disabled}\n",
    )
    .await;
    until_settled(&lab).await;
    run(&lab, "a", "n2").await;
    run(&lab, "b", "n3").await;
    lab
}

/// Waits until n1 has both others as neighbours and each of them it alone, with the routes of all.
async fn until_settled(lab: &Lab) {
    // A client hears of the reflector's block and of the other client's.
    for (node, sessions, prefixes) in [(0, 2, 1), (1, 1, 2), (2, 1, 2)] {
        until(
            lab,
            &format!("node {} has {sessions} sessions with {prefixes} prefixes", node + 1),
            async || {
                neighbors(lab, node).await.is_some_and(|all| {
                    let is_up =
                        |it: &NeighborStatus| it.state == "Established" && it.prefixes_received == prefixes;
                    all.len() == sessions && all.iter().all(is_up)
                })
            },
        )
        .await;
    }
    lab.wait_routes(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_two_clients_of_a_reflector_reach_each_other() {
    let lab = reflected().await;
    let [a, b] = ["a", "b"].map(|name| Party::from(key(name)));
    // A node takes a moment to hear of another's new pod.
    until(&lab, "a reaches b", async || lab.reach(&a, &b, PORT).await.is_ok_and(|cell| cell.reach.is_open()))
        .await;
    // Not by way of the reflector: it tells the routes, and takes no part in the traffic.
    let routes = lab.node(1).bgp_routes().await.unwrap();
    assert!(routes.iter().any(|it| it.starts_with("10.244.3.0/24 via 172.18.0.4")), "{routes:?}");
    // BFD watches the sessions that nodes have by themselves.
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n\
         spec: {mesh: Disabled, bfd: {intervalMilliseconds: 1000}}\n",
    )
    .await;
    until(&lab, "BFD is up and told", async || {
        node_status(&lab, "n2").await.is_some_and(|it| it["status"]["sessions"][0]["bfd"] == "Up")
    })
    .await;
    // Without the label the nodes have nobody to speak with.
    kubectl(&lab, "label node n1 margay.dev/route-reflector-").await;
    until(&lab, "no session is left", async || neighbors(&lab, 1).await.is_some_and(|all| all.is_empty()))
        .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_reflector_or_of_an_agent_loses_no_packet() {
    let lab = reflected().await;
    // For as long after its start a speaker says that it has restarted itself, and another that restarts then does not
    // wait for what it has to tell (RFC 4724 section 4.1).
    until(&lab, "the sessions are older than the time of a restart", async || {
        neighbors(&lab, 0).await.is_some_and(|all| all.iter().all(|it| it.since_seconds > DEFERRAL_SECONDS))
    })
    .await;
    let [a, b] = ["a", "b"].map(|name| Party::from(key(name)));
    for (what, node, daemon) in [
        ("the reflector's speaker", 0, Daemon::Bgp),
        ("the reflector's agent", 0, Daemon::Agent),
        ("the agent of the sender", 1, Daemon::Agent),
        ("the agent of the receiver", 2, Daemon::Agent),
        ("the speaker of the receiver", 2, Daemon::Bgp),
    ] {
        let counted = restarted(&lab, [&a, &b], what, node, daemon).await;
        assert_eq!(counted.lost, [0_u64; 0], "{what}: of {} lost{}", counted.sent, lab.log_tail(30));
    }
    // That it is graceful restart that keeps them, and that the count would tell: without it some are lost.
    let changed = Instant::now();
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n\
         spec: {mesh: Disabled, gracefulRestart: {enabled: false}}\n",
    )
    .await;
    // The count took two seconds after they had come up.
    until(&lab, "the sessions begin anew", async || {
        neighbors(&lab, 0)
            .await
            .is_some_and(|all| all.iter().all(|it| it.since_seconds <= changed.elapsed().as_secs()))
    })
    .await;
    until_settled(&lab).await;
    let counted = restarted(&lab, [&a, &b], "the reflector's speaker", 0, Daemon::Bgp).await;
    assert!(!counted.lost.is_empty(), "no packet is lost without graceful restart either: {counted:?}");
    lab.stop().await;
}

/// Kills a process, and counts what is lost until all is as it was.
async fn restarted(lab: &Lab, [from, to]: [&Party; 2], what: &str, node: usize, daemon: Daemon) -> Counted {
    let mut stream = lab.stream(from, to, EVERY).unwrap();
    stream.sends(100).await.unwrap();
    let pid = lab.node(node).pid(daemon);
    lab.node(node).signal(daemon, Signal::SIGKILL).unwrap();
    until(lab, &format!("{what} runs again"), async || {
        lab.node(node).pid(daemon).is_some_and(|new| Some(new) != pid)
    })
    .await;
    until_settled(lab).await;
    // What the end of a restart takes away would be missing from here on.
    stream.sends(400).await.unwrap();
    let counted = stream.finish().await.unwrap();
    assert!(counted.sent >= 500, "{counted:?}");
    counted
}
