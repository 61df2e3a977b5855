//! Random sequences of calls, kills and restarts leave what a model says.
//!
//! A runtime that makes mistakes calls the real plugin on a node with a real agent: the same container twice, in any
//! order, several at once, with calls killed at any system call and the agent killed at any time. After each step all
//! that is known must be so: in the kernel on both sides, in the records and in the blocks. Once the agent has looked
//! around, nothing may be left of what was cut off but what a record names.

mod model;

use std::sync::Arc;

use margay_api::endpoint::Records;
use margay_ipam::Store;
use margay_netlink::netns::Namespace;
use model::{Attachment, CONTAINERS, Found, INTERFACES, Known, Model};
use proptest::{collection::vec, prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::{
    node::{Node, on_node},
    plugin::{Call, Outcome, SystemCall, namespace},
};

/// Six IPv4 addresses for eight interfaces: some ADDs find none.
const BLOCKS: [&str; 2] = ["10.0.0.0/29", "2001:db8:7::/64"];
const IPV4_ADDRESSES: usize = 6;
const SEQUENCES: usize = 16;
const STEPS: usize = 40;

/// Whether a call is let run to its end.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lives,
    /// At this system call of its usual ones.
    Killed(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Add(Attachment, Fate),
    Del(Attachment, Fate, bool),
    Check(Attachment),
    /// For a network, with the containers that are still valid.
    Gc(usize, Vec<bool>, Fate),
    /// One call for each of these containers at the same time; the agent may be killed meanwhile.
    Together(Vec<bool>, bool),
    KillAgent,
    StartAgent,
    /// The agent looks around.
    Settle,
}

fn any_step() -> impl Strategy<Value = Step> {
    let attachment = select(Attachment::all().collect::<Vec<_>>());
    let fate = prop_oneof![2 => Just(Fate::Lives), 1 => (0_usize..1000).prop_map(Fate::Killed)];
    let containers = || vec(any::<bool>(), CONTAINERS);
    prop_oneof![
        8 => (attachment.clone(), fate.clone()).prop_map(|(attachment, fate)| Step::Add(attachment, fate)),
        5 => (attachment.clone(), fate.clone(), any::<bool>())
            .prop_map(|(attachment, fate, is_named)| Step::Del(attachment, fate, is_named)),
        3 => attachment.prop_map(Step::Check),
        1 => (0..INTERFACES.len(), containers(), fate).prop_map(|(network, valid, fate)| Step::Gc(network, valid, fate)),
        3 => (containers(), prop::bool::weighted(0.2)).prop_map(|(which, kill)| Step::Together(which, kill)),
        1 => Just(Step::KillAgent),
        2 => Just(Step::StartAgent),
        1 => Just(Step::Settle),
    ]
}

#[test]
#[expect(clippy::print_stderr, reason = "a failing test shows the steps that led there")]
fn any_order_of_calls_kills_and_restarts_leaves_what_a_model_says() {
    // The seed is PROPTEST_RNG_SEED of .cargo/config.toml.
    let mut runner = TestRunner::new(ProptestConfig::default());
    for number in 0..SEQUENCES {
        let steps = vec(any_step(), STEPS).new_tree(&mut runner).unwrap().current();
        on_node(async |node| {
            let mut sequence = Sequence::start(node).await;
            for (index, step) in steps.iter().enumerate() {
                eprintln!("sequence {number}, step {index}: {step:?}");
                sequence.step(step).await;
                sequence.compare(step);
            }
            sequence.end().await;
        });
    }
}

/// What an ADD may fail for.
#[derive(Debug, Clone, Copy)]
struct Conditions {
    agent_runs: bool,
    /// IPv4 addresses that are held if it and those beside it get one each.
    most_held: usize,
}

struct Sequence<'a> {
    node: &'a mut Node,
    model: Model,
    containers: Vec<Arc<Namespace>>,
    store: Store,
    records: Records,
    agent_runs: bool,
    add_calls: Vec<SystemCall>,
    del_calls: Vec<SystemCall>,
}

impl<'a> Sequence<'a> {
    async fn start(node: &'a mut Node) -> Self {
        node.configure_agent(&json!({"reconcileSeconds": 1, "bgp": {"enabled": false}}));
        node.put_node(&json!({"podCIDR": BLOCKS[0], "podCIDRs": BLOCKS}));
        let mut sequence = Self {
            model: Model::default(),
            containers: (0..CONTAINERS).map(|_| Arc::new(namespace())).collect(),
            store: Store::new(&node.path("lib/ipam")),
            records: Records::below(&node.path("run")),
            agent_runs: false,
            add_calls: Vec::new(),
            del_calls: Vec::new(),
            node,
        };
        sequence.start_agent().await;
        let first = Attachment { container: 0, interface: 0 };
        let trace = sequence.node.path("trace");
        let [add, del] = ["ADD", "DEL"].map(|verb| sequence.call(verb, first, &json!({})));
        let traced = tokio::task::spawn_blocking(move || (add.trace(&trace), del.trace(&trace)));
        (sequence.add_calls, sequence.del_calls) = traced.await.unwrap();
        sequence
    }

    async fn start_agent(&mut self) {
        if !self.agent_runs {
            self.node.start_agent();
            self.node.ready().await;
            self.agent_runs = true;
        }
    }

    fn kill_agent(&mut self) {
        self.node.kill_agent();
        self.agent_runs = false;
    }

    fn call(&self, verb: &'static str, attachment: Attachment, more: &Value) -> Call {
        Call {
            verb,
            network: attachment.network(),
            container: attachment.container_id(),
            ifname: attachment.ifname(),
            netns: Some(Arc::clone(&self.containers[attachment.container])),
            pod: None,
            more: more.clone(),
            directory: self.node.path(""),
        }
    }

    async fn run(&self, call: Call, fate: Fate) -> Outcome {
        let calls = if call.verb == "ADD" { self.add_calls.clone() } else { self.del_calls.clone() };
        let work = tokio::task::spawn_blocking(move || match fate {
            Fate::Lives => call.run(),
            Fate::Killed(place) => call.run_killed(&calls, place),
        });
        work.await.unwrap()
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Add(attachment, fate) => {
                let conditions = self.conditions(1);
                let outcome = self.run(self.call("ADD", *attachment, &json!({})), *fate).await;
                self.heed_add(*attachment, outcome, conditions);
            }
            Step::Del(attachment, fate, is_named) => {
                let mut call = self.call("DEL", *attachment, &json!({}));
                if !is_named {
                    call.netns = None;
                }
                let outcome = self.run(call, *fate).await;
                self.heed_del(*attachment, &outcome);
            }
            Step::Check(attachment) => self.check(*attachment).await,
            Step::Gc(network, valid, fate) => self.collect(*network, valid, *fate).await,
            Step::Together(which, kills) => self.together(which, *kills).await,
            Step::KillAgent => self.kill_agent(),
            Step::StartAgent => self.start_agent().await,
            Step::Settle => self.settle().await,
        }
    }

    fn conditions(&self, adds: usize) -> Conditions {
        let held = self.look().held;
        let held = held.iter().filter(|(_, address)| address.is_ipv4()).count();
        Conditions { agent_runs: self.agent_runs, most_held: held + adds }
    }

    fn heed_add(&mut self, attachment: Attachment, outcome: Outcome, conditions: Conditions) {
        let before = self.model.of(attachment).clone();
        match (before, outcome) {
            (Known::Present(_), Outcome::Success(result)) => panic!("a second ADD: {result}"),
            (_, Outcome::Success(result)) => self.model.added(attachment, result),
            // It may have been killed before it saw that there is nothing to do, and changes nothing then.
            (Known::Present(_), Outcome::Killed) => {}
            (_, Outcome::Killed) => self.model.set(attachment, Known::Unknown),
            (before, Outcome::Failure(error)) => match error["code"].as_u64() {
                // It is there, or may be.
                Some(4) => assert_ne!(before, Known::Absent, "{error}"),
                Some(11) if !conditions.agent_runs => self.model.set(attachment, Known::Absent),
                Some(100) => {
                    assert!(conditions.most_held > IPV4_ADDRESSES, "an address is lost: {error}");
                    self.model.set(attachment, Known::Absent);
                }
                _ => panic!("ADD of {attachment:?}: {error}"),
            },
        }
    }

    fn heed_del(&mut self, attachment: Attachment, outcome: &Outcome) {
        match outcome {
            Outcome::Success(_) => self.model.set(attachment, Known::Absent),
            Outcome::Failure(error) => panic!("DEL of {attachment:?}: {error}"),
            Outcome::Killed if *self.model.of(attachment) == Known::Absent => {}
            Outcome::Killed => self.model.set(attachment, Known::Unknown),
        }
    }

    async fn check(&self, attachment: Attachment) {
        let known = self.model.of(attachment);
        let previous = if let Known::Present(result) = known { result.clone() } else { json!({"ips": []}) };
        let call = self.call("CHECK", attachment, &json!({"prevResult": previous}));
        match (known, self.run(call, Fate::Lives).await) {
            (Known::Present(_), Outcome::Success(_)) if self.agent_runs => {}
            (Known::Present(_), Outcome::Failure(error)) if !self.agent_runs => {
                assert_eq!(error["code"], 101, "{error}");
            }
            (Known::Absent | Known::Unknown, Outcome::Failure(error)) => {
                assert_eq!(error["code"], 101, "{error}");
            }
            (known, outcome) => panic!("CHECK of {attachment:?}, which is {known:?}: {outcome:?}"),
        }
    }

    async fn collect(&mut self, network: usize, valid: &[bool], fate: Fate) {
        let of_network = || Attachment::all().filter(|attachment| attachment.interface == network);
        let named: Vec<Value> = of_network()
            .filter(|attachment| valid[attachment.container])
            .map(
                |attachment| json!({"containerID": attachment.container_id(), "ifname": attachment.ifname()}),
            )
            .collect();
        let any = Attachment { container: 0, interface: network };
        let call = self.call("GC", any, &json!({"cni.dev/valid-attachments": named}));
        let outcome = self.run(call, fate).await;
        assert!(!matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
        for attachment in of_network().filter(|attachment| !valid[attachment.container]) {
            self.heed_del(attachment, &outcome);
        }
    }

    async fn together(&mut self, which: &[bool], kills_agent: bool) {
        let chosen = (0..CONTAINERS).filter(|container| which[*container]);
        let verbs: Vec<_> = chosen
            .map(|container| {
                let attachment = Attachment { container, interface: 0 };
                (attachment, if *self.model.of(attachment) == Known::Absent { "ADD" } else { "DEL" })
            })
            .collect();
        let mut conditions = self.conditions(verbs.iter().filter(|(_, verb)| *verb == "ADD").count());
        conditions.agent_runs &= !kills_agent;
        let mut running = Vec::new();
        for (attachment, verb) in verbs {
            let call = self.call(verb, attachment, &json!({}));
            running.push((attachment, verb, tokio::task::spawn_blocking(move || call.run())));
        }
        if kills_agent {
            self.kill_agent();
        }
        for (attachment, verb, call) in running {
            let outcome = call.await.unwrap();
            if verb == "ADD" {
                self.heed_add(attachment, outcome, conditions);
            } else {
                self.heed_del(attachment, &outcome);
            }
        }
    }

    fn look(&self) -> Found {
        Found::look(&self.records, &self.store, &self.containers)
    }

    fn compare(&self, step: &Step) {
        self.model.compare(&self.look()).unwrap_or_else(|problem| panic!("after {step:?}: {problem}"));
    }

    /// What was cut off is taken back by the agent, or recorded.
    async fn settle(&mut self) {
        self.start_agent().await;
        let settled = async || self.model.compare_settled(&self.look()).map(|()| self.look());
        let found = self.node.eventually("what was cut off is taken back", settled).await;
        let gone: Vec<Attachment> = self
            .model
            .unknown()
            .filter(|attachment| !found.recorded.iter().any(|(id, _)| *id == attachment.id()))
            .collect();
        for attachment in gone {
            self.model.set(attachment, Known::Absent);
        }
    }

    /// The runtime takes all down, and no address is lost.
    async fn end(mut self) {
        self.settle().await;
        for attachment in Attachment::all() {
            let outcome = self.run(self.call("DEL", attachment, &json!({})), Fate::Lives).await;
            self.heed_del(attachment, &outcome);
        }
        self.settle().await;
        assert_eq!(self.look(), Found::default());
        assert_eq!(self.store.free().unwrap()[0], Some(IPV4_ADDRESSES));
    }
}
