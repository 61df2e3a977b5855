//! Many pods that come and go while policies change.

use std::{collections::BTreeSet, net::IpAddr};

use margay_lab::{LabConfig, PodKey, PodSpec};
use margay_tests::soak;

use crate::{
    cluster::{PATIENCE, PORT, deny, is_open, key, leave_nothing, margayctl, party, run, start, until},
    traffic::Traffic,
};

/// Of how many groups the pods are. Of every other one the policy stays in the end.
const GROUPS: usize = 4;
const WAVE: usize = 25;

fn group(number: usize) -> String {
    format!("g{}", number % GROUPS)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_of_pods_and_policies_verdicts_are_right_and_no_address_is_lost_or_twice() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let steady = run(&lab, &[("client", "n1"), ("web", "n2")]).await;
    let traffic = Traffic::start(&lab, &[("client", "web")]).await;
    let last = 3 * soak();
    let wave = |first: usize| -> Vec<(PodKey, PodSpec)> {
        let pod = |number: usize| {
            let node = format!("n{}", 1 + number % 2);
            // Two of each group's pods in a row, so that it has some on each node.
            let spec = PodSpec::new(&[("app", &group(number / 2))], &[PORT]).on(&node);
            (key(&format!("p{number}")), spec)
        };
        (first..first + WAVE).map(pod).collect()
    };
    let keys = |first: usize| -> Vec<PodKey> { wave(first).into_iter().map(|(key, _)| key).collect() };
    let pods = async {
        lab.create_pods(&wave(0)).await.unwrap();
        for first in (1..=last).map(|wave| wave * WAVE) {
            // Those before are still coming when they have to go.
            let (next, previous) = (wave(first), keys(first - WAVE));
            let (made, deleted) = tokio::join!(lab.create_pods(&next), lab.delete_pods(&previous));
            made.unwrap();
            deleted.unwrap();
        }
        lab.wait_pods(&keys(last * WAVE), PATIENCE).await.unwrap();
    };
    let policies = async {
        loop {
            for number in 0..GROUPS {
                deny(&lab, &group(number)).await;
                let gone = format!("deny-{}", group(number + 2));
                let delete = ["delete", "networkpolicy", "-n", "default", "--ignore-not-found", &gone];
                lab.kubectl(&delete, "").await.unwrap();
            }
        }
    };
    tokio::select! {
        () = pods => {}
        () = policies => {}
    }
    for number in 0..GROUPS {
        if number % 2 == 0 {
            deny(&lab, &group(number)).await;
        } else {
            let policy = format!("deny-{}", group(number));
            let delete = ["delete", "networkpolicy", "-n", "default", "--ignore-not-found", &policy];
            lab.kubectl(&delete, "").await.unwrap();
        }
    }
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for number in last * WAVE..(last + 1) * WAVE {
        let (name, wanted) = (format!("p{number}"), number / 2 % 2 == 1);
        until(&lab, &format!("client -> {name} open: {wanted}"), async || {
            is_open(&lab, "client", &name).await == wanted
        })
        .await;
        for address in lab.pod_addresses(&key(&name)) {
            assert!(addresses.insert(address), "{address} is on two pods");
        }
    }
    assert_eq!(addresses.len(), WAVE);
    assert!(lab.reach(&party("client"), &party("web"), PORT).await.unwrap().is_open());
    traffic.lost_nothing(&lab, "a storm of pods").await;
    for node in lab.nodes() {
        let told = margayctl(node, "ipam check").await;
        // The heads of the columns alone: disk, records and kernel agree.
        assert!(told.lines().count() <= 1, "{}: {told}", node.name());
    }
    let mut pods = keys(last * WAVE);
    pods.extend(steady);
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}
