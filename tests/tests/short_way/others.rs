//! Programs and queueing disciplines of others at a pod's link, and those who take ours off.

use std::time::Duration;

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{
        LinkOrder, SchedClassifier,
        tc::{TcAttachOptions, TcAttachType},
    },
    sys::{Stats, enable_stats},
    util::KernelVersion,
};
use margay_ebpf_common::LAYOUT_VERSION;
use margay_lab::Lab;
use margay_tests::programs::{load, object};
use serde_json::Value;

use crate::cluster::{PATIENCE, TCP, UDP, is_open, margayctl, party, programs_at, run, start, took, until};

/// Between two datagrams of a stream.
const EVERY: Duration = Duration::from_millis(1);
/// Packets that are sent before it is looked which way they went: many more than anybody else sends meanwhile.
const MANY: u64 = 200;

/// The name of what somebody else has there: one of our programs with maps of its own, which are empty, so that it lets all go on.
const THEIRS: &str = "to_uplink";

/// Whether programs have an order that who attaches them chooses; if not, ours are last.
fn has_order() -> bool {
    KernelVersion::current().unwrap() >= KernelVersion::new(6, 6, 0)
}

/// Attaches it to a link of the first node.
async fn attach(lab: &Lab, link: &str, direction: TcAttachType, order: LinkOrder) -> Ebpf {
    let link = link.to_owned();
    let attach = move || {
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        let mut theirs = loader.load_file(object()).unwrap();
        let program: &mut SchedClassifier = theirs.program_mut(THEIRS).unwrap().try_into().unwrap();
        load(program).unwrap();
        if has_order() {
            let order = TcAttachOptions::TcxOrder(order);
            program.attach_with_options(&link, direction, order).unwrap();
        } else {
            program.attach(&link, direction).unwrap();
        }
        theirs
    };
    lab.node(0).run(attach).await.unwrap()
}

/// How many packets it has seen.
fn seen(theirs: &mut Ebpf) -> u64 {
    let program: &mut SchedClassifier = theirs.program_mut(THEIRS).unwrap().try_into().unwrap();
    program.info().unwrap().run_count()
}

/// What `margayctl` says of a pod of the first node: the index of its link, and how packets to it go.
async fn endpoint(lab: &Lab, pod: &str) -> (u64, String) {
    let told = lab.node(0).output(&margayctl(), &["ebpf", "endpoints", "-o", "json"]).await.unwrap();
    let table: Value = serde_json::from_str(&told).unwrap();
    let row = table.as_array().unwrap().iter().find(|row| row["pod"] == format!("default/{pod}")).unwrap();
    (row["link"].as_str().unwrap().parse().unwrap(), row["packets to it"].as_str().unwrap().to_owned())
}

/// The name of a link of the first node, and how many packets went into it.
async fn link(lab: &Lab, index: u64) -> (String, u64) {
    let told = lab.node(0).output("ip", &["-stats", "-json", "link"]).await.unwrap();
    let links: Value = serde_json::from_str(&told).unwrap();
    let link = links.as_array().unwrap().iter().find(|link| link["ifindex"] == index).unwrap();
    (link["ifname"].as_str().unwrap().to_owned(), link["stats64"]["tx"]["packets"].as_u64().unwrap())
}

/// Sends to a pod, of which nothing is lost and all takes the short way, and says how many of how many packets its link saw.
async fn send(lab: &Lab, pod: &str) -> (u64, u64) {
    let (index, _) = endpoint(lab, pod).await;
    let ((_, before), short) = (link(lab, index).await, took(lab, 0, "to_pod").await);
    let mut stream = lab.stream(&party("client"), &party(pod), EVERY).unwrap();
    stream.sends(MANY).await.unwrap();
    let counted = stream.finish().await.unwrap();
    assert_eq!(counted.lost, [0_u64; 0], "to {pod}: of {}", counted.sent);
    assert!(took(lab, 0, "to_pod").await >= short + counted.sent, "{pod}: all takes the short way");
    (link(lab, index).await.1 - before, counted.sent)
}

async fn until_goes(lab: &Lab, pod: &str, way: &str) {
    until(lab, &format!("packets to {pod} go {way}"), async || endpoint(lab, pod).await.1 == way).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_to_a_pod_go_by_its_link_while_somebody_else_has_a_program_there() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1"), ("also", "n1")]).await;
    let _counted = enable_stats(Stats::RunTime).unwrap();
    let mut all = Vec::new();
    for (pod, order) in [("near", LinkOrder::first()), ("also", LinkOrder::last())] {
        until_goes(&lab, pod, "straight").await;
        let (by_link, sent) = send(&lab, pod).await;
        assert!(by_link < MANY / 2, "{pod}: {by_link} of {sent} went by the link");
        let (name, _) = link(&lab, endpoint(&lab, pod).await.0).await;
        all.push((pod, name.clone(), attach(&lab, &name, TcAttachType::Egress, order).await));
    }
    for (pod, name, theirs) in &mut all {
        until_goes(&lab, pod, "to its host end").await;
        let before = seen(theirs);
        let (by_link, sent) = send(&lab, pod).await;
        assert!(by_link >= sent, "{pod}: {by_link} of {sent} went by the link");
        assert!(seen(theirs) >= before + sent, "{pod}: they saw {} of {sent}", seen(theirs) - before);
        let at = programs_at(&lab).await;
        let last = at.iter().rfind(|it| it.starts_with(name.as_str())).unwrap();
        let ours_is_last = last.ends_with("to_pod");
        assert_eq!(ours_is_last, *pod == "near" || !has_order(), "{at:?}");
    }
    let links: Vec<_> = all.iter().map(|(pod, ..)| *pod).collect();
    lab.node(0).run(move || drop(all)).await.unwrap();
    for pod in links {
        until_goes(&lab, pod, "straight").await;
        let (by_link, sent) = send(&lab, pod).await;
        assert!(by_link < MANY / 2, "{pod}: {by_link} of {sent} went by the link");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_sends_is_seen_by_programs_before_ours_and_not_by_those_after() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1")]).await;
    let _counted = enable_stats(Stats::RunTime).unwrap();
    let (name, _) = link(&lab, endpoint(&lab, "client").await.0).await;
    for (order, is_before) in [(LinkOrder::first(), true), (LinkOrder::last(), false)] {
        let mut theirs = attach(&lab, &name, TcAttachType::Ingress, order).await;
        let before = seen(&mut theirs);
        let (_, sent) = send(&lab, "near").await;
        let seen = seen(&mut theirs) - before;
        if is_before || !has_order() {
            assert!(seen >= sent, "{seen} of {sent}");
        } else {
            assert!(seen < MANY / 2, "{seen} of {sent}");
        }
        lab.node(0).run(move || drop(theirs)).await.unwrap();
    }
    lab.stop().await;
}

/// Runs `tc` on the first node.
async fn tc(lab: &Lab, arguments: &str) {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    lab.node(0).output("tc", &arguments).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_to_a_pod_go_by_its_link_while_that_has_a_queueing_discipline() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1")]).await;
    until_goes(&lab, "near", "straight").await;
    let (name, _) = link(&lab, endpoint(&lab, "near").await.0).await;
    tc(&lab, &format!("qdisc add dev {name} root pfifo")).await;
    until_goes(&lab, "near", "to its host end").await;
    let (by_link, sent) = send(&lab, "near").await;
    assert!(by_link >= sent, "{by_link} of {sent} went by the link");
    tc(&lab, &format!("qdisc del dev {name} root")).await;
    until_goes(&lab, "near", "straight").await;
    let (by_link, sent) = send(&lab, "near").await;
    assert!(by_link < MANY / 2, "{by_link} of {sent} went by the link");
    lab.stop().await;
}

/// The pods of the first node that may have flows on the short way.
async fn endpoints(lab: &Lab) -> Vec<String> {
    let told = lab.node(0).output(&margayctl(), &["ebpf", "endpoints", "-o", "json"]).await.unwrap();
    let table: Value = serde_json::from_str(&told).unwrap();
    table.as_array().unwrap().iter().map(|row| row["pod"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_or_to_a_pod_takes_the_short_way_while_filters_come_after_ours_or_find_them_no_room() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1")]).await;
    let (name, _) = link(&lab, endpoint(&lab, "near").await.0).await;
    // Without tcx the programs are the last filters of `clsact`, in whose place `ingress` is.
    let disciplines: &[&str] = if has_order() { &["clsact", "ingress"] } else { &["ingress"] };
    for discipline in disciplines {
        let mut kept = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();
        if !has_order() {
            tc(&lab, &format!("qdisc del dev {name} clsact")).await;
        }
        tc(&lab, &format!("qdisc add dev {name} {discipline}")).await;
        until(&lab, "near has no short way", async || endpoints(&lab).await == ["default/client"]).await;
        let before = took(&lab, 0, "to_pod").await;
        assert!(kept.is_alive(PATIENCE).await, "a connection goes on in the stack{}", lab.log_tail(30));
        for (from, to) in [("client", "near"), ("near", "client")] {
            assert!(is_open(&lab, from, to, TCP).await && is_open(&lab, from, to, UDP).await);
        }
        assert_eq!(took(&lab, 0, "to_pod").await, before, "{discipline}: nothing takes the short way");
        tc(&lab, &format!("qdisc del dev {name} {discipline}")).await;
        until(&lab, "near is known again", async || endpoints(&lab).await.len() == 2).await;
        until_goes(&lab, "near", "straight").await;
        send(&lab, "near").await;
    }
    lab.stop().await;
}

/// Takes all of our programs off an interface of the first node, and waits until the agent has put them back.
async fn take_off(lab: &Lab, name: &str, index: u64) {
    let before = programs_at(lab).await;
    // Nothing else holds a program with tcx than the pin of its link.
    let pins = lab.node(0).path(format!("/sys/fs/bpf/margay/v{LAYOUT_VERSION}/links"));
    let pins = ["from_pod", "to_pod"].map(|program| pins.join(format!("{index}-{program}")));
    for (pin, direction) in pins.iter().zip(["ingress", "egress"]) {
        if has_order() {
            std::fs::remove_file(pin).unwrap();
        } else {
            tc(lab, &format!("filter del dev {name} {direction}")).await;
        }
    }
    until(lab, &format!("the programs at {name} are put back"), async || {
        (!has_order() || pins.iter().all(|pin| pin.exists())) && programs_at(lab).await == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_somebody_takes_off_are_put_back_and_nothing_is_lost_until_then() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1")]).await;
    let mut kept = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();
    for pod in ["client", "near"] {
        let index = endpoint(&lab, pod).await.0;
        let (name, _) = link(&lab, index).await;
        // For as long as the agent looks at nothing: what a busy machine sends late and at once has to find room with the receiver.
        let mut stream = lab.stream(&party("client"), &party("near"), 5 * EVERY).unwrap();
        stream.sends(1).await.unwrap();
        take_off(&lab, &name, index).await;
        let counted = stream.finish().await.unwrap();
        assert_eq!(counted.lost, [0_u64; 0], "{pod}: of {}", counted.sent);
        assert!(kept.is_alive(PATIENCE).await, "{pod}{}", lab.log_tail(30));
        let before = took(&lab, 0, "to_pod").await;
        assert!(is_open(&lab, "client", "near", UDP).await);
        assert!(took(&lab, 0, "to_pod").await > before, "{pod}: new flows take the short way again");
    }
    lab.stop().await;
}
