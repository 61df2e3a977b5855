//! A node is ready when pods can be added, and says what is missing until then.

use std::{collections::BTreeSet, fs, time::Duration};

use margay_api::endpoint::{EndpointId, Records};
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::node::{Node, on_node, program};

/// Those of the Node that are the agent's.
const CONDITIONS: [&str; 3] = ["NetworkUnavailable", "PodNetworkImpaired", "PodShortWayClosed"];

#[test]
fn the_network_configuration_comes_last_and_others_stay() {
    on_node(async |node| {
        fs::create_dir_all(node.path("cni")).unwrap();
        fs::write(node.path("cni/87-other.conflist"), "{}").unwrap();
        node.put_node(&json!({}));
        node.start_agent();
        let missing = node
            .eventually("the agent has listed all", async || match node.get("/readyz").await {
                Err(missing) if missing.contains("podCIDRs") => Ok(missing),
                other => Err(format!("{other:?}")),
            })
            .await;
        assert!(missing.contains("ipam: node n1 has no spec.podCIDRs"), "{missing}");
        node.put_node(&json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}));
        let missing = node
            .eventually("only the speaker is missing", async || match node.get("/readyz").await {
                Err(missing) if !missing.contains("ipam") && missing.contains("connect") => Ok(missing),
                other => Err(format!("{other:?}")),
            })
            .await;
        assert!(missing.contains("is margay-bgp running?"), "{missing}");
        assert!(!node.path("cni/10-margay.conflist").exists());
        node.start_speaker();
        node.ready().await;
        let text = fs::read_to_string(node.path("cni/10-margay.conflist")).unwrap();
        assert!(text.contains("\"type\": \"margay\""), "{text}");
        let mut files: Vec<_> =
            fs::read_dir(node.path("cni")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["10-margay.conflist", "87-other.conflist"]);
        assert_eq!(node.get("/healthz").await.unwrap(), "ok\n");
        assert!(node.get("/metrics").await.unwrap().ends_with("# EOF\n"));
    });
}

#[test]
fn startup_is_over_once_the_kernel_has_what_the_api_lists_and_readiness_names_each_part_that_lacks() {
    on_node(async |node| {
        node.stop_api().await;
        node.put_node(&json!({}));
        node.start_agent();
        let missing = node
            .eventually("the agent lives and has not started up", async || match node.get("/livez").await {
                Ok(said) if said == "ok\n" => match node.get("/startupz").await {
                    Err(missing) if missing.contains("api: not listed yet") => Ok(missing),
                    other => Err(format!("{other:?}")),
                },
                other => Err(format!("{other:?}")),
            })
            .await;
        assert!(missing.contains("dataplane: the policy is not in the kernel"), "{missing}");
        node.start_api().await;
        node.eventually("it has started up", async || node.get("/startupz").await).await;
        let missing = node.get("/readyz").await.unwrap_err();
        let parts: Vec<&str> = missing.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert!(parts.contains(&"ipam") && parts.contains(&"bgp"), "{missing}");
        assert_eq!(parts.len(), missing.lines().count(), "{missing}");
        // What comes later does not undo it.
        node.stop_api().await;
        assert_eq!(node.get("/startupz").await.unwrap(), "ok\n");
    });
}

/// Has the node ready, with an agent that soon sees what changes.
async fn begin(node: &mut Node) {
    node.configure_agent(&json!({"reconcileSeconds": 1}));
    node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
    node.start_speaker();
    node.start_agent();
    node.ready().await;
}

/// What the kubelet finds in the speaker's container, as the manifests have it ask.
async fn speaker_lives(node: &Node) -> bool {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/margay.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(manifest).unwrap()).unwrap();
    let pods = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let containers = pods["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let probe = &containers.iter().find(|one| one["name"] == "margay-bgp").unwrap()["livenessProbe"];
    let words = probe["exec"]["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let words: Vec<&str> = words.collect();
    let mut command = tokio::process::Command::new(program(words[0]));
    command.args(&words[1..]).env("MARGAY_RUN_DIR", node.path("run")).kill_on_drop(true);
    let patience = Duration::from_secs(probe["timeoutSeconds"].as_u64().unwrap());
    tokio::time::timeout(patience, command.output())
        .await
        .is_ok_and(|output| output.unwrap().status.success())
}

#[test]
fn a_speaker_that_hangs_is_what_keeps_the_node_from_being_ready_until_it_goes_on() {
    on_node(async |node| {
        begin(node).await;
        assert!(speaker_lives(node).await);
        node.signal_speaker(Signal::SIGSTOP);
        let said = node
            .eventually("the node is not ready", async || match node.get("/readyz").await {
                Err(said) => Ok(said),
                Ok(said) => Err(said),
            })
            .await;
        assert!(said.starts_with("bgp: ") && said.contains("did not answer within"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(node.get("/livez").await.unwrap(), "ok\n", "the agent is well");
        assert!(!speaker_lives(node).await, "the kubelet begins it again");
        node.signal_speaker(Signal::SIGCONT);
        node.ready().await;
        assert!(speaker_lives(node).await);
    });
}

/// The version of the Node object, once it has all conditions of the agent's.
fn conditioned(node: &Node) -> Option<String> {
    let object = node.api.find("v1", "Node", "", "n1").unwrap();
    let conditions = object["status"]["conditions"].as_array()?;
    let has = |kind: &&str| conditions.iter().any(|condition| condition["type"] == **kind);
    CONDITIONS.iter().all(has).then(|| object["metadata"]["resourceVersion"].to_string())
}

/// How often the Node object has changed, in the first minute of this.
async fn changes<T>(node: &Node, meanwhile: impl Future<Output = T>) -> (T, usize) {
    let mut versions = BTreeSet::new();
    let mut tick = interval(Duration::from_millis(20));
    let until = Instant::now() + Duration::from_mins(1);
    tokio::pin!(meanwhile);
    loop {
        tokio::select! {
            done = &mut meanwhile => return (done, versions.len()),
            now = tick.tick() => if now < until { versions.extend(conditioned(node)) },
        }
    }
}

#[test]
fn a_core_that_hangs_fails_liveness_after_a_minute_and_lives_when_it_goes_on_and_nothing_is_written_twice_meanwhile()
 {
    on_node(async |node| {
        begin(node).await;
        let podcidrs = json!({"podCIDRs": ["10.244.1.0/24"]});
        node.eventually("the node has conditions", async || conditioned(node).ok_or_else(String::new)).await;
        // Somebody takes them away: the agent hears of that, and writes them again once its pause after the last write is over.
        let heard = async || {
            let metrics = node.get("/metrics").await.unwrap();
            let line =
                metrics.lines().find(|line| line.contains("api_events_total{resource=\"nodes\"}")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let before = heard().await;
        node.put_node(&podcidrs);
        node.eventually("the agent has heard of it", async || match heard().await {
            now if now > before => Ok(()),
            now => Err(now.to_string()),
        })
        .await;
        // A record that whoever reads it waits for, as on a disk that does not answer.
        let records = Records::below(&node.path("run"));
        fs::create_dir_all(records.dir()).unwrap();
        let record = records.dir().join(format!("{}.json", EndpointId::of("c1", "eth0")));
        mkfifo(&record, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let missed = node.within(Duration::from_mins(3), "the core is missed", async || {
            match node.get("/livez").await {
                Err(said) => Ok(said),
                Ok(said) => Err(said),
            }
        });
        let (said, changes) = changes(node, missed).await;
        assert!((1..=CONDITIONS.len()).contains(&changes), "the Node was changed {changes} times");
        assert!(said.contains("the core has not been heard of for"), "{said}");
        let write = fs::OpenOptions::new().write(true).open(&record).unwrap();
        fs::remove_file(&record).unwrap();
        drop(write);
        node.eventually("the core goes on", async || node.get("/livez").await).await;
        node.ready().await;
    });
}
