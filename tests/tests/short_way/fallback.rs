//! Programs that do not load leave the node with nftables, which denies what is denied all the same.

use std::time::Duration;

use margay_lab::{Daemon, Dataplane, Lab, LabConfig};

use crate::cluster::{
    PATIENCE, TCP, UDP, WITHOUT_BPF, apply, create, give, is_open, kill_agent, metrics, only, party,
    programs_at, run, start_as, until, until_condition, until_runs, until_told,
};

/// Between two datagrams of a stream.
const EVERY: Duration = Duration::from_millis(2);

/// Asserts that the agent of the first node says that it has not what is wanted, and why.
async fn says_so(lab: &Lab) {
    let why = "the agent lacks CAP_PERFMON and CAP_BPF";
    let mut said = lab.node(0).log(Daemon::Agent, 2000);
    said.retain(|line| line.contains("dataplane nftables, as eBPF does not go here"));
    assert!(said.len() == 1 && said[0].contains(why), "one line, with the reason: {said:?}");
    until_told(lab, "DataplaneFallback", why).await;
    until_condition(lab, "Unknown", "EbpfDoesNotGoHere", why).await;
    let dataplane = metrics(lab, 0, "margay_dataplane").await;
    assert_eq!(dataplane.into_iter().collect::<Vec<_>>(), [("{dataplane=\"nftables\"}".to_owned(), 1)]);
    let node = lab.node(0);
    assert!(!node.path("/sys/fs/bpf/margay").exists(), "nothing is pinned");
    assert_eq!(programs_at(lab).await, [""; 0], "no program is at an interface");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_load_no_program_has_policy_in_force_by_nftables_and_says_why() {
    let config = LabConfig { dataplane: Dataplane::Auto, ..LabConfig::default() };
    let (lab, _programs) = start_as(config, WITHOUT_BPF).await;
    create(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("far", "n2")]).await;
    apply(&lab, &format!("{}---\n{}", only("client", "near"), only("client", "far"))).await;
    for to in ["near", "far"] {
        for port in [TCP, UDP] {
            until(&lab, "policy is in force", async || !is_open(&lab, "other", to, port).await).await;
            assert!(is_open(&lab, "client", to, port).await, "client -> {to}");
        }
    }
    says_so(&lab).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_load_no_longer_go_with_their_flows_given_to_the_stack_and_nothing_opens() {
    let config = LabConfig { dataplane: Dataplane::Auto, ..LabConfig::default() };
    let (lab, agents) = start_as(config, crate::cluster::AS_SHIPPED).await;
    for number in [0, 1] {
        until_runs(&lab, number, "ebpf").await;
    }
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("far", "n2")]).await;
    apply(&lab, &format!("{}---\n{}", only("client", "near"), only("client", "far"))).await;
    let targets = ["near", "far"];
    let mut kept = Vec::new();
    let mut streams = Vec::new();
    for to in targets {
        until(&lab, "policy is in force", async || !is_open(&lab, "other", to, TCP).await).await;
        kept.push(lab.keep(&party("client"), &party(to), TCP).await.unwrap().unwrap());
        let mut stream = lab.stream(&party("client"), &party(to), EVERY).unwrap();
        stream.sends(50).await.unwrap();
        streams.push(stream);
    }
    assert!(programs_at(&lab).await.iter().any(|it| it.ends_with("from_pod")), "they are attached");

    give(&agents, WITHOUT_BPF);
    let watch = async {
        loop {
            for (to, kept) in targets.iter().zip(&mut kept) {
                assert!(kept.is_alive(PATIENCE).await, "the open connection to {to}{}", lab.log_tail(30));
                for port in [TCP, UDP] {
                    assert!(!is_open(&lab, "other", to, port).await, "{to} was open to other");
                }
            }
        }
    };
    tokio::select! {
        () = kill_agent(&lab, 0, "nftables") => {}
        () = watch => unreachable!("it never ends"),
    }
    for (to, mut stream) in targets.iter().zip(streams) {
        stream.sends(100).await.unwrap();
        let counted = stream.finish().await.unwrap();
        assert_eq!(counted.lost, [0_u64; 0], "to {to}: of {} lost{}", counted.sent, lab.log_tail(30));
    }
    for (to, kept) in targets.iter().zip(&mut kept) {
        assert!(kept.is_alive(PATIENCE).await, "the open connection to {to}");
        assert!(is_open(&lab, "client", to, TCP).await, "client -> {to}");
        assert!(!is_open(&lab, "other", to, TCP).await, "other -> {to}");
    }
    says_so(&lab).await;
    lab.stop().await;
}
