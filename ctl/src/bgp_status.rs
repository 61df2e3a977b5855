//! `margayctl bgp status`: the sessions of all nodes.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use anyhow::Context;
use k8s_openapi::{
    api::core::v1::Node,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;
use margay_api::resource::{BGPNodeStatus, BGPSessions};

use crate::{Answer, cluster, table::Table};

/// An agent writes every five minutes: one that has missed two is not there, or cannot.
const STALE: SignedDuration = SignedDuration::from_mins(11);

/// Asks the API server.
pub(crate) fn run(kubeconfig: Option<&Path>) -> anyhow::Result<Answer> {
    cluster::ask(kubeconfig, "", async |client| {
        let nodes = cluster::all::<Node>(&client).await.context("list nodes")?;
        let statuses = cluster::all::<BGPNodeStatus>(&client).await.context("list bgpnodestatuses")?;
        Ok(answer(&nodes, &statuses, Timestamp::now()))
    })
}

/// One row for each session, and for each node without any; then what is wrong with objects.
fn answer(nodes: &[Node], statuses: &[BGPNodeStatus], now: Timestamp) -> Answer {
    let columns = [
        "node",
        "told",
        "peer",
        "name",
        "as",
        "state",
        "since",
        "received",
        "accepted",
        "advertised",
        "bfd",
        "last_error",
    ];
    let mut sessions = Table::new(&columns);
    let mut problems = Table::new(&["node", "problem"]);
    let mut is_well = true;
    let by_name: BTreeMap<String, &BGPNodeStatus> =
        statuses.iter().map(|status| (status.name_any(), status)).collect();
    let nodes: BTreeMap<String, &Node> = nodes.iter().map(|node| (node.name_any(), node)).collect();
    for name in nodes.keys().filter(|name| !by_name.contains_key(*name)) {
        is_well = false;
        problems.push([name.clone(), "its agent has told nothing of its sessions".into()]);
    }
    for (name, object) in by_name {
        let status = object.status.clone().unwrap_or_default();
        let age = match nodes.get(&name) {
            None => "stale: no such node",
            Some(node) if !cluster::is_true(node, "Ready") => "stale: the node is not ready",
            Some(_) if is_silent(&status, now) => "stale: the agent is silent",
            Some(_) => "now",
        };
        is_well &= age == "now" && status.established == status.configured && status.problems.is_empty();
        for session in status.sessions {
            sessions.push([
                name.clone(),
                age.to_owned(),
                session.peer,
                session.name.unwrap_or_default(),
                session.asn.to_string(),
                session.state,
                session.since.0.to_string(),
                session.received.to_string(),
                session.accepted.to_string(),
                session.advertised.to_string(),
                session.bfd.unwrap_or_default(),
                session.last_error.unwrap_or_default(),
            ]);
        }
        for problem in status.problems {
            problems.push([name.clone(), problem]);
        }
        if age != "now" {
            problems.push([name, age.to_owned()]);
        }
    }
    let answer = Answer::of_sections(vec![("sessions", sessions), ("problems", problems)]);
    Answer { status: if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }, ..answer }
}

/// Whether an agent has not written its status for so long that it is no longer there, or cannot.
pub(crate) fn is_silent(status: &BGPSessions, now: Timestamp) -> bool {
    status.heartbeat_time.as_ref().is_none_or(|time| now.duration_since(time.0) > STALE)
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
    use margay_api::resource::BGPNodeStatus;

    use super::answer;
    use crate::output::Output;

    fn node(name: &str, ready: &str) -> Node {
        let text = format!(
            "{{metadata: {{name: {name}}}, status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    fn status(name: &str, heartbeat: &str, state: &str, problems: &str) -> BGPNodeStatus {
        let established = u8::from(state == "Established");
        let text = format!(
            "{{metadata: {{name: {name}}}, spec: {{node: {name}}}, status: {{asn: 64512, configured: 1, \
             established: {established}, heartbeatTime: '{heartbeat}', problems: [{problems}], sessions: \
             [{{peer: 192.0.2.2, name: node n2, asn: 64512, state: {state}, since: '2026-01-01T00:00:00Z', \
             received: 1, accepted: 1, advertised: 2}}]}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    fn check(nodes: &[Node], statuses: &[BGPNodeStatus], code: ExitCode, words: &[&str]) {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let answer = answer(nodes, statuses, now);
        let text = answer.text(Output::Table);
        assert_eq!(answer.status, code, "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn all_is_well_only_when_every_node_says_so_and_has_said_it_lately() {
        const LATELY: &str = "2026-01-01T00:55:00Z";
        const LONG_AGO: &str = "2026-01-01T00:48:00Z";
        let ready = [node("n1", "True")];
        let well = || status("n1", LATELY, "Established", "");
        check(&ready, &[well()], ExitCode::SUCCESS, &["now   192.0.2.2  node n2", "Established"]);
        check(&ready, &[status("n1", LATELY, "Active", "")], ExitCode::FAILURE, &["Active"]);
        let wrong = "'BGPPeer x: spec.asn: 0'";
        let with_problem = [status("n1", LATELY, "Established", wrong)];
        check(&ready, &with_problem, ExitCode::FAILURE, &["n1    BGPPeer x: spec.asn: 0"]);
        let silent = [status("n1", LONG_AGO, "Established", "")];
        check(&ready, &silent, ExitCode::FAILURE, &["stale: the agent is silent"]);
        check(&[node("n1", "Unknown")], &[well()], ExitCode::FAILURE, &["stale: the node is not ready"]);
        check(&[], &[well()], ExitCode::FAILURE, &["stale: no such node"]);
        check(&ready, &[], ExitCode::FAILURE, &["its agent has told nothing"]);
    }
}
