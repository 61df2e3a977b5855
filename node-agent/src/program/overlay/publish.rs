//! Has the node's object say which kinds of tunnels the node has and which it sends through.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use margay_api::annotation::{TUNNELS_RECEIVED, TUNNELS_SENT};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::warn;

use crate::{facts::Facts, node_status, tunnels::Tunnels};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after one the next that says the same is made: the watch tells of the first meanwhile.
const PAUSE: Duration = Duration::from_secs(5);

/// Writes what is to be said, until nobody says anything.
pub(crate) async fn run(
    client: Client,
    node_name: String,
    mut facts: watch::Receiver<Facts>,
    mut said: watch::Receiver<Option<Tunnels>>,
) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client);
    let mut last: Option<([String; 2], Instant)> = None;
    let mut due: Option<Instant> = None;
    let mut is_failing = false;
    loop {
        tokio::select! {
            changed = facts.changed() => if changed.is_err() { return Ok(()) },
            changed = said.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        due = None;
        let Some(wanted) = said.borrow_and_update().as_ref().map(Tunnels::written) else { continue };
        let Some(node) = facts.borrow_and_update().node.clone() else { continue };
        // Who never had any need not say so: thousands of nodes would, and all would hear each.
        let says_nothing = node.tunnels == [None, None] && wanted.iter().all(String::is_empty);
        if says_nothing || node.tunnels == wanted.clone().map(Some) {
            is_failing = false;
            continue;
        }
        if let Some((_, at)) = last.as_ref().filter(|(text, at)| *text == wanted && at.elapsed() < PAUSE) {
            due = Some(*at + PAUSE);
            continue;
        }
        let [received, sent] = &wanted;
        let annotations = json!({TUNNELS_RECEIVED: received, TUNNELS_SENT: sent});
        let written = node_status::annotate(&api, &node_name, &node, annotations, PATIENCE).await;
        let now = Instant::now();
        due = Some(now + PAUSE);
        last = Some((wanted, now));
        if let Err(error) = written
            && !std::mem::replace(&mut is_failing, true)
        {
            warn!(
                %error,
                "the annotations {TUNNELS_RECEIVED} and {TUNNELS_SENT} of the node cannot be written, by which other nodes know \
                 the tunnels of this one; trying again"
            );
        }
    }
}
