//! A cluster for one test, and what the tests look at.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnetwork::IpNetwork;
use margay_api::resource::IPPoolSpec;
use margay_lab::{IpamMode, Lab, LabConfig, PodKey, PodSpec, Port, clock, program};
use serde_json::Value;

pub(crate) const PORT: Port = Port::tcp(8080);
/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A pool with blocks of a size.
pub(crate) fn pool(name: &str, cidr: &str, block_size: u8) -> (String, IPPoolSpec) {
    (name.into(), IPPoolSpec { block_size: Some(block_size), ..Lab::pool_of(cidr) })
}

pub(crate) fn config(nodes: u8, pools: Vec<(String, IPPoolSpec)>) -> LabConfig {
    let give_back_after = Duration::from_secs(1);
    LabConfig { nodes, ipam: IpamMode::Pool, pools, give_back_after, ..LabConfig::default() }
}

pub(crate) async fn start(config: LabConfig) -> Lab {
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    lab
}

pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

/// Makes a pod with annotations and does not wait for it.
pub(crate) async fn create(lab: &Lab, name: &str, node: &str, annotations: &[(&str, &str)]) -> PodKey {
    let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let spec = PodSpec { annotations: annotations.collect(), ..PodSpec::new(&[], &[PORT]).on(node) };
    lab.create_pods(&[(key(name), spec)]).await.unwrap();
    key(name)
}

/// Makes a pod with annotations and says its address.
pub(crate) async fn run(lab: &Lab, name: &str, node: &str, annotations: &[(&str, &str)]) -> IpAddr {
    let key = create(lab, name, node, annotations).await;
    lab.wait_pods(std::slice::from_ref(&key), PATIENCE).await.unwrap();
    lab.pod_addresses(&key)[0]
}

/// Waits until the runtime has told of a failed ADD of a pod, in words that have these.
pub(crate) async fn until_refused(lab: &Lab, name: &str, words: &[&str]) {
    let said = || async {
        let events = lab.kubectl(&["get", "events", "-o", "json"], "").await.ok()?;
        let events: Value = serde_json::from_str(&events).ok()?;
        let of_pod = events["items"].as_array()?.iter().filter(|it| it["involvedObject"]["name"] == name);
        let messages: Vec<String> =
            of_pod.filter_map(|it| it["message"].as_str().map(ToOwned::to_owned)).collect();
        messages.into_iter().find(|message| words.iter().all(|word| message.contains(word)))
    };
    if let Err(error) = clock::until(PATIENCE, &format!("{name} refused: {words:?}"), said).await {
        let events = lab.kubectl(&["get", "events"], "").await.unwrap();
        panic!("{error:#}\n{events}{}", lab.log_tail(20));
    }
}

/// Waits until the claimed blocks are as wanted.
pub(crate) async fn until_blocks(
    lab: &Lab,
    what: &str,
    wanted: impl Fn(&BTreeMap<IpNetwork, String>) -> bool,
) {
    let look = || async { wanted(&lab.blocks().await.ok()?).then_some(()) };
    if let Err(error) = clock::until(PATIENCE, what, look).await {
        panic!("{error:#}; there are {:?}{}", lab.blocks().await, lab.log_tail(20));
    }
}

/// Waits until a pool's condition `Ready` has this reason, and so many blocks are claimed if that matters.
pub(crate) async fn until_status(lab: &Lab, pool: &str, reason: &str, claimed: Option<u64>) -> Value {
    let look = || async {
        let pool = lab.kubectl(&["get", "ippool", pool, "-o", "json"], "").await.ok()?;
        let pool: Value = serde_json::from_str(&pool).ok()?;
        let ready = pool["status"]["conditions"].as_array()?.iter().find(|it| it["type"] == "Ready")?;
        let counted = claimed.is_none_or(|claimed| pool["status"]["claimedBlocks"] == claimed);
        (ready["reason"] == reason && counted).then(|| pool["status"].clone())
    };
    match clock::until(PATIENCE, &format!("{pool} is {reason}"), look).await {
        Ok(status) => status,
        Err(error) => {
            let pools = lab.kubectl(&["get", "ippools", "-o", "yaml"], "").await.unwrap();
            panic!("{error:#}\n{pools}{}", lab.log_tail(20));
        }
    }
}

pub(crate) async fn until_reason(lab: &Lab, pool: &str, reason: &str) {
    until_status(lab, pool, reason, None).await;
}

pub(crate) async fn apply(lab: &Lab, yaml: &str) {
    lab.kubectl(&["apply", "-f", "-"], yaml).await.unwrap();
}

pub(crate) fn pool_yaml(name: &str, spec: &str) -> String {
    format!("apiVersion: margay.dev/v1alpha1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// What `margayctl` prints on a node, whatever its exit status.
pub(crate) async fn margayctl(lab: &Lab, node: usize, args: &str) -> String {
    let program = program("margayctl").unwrap();
    let command = format!("{} {args} || true", program.display());
    lab.node(node).output("sh", &["-c", &command]).await.unwrap()
}
