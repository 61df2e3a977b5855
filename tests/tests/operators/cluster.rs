//! A cluster for one test, and what the tests look at.

use std::{collections::BTreeMap, time::Duration};

use margay_lab::{Lab, LabConfig, PodKey, PodSpec, Port, clock};
use serde_json::Value;

pub(crate) const PORT: Port = Port::tcp(8080);
/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) async fn start(config: LabConfig) -> Lab {
    let lab = Lab::start(config).await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    lab
}

pub(crate) async fn apply(lab: &Lab, yaml: &str) {
    lab.kubectl(&["apply", "-f", "-"], yaml).await.unwrap();
}

pub(crate) async fn kubectl(lab: &Lab, arguments: &str) -> String {
    lab.kubectl(&arguments.split(' ').collect::<Vec<_>>(), "").await.unwrap()
}

/// Makes a pod on a node, with annotations, and does not wait for it.
pub(crate) async fn create(lab: &Lab, name: &str, node: &str, annotations: &[(&str, &str)]) -> PodKey {
    let key = PodKey::new("default", name);
    let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let annotations: BTreeMap<String, String> = annotations.collect();
    let spec = PodSpec { annotations, ..PodSpec::new(&[], &[PORT]).on(node) };
    lab.create_pods(&[(key.clone(), spec)]).await.unwrap();
    key
}

/// Runs a pod on a node.
pub(crate) async fn run(lab: &Lab, name: &str, node: &str) {
    let key = create(lab, name, node, &[]).await;
    lab.wait_pods(&[key], PATIENCE).await.unwrap();
}

/// Waits until there is something; the logs otherwise.
pub(crate) async fn until<T>(lab: &Lab, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    match clock::until(PATIENCE, what, || look()).await {
        Ok(found) => found,
        Err(error) => {
            let events = lab.kubectl(&["get", "events", "-A"], "").await.unwrap_or_default();
            panic!("{error:#}\n{events}{}", lab.log_tail(25));
        }
    }
}

/// An object as the API server has it, if it is there.
pub(crate) async fn object(lab: &Lab, arguments: &str) -> Option<Value> {
    let arguments: Vec<&str> = ["get", "-o", "json"].into_iter().chain(arguments.split(' ')).collect();
    let text = lab.kubectl(&arguments, "").await.ok()?;
    serde_json::from_str(&text).ok()
}
