//! What the objects of a cluster say of its network: a pure function of them and the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, PodStatus},
    jiff::Timestamp,
};
use kube::ResourceExt;
use margay_api::{
    annotation::{self, NODE_IPS},
    resource::{BGPNodeStatus, BGPSessions, IPBlock, IPPool},
};

use crate::{
    bgp_status,
    cluster::{condition, is_true},
    table::Table,
};

/// All that is looked at.
#[derive(Default)]
pub(super) struct Objects {
    /// Of the agents.
    pub(super) namespace: String,
    pub(super) nodes: Vec<Node>,
    pub(super) agents: Vec<Pod>,
    pub(super) sessions: Vec<BGPNodeStatus>,
    pub(super) pools: Vec<IPPool>,
    pub(super) blocks: Vec<IPBlock>,
}

/// What is wrong, and what to do about it.
struct Problems(Table);

impl Problems {
    fn push(&mut self, of: &str, problem: impl Into<String>, advice: impl Into<String>) {
        self.0.push([of.to_owned(), problem.into(), advice.into()]);
    }
}

/// Tables with their names, and whether there is no problem.
pub(super) fn report(objects: &Objects, now: Timestamp) -> (Vec<(&'static str, Table)>, bool) {
    let mut problems = Problems(Table::new(&["of", "problem", "what_to_do"]));
    let nodes = nodes(objects, now, &mut problems);
    let pools = pools(objects, &mut problems);
    check_blocks(objects, &mut problems);
    let is_well = problems.0.is_empty();
    let mut sections = vec![("cluster", summary(objects)), ("nodes", nodes)];
    if !objects.pools.is_empty() {
        sections.push(("pools", pools));
    }
    sections.push(("problems", problems.0));
    (sections, is_well)
}

fn summary(objects: &Objects) -> Table {
    let mut table = Table::new(&["part", "state"]);
    let of = |count: usize, all: usize, what: &str| format!("{count} of {all} {what}");
    let ready = objects.nodes.iter().filter(|node| is_true(node, "Ready")).count();
    table.push(["nodes".into(), of(ready, objects.nodes.len(), "ready")]);
    let running = objects.agents.iter().filter(|pod| is_agent_ready(pod)).count();
    let images: BTreeSet<&str> = objects.agents.iter().filter_map(agent_image).collect();
    let images: Vec<&str> = images.into_iter().collect();
    let agents = of(running, objects.nodes.len(), "ready");
    table.push([
        "agents".into(),
        if images.is_empty() { agents } else { format!("{agents}, {}", images.join(", ")) },
    ]);
    let total = |count: fn(&BGPSessions) -> u32| -> u32 {
        objects.sessions.iter().filter_map(|status| status.status.as_ref()).map(count).sum()
    };
    if !objects.sessions.is_empty() {
        let (up, all) = (total(|status| status.established), total(|status| status.configured));
        table.push(["sessions".into(), format!("{up} of {all} Established")]);
    }
    if !objects.pools.is_empty() {
        let ready = objects.pools.iter().filter(|pool| pool_message(pool).is_none()).count();
        table.push(["pools".into(), of(ready, objects.pools.len(), "ready")]);
    }
    table
}

fn nodes(objects: &Objects, now: Timestamp, problems: &mut Problems) -> Table {
    let agents: BTreeMap<&str, &Pod> = objects
        .agents
        .iter()
        .filter_map(|pod| Some((pod.spec.as_ref()?.node_name.as_deref()?, pod)))
        .collect();
    let sessions: BTreeMap<String, &BGPNodeStatus> =
        objects.sessions.iter().map(|status| (status.name_any(), status)).collect();
    let mut table = Table::with_wide(
        &["node", "ready", "agent", "sessions", "networks"],
        &["addresses", "image", "restarts", "kernel"],
    );
    let sorted: BTreeMap<String, &Node> = objects.nodes.iter().map(|node| (node.name_any(), node)).collect();
    for (name, node) in sorted {
        let agent = agents.get(name.as_str()).copied();
        check_node(&name, node, objects, problems);
        let agent_state = check_agent(&name, agent, objects, problems);
        let session_state = match sessions.get(&name) {
            Some(status) => check_sessions(&name, node, status, now, problems),
            None if sessions.is_empty() => "-".to_owned(),
            None => {
                problems.push(
                    &format!("node {name}"),
                    "its agent has told nothing of its BGP sessions",
                    format!(
                        "see the log of its agent: kubectl -n {} logs {}",
                        objects.namespace,
                        pod_or(agent)
                    ),
                );
                "?".to_owned()
            }
        };
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        table.push([
            name.clone(),
            if is_true(node, "Ready") { "yes" } else { "no" }.to_owned(),
            agent_state,
            session_state,
            networks(&name, node, objects).join(","),
            addresses(node).join(","),
            agent.and_then(agent_image).unwrap_or_default().to_owned(),
            agent.map_or(0, restarts).to_string(),
            info.map_or_else(String::new, |info| info.kernel_version.clone()),
        ]);
    }
    table
}

fn check_node(name: &str, node: &Node, objects: &Objects, problems: &mut Problems) {
    let of = format!("node {name}");
    if let Some(condition) = condition(node, "Ready").filter(|condition| condition.status != "True") {
        problems.push(
            &of,
            format!("not Ready: {}", message(condition)),
            if message(condition).contains("cni") {
                "its agent has not made it ready for pods: see the agent's row, and /readyz there".to_owned()
            } else {
                format!("kubectl describe node {name}")
            },
        );
    }
    if let Some(condition) = condition(node, "NetworkUnavailable").filter(|it| it.status == "True") {
        problems.push(
            &of,
            format!("its network is marked as unavailable: {}", message(condition)),
            "the agent takes the mark away when it is ready: see the agent's row",
        );
    }
    if let Some(condition) = condition(node, "PodNetworkImpaired").filter(|it| it.status == "True") {
        problems.push(
            &of,
            format!("what pods send does not all come through: {}", message(condition)),
            "docs/operating.md, Tests of the ways between nodes; `margayctl node status` there",
        );
    }
    if let Some(condition) = condition(node, "PodShortWayClosed").filter(|it| it.status == "True") {
        problems.push(
            &of,
            format!("what pods send does not go round the stack: {}", message(condition)),
            "policy is in force all the same, and packets cost more: docs/ebpf.md, Sizes",
        );
    }
    if networks(name, node, objects).is_empty() {
        problems.push(
            &of,
            "it has no network for pods: no podCIDRs, and no IPBlock",
            "kube-controller-manager --allocate-node-cidrs --cluster-cidr=..., or an IPPool that chooses the node \
             (docs/ipam.md)",
        );
    }
}

/// A node's agent: what to show, and what is wrong.
fn check_agent(name: &str, agent: Option<&Pod>, objects: &Objects, problems: &mut Problems) -> String {
    let of = format!("node {name}");
    let namespace = &objects.namespace;
    let Some(pod) = agent else {
        problems.push(
            &of,
            format!("no agent is there: namespace {namespace} has no pod of Margay on it"),
            format!(
                "kubectl -n {namespace} describe daemonset margay; or name its namespace with --namespace"
            ),
        );
        return "missing".to_owned();
    };
    match ready_containers(pod) {
        Readiness::All => "ready".to_owned(),
        Readiness::Waiting { container, reason, message } => {
            let advice = match reason.as_str() {
                "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                    "name an image in the DaemonSet that the node can have (README, On a cluster)".to_owned()
                }
                // It has not run yet.
                "ContainerCreating" | "CreateContainerConfigError" | "CreateContainerError" => {
                    format!("kubectl -n {namespace} describe pod {}", pod.name_any())
                }
                _ => format!("kubectl -n {namespace} logs {} -c {container} --previous", pod.name_any()),
            };
            problems.push(
                &of,
                format!("container {container} of its agent waits: {reason} {message}"),
                advice,
            );
            reason
        }
        Readiness::Not { container } => {
            problems.push(
                &of,
                format!("container {container} of its agent is not ready"),
                format!(
                    "kubectl -n {namespace} exec {} -c margay-node -- margayctl node status says why",
                    pod.name_any()
                ),
            );
            "not ready".to_owned()
        }
    }
}

fn check_sessions(
    name: &str,
    node: &Node,
    object: &BGPNodeStatus,
    now: Timestamp,
    problems: &mut Problems,
) -> String {
    let of = format!("node {name}");
    let status = object.status.clone().unwrap_or_default();
    if is_true(node, "Ready") && bgp_status::is_silent(&status, now) {
        problems.push(
            &of,
            "its agent has told nothing of its BGP sessions lately",
            "is it running, and may it write bgpnodestatuses/status?",
        );
    }
    for session in status.sessions.iter().filter(|session| session.state != "Established") {
        let who = session.name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
        let why = session.last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
        problems.push(
            &of,
            format!("BGP session with {}{who} is {} since {}{why}", session.peer, session.state, session.since.0),
            "do both ends name each other with the right AS and password, and is TCP port 179 open between them? \
             margayctl bgp neighbors on the node",
        );
    }
    for problem in status.problems {
        problems.push(&of, problem, "correct the field that is named: kubectl edit");
    }
    format!("{}/{}", status.established, status.configured)
}

fn pools(objects: &Objects, problems: &mut Problems) -> Table {
    let mut table = Table::with_wide(
        &["pool", "cidr", "blocks", "encapsulation", "nat", "state"],
        &["assignment", "message"],
    );
    let sorted: BTreeMap<String, &IPPool> =
        objects.pools.iter().map(|pool| (pool.name_any(), pool)).collect();
    for (name, pool) in sorted {
        let status = pool.status.clone().unwrap_or_default();
        let of = format!("pool {name}");
        let message = pool_message(pool);
        if let Some(message) = &message {
            problems.push(&of, message.clone(), "docs/ipam.md, \"Mode `pool`\"");
        } else if status.total_blocks > 0
            && status.claimed_blocks.saturating_mul(10) >= status.total_blocks.saturating_mul(9)
        {
            problems.push(
                &of,
                format!("{} of its {} blocks are claimed", status.claimed_blocks, status.total_blocks),
                "add a pool: nodes that need another block will find none",
            );
        }
        table.push([
            name,
            pool.spec.cidr.clone(),
            format!("{}/{}", status.claimed_blocks, status.total_blocks),
            word(&pool.spec.encapsulation),
            if pool.spec.nat_outgoing { "outgoing" } else { "-" }.to_owned(),
            match &message {
                _ if pool.spec.disabled => "disabled",
                Some(_) => "not ready",
                None => "ready",
            }
            .to_owned(),
            word(&pool.spec.assignment_mode),
            message.unwrap_or_default(),
        ]);
    }
    table
}

fn check_blocks(objects: &Objects, problems: &mut Problems) {
    for block in &objects.blocks {
        let conditions = block.status.iter().flat_map(|status| &status.conditions);
        for conflict in conditions.filter(|it| it.type_ == "Conflict" && it.status == "True") {
            problems.push(
                &format!("block {}", block.spec.cidr),
                conflict.message.clone(),
                "delete the pods with its addresses on the other node: kubectl drain",
            );
        }
    }
}

/// Why a pool is not ready, unless it is meant not to be.
fn pool_message(pool: &IPPool) -> Option<String> {
    if pool.spec.disabled {
        return None;
    }
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match conditions.iter().find(|condition| condition.type_ == "Ready") {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!("{}: {}", condition.reason, condition.message)),
        None => Some("no agent has looked at it: is `ipam.mode` of the agents `pool`?".to_owned()),
    }
}

/// A value as its field in a manifest is written.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

/// How the containers of an agent's pod are.
#[derive(Debug, PartialEq, Eq)]
enum Readiness {
    All,
    Waiting { container: String, reason: String, message: String },
    Not { container: String },
}

fn ready_containers(pod: &Pod) -> Readiness {
    let status = pod.status.clone().unwrap_or_default();
    let PodStatus { container_statuses, init_container_statuses, .. } = status;
    let all = init_container_statuses.into_iter().flatten().chain(container_statuses.into_iter().flatten());
    let mut outcome = None;
    let mut seen = 0;
    for container in all {
        seen += 1;
        if container.ready {
            continue;
        }
        let waiting = container.state.and_then(|state| state.waiting);
        // That a container waits for the ones before it says nothing of it.
        if let Some(waiting) = waiting.filter(|waiting| waiting.reason.as_deref() != Some("PodInitializing"))
        {
            return Readiness::Waiting {
                container: container.name,
                reason: waiting.reason.unwrap_or_default(),
                message: waiting.message.unwrap_or_default(),
            };
        }
        outcome.get_or_insert(Readiness::Not { container: container.name });
    }
    match outcome {
        Some(outcome) => outcome,
        None if seen == 0 => Readiness::Not { container: "margay-node".to_owned() },
        None => Readiness::All,
    }
}

/// Whether all containers of an agent's pod are.
pub(crate) fn is_agent_ready(pod: &Pod) -> bool {
    ready_containers(pod) == Readiness::All
}

/// What an agent's pod runs.
pub(crate) fn agent_image(pod: &Pod) -> Option<&str> {
    let containers = &pod.spec.as_ref()?.containers;
    containers.iter().find(|container| container.name == "margay-node")?.image.as_deref()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|container| container.restart_count).sum()
}

fn pod_or(agent: Option<&Pod>) -> String {
    agent.map_or_else(|| "POD".to_owned(), ResourceExt::name_any)
}

fn networks(name: &str, node: &Node, objects: &Objects) -> Vec<String> {
    let blocks = objects.blocks.iter().filter(|block| block.spec.node == name);
    let mut networks: Vec<String> = blocks.map(|block| block.spec.cidr.clone()).collect();
    if networks.is_empty() {
        let spec = node.spec.as_ref();
        networks = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    }
    networks.sort();
    networks
}

/// Where other nodes reach it.
fn addresses(node: &Node) -> Vec<String> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let internal: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
    // What agents cannot read they pass over.
    let chosen = node.annotations().get(NODE_IPS).and_then(|text| annotation::node_ips(text).ok());
    let all = annotation::reached_at(&chosen.unwrap_or_default(), &internal);
    all.iter().map(ToString::to_string).collect()
}

fn message(condition: &NodeCondition) -> String {
    let reason = condition.reason.as_deref().unwrap_or("no reason given");
    match condition.message.as_deref() {
        Some(message) if !message.is_empty() => format!("{reason}, {message}"),
        _ => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::{Objects, report};
    use crate::{Answer, output::Output};

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn node(name: &str, conditions: &Value) -> Value {
        json!({
            "metadata": {"name": name}, "spec": {"podCIDRs": ["10.244.1.0/24"]},
            "status": {"conditions": conditions, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        })
    }

    fn ready() -> Value {
        json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}])
    }

    fn agent(node: &str, containers: &Value) -> Value {
        json!({
            "metadata": {"name": format!("margay-{node}")},
            "spec": {"nodeName": node, "containers": [{"name": "margay-node", "image": "margay:dev"}]},
            "status": {"containerStatuses": containers},
        })
    }

    fn running() -> Value {
        json!([{"name": "margay-node", "ready": true, "image": "i", "imageID": "", "restartCount": 2}])
    }

    fn sessions(node: &str, state: &str) -> Value {
        json!({
            "metadata": {"name": node}, "spec": {"node": node},
            "status": {
                "configured": 1, "established": u8::from(state == "Established"),
                "heartbeatTime": "2026-01-01T00:55:00Z", "problems": [],
                "sessions": [{
                    "peer": "192.0.2.2", "name": "node n2", "asn": 64512, "state": state,
                    "since": "2026-01-01T00:00:00Z", "received": 1, "accepted": 1, "advertised": 2,
                    "lastError": "hold timer expired",
                }],
            },
        })
    }

    fn pool(status: &Value, disabled: bool) -> Value {
        json!({
            "metadata": {"name": "blue"}, "spec": {"cidr": "10.0.0.0/16", "disabled": disabled},
            "status": status,
        })
    }

    fn is_ready(ready: &str, claimed: u32) -> Value {
        json!({"claimedBlocks": claimed, "totalBlocks": 10, "conditions": [{
            "type": "Ready", "status": ready, "reason": "Overlaps", "message": "with pool red",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]})
    }

    /// A cluster of one node in which all is well.
    fn well() -> Objects {
        Objects {
            namespace: "kube-system".into(),
            nodes: vec![object(node("n1", &ready()))],
            agents: vec![object(agent("n1", &running()))],
            sessions: vec![object(sessions("n1", "Established"))],
            pools: vec![object(pool(&is_ready("True", 1), false))],
            blocks: Vec::new(),
        }
    }

    fn text(objects: &Objects) -> (String, bool) {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let (sections, is_well) = report(objects, now);
        (Answer::of_sections(sections).text(Output::Wide), is_well)
    }

    #[test]
    fn a_cluster_that_is_well_is_shown_in_short_and_node_by_node() {
        let (text, is_well) = text(&well());
        assert!(is_well, "{text}");
        for line in [
            "nodes     1 of 1 ready",
            "agents    1 of 1 ready, margay:dev",
            "sessions  1 of 1 Established",
            "pools     1 of 1 ready",
            "n1    yes    ready  1/1       10.244.1.0/24  192.0.2.1  margay:dev  2",
            "blue  10.0.0.0/16  1/10    None           -    ready  Automatic",
            "OF  PROBLEM  WHAT_TO_DO\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    /// What a change of a cluster that is well must have said, in order: of what, the problem, and what to do.
    fn check(change: impl FnOnce(&mut Objects), words: &[&str]) {
        let mut objects = well();
        change(&mut objects);
        let (text, is_well) = text(&objects);
        assert!(!is_well, "{text}");
        let problems = &text[text.find("PROBLEMS").unwrap()..];
        let mut rest = problems;
        for word in words {
            let at =
                rest.find(word).unwrap_or_else(|| panic!("`{word}` is not there in its place: {problems}"));
            rest = &rest[at + word.len()..];
        }
    }

    #[test]
    fn each_problem_is_named_with_what_to_do() {
        let not_ready = json!([{
            "type": "Ready", "status": "False", "reason": "KubeletNotReady",
            "message": "cni plugin not initialized",
        }]);
        check(
            |it| it.nodes = vec![object(node("n1", &not_ready))],
            &[
                "node n1",
                "not Ready: KubeletNotReady, cni plugin not initialized",
                "its agent has not made it ready",
            ],
        );
        let unavailable = json!([
            {"type": "Ready", "status": "True"},
            {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
        ]);
        check(
            |it| it.nodes = vec![object(node("n1", &unavailable))],
            &["node n1", "its network is marked as unavailable: NoRouteCreated"],
        );
        let closed = json!([
            {"type": "Ready", "status": "True"},
            {"type": "PodShortWayClosed", "status": "True", "reason": "MapsLackEntries"},
        ]);
        check(
            |it| it.nodes = vec![object(node("n1", &closed))],
            &["node n1", "does not go round the stack: MapsLackEntries", "docs/ebpf.md, Sizes"],
        );
        check(|it| it.agents.clear(), &["node n1", "no agent is there", "describe daemonset margay"]);
        let crashing = json!([{
            "name": "margay-bgp", "ready": false, "image": "i", "imageID": "", "restartCount": 7,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }]);
        check(
            |it| it.agents = vec![object(agent("n1", &crashing))],
            &[
                "container margay-bgp of its agent waits: CrashLoopBackOff",
                "logs margay-n1 -c margay-bgp --previous",
            ],
        );
        let no_image = json!([{
            "name": "margay-node", "ready": false, "image": "i", "imageID": "", "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}},
        }]);
        check(|it| it.agents = vec![object(agent("n1", &no_image))], &["ImagePullBackOff", "name an image"]);
        let unready =
            json!([{"name": "margay-node", "ready": false, "image": "i", "imageID": "", "restartCount": 0}]);
        check(
            |it| it.agents = vec![object(agent("n1", &unready))],
            &["container margay-node of its agent is not ready", "margayctl node status says why"],
        );
        check(
            |it| it.sessions = vec![object(sessions("n1", "Active"))],
            &["192.0.2.2 (node n2) is Active since 2026-01-01T00:00:00Z: hold timer expired", "TCP port 179"],
        );
        check(
            |it| it.sessions = vec![object(sessions("n9", "Established"))],
            &["node n1", "its agent has told nothing of its BGP sessions"],
        );
        check(
            |it| it.pools = vec![object(pool(&is_ready("False", 1), false))],
            &["pool blue", "Overlaps: with pool red"],
        );
        check(|it| it.pools = vec![object(pool(&json!({}), false))], &["pool blue", "`ipam.mode`"]);
        check(
            |it| it.pools = vec![object(pool(&is_ready("True", 9), false))],
            &["pool blue", "9 of its 10 blocks are claimed", "add a pool"],
        );
    }

    #[test]
    fn an_agent_that_is_silent_and_a_node_without_a_network_are_problems() {
        let mut silent = sessions("n1", "Established");
        silent["status"]["heartbeatTime"] = json!("2026-01-01T00:40:00Z");
        check(|it| it.sessions = vec![object(silent)], &["node n1", "its agent has told nothing", "lately"]);
        let mut bare = node("n1", &ready());
        bare["spec"] = json!({});
        check(|it| it.nodes = vec![object(bare)], &["node n1", "it has no network for pods"]);
        let conflict = json!({
            "metadata": {"name": "10-0-0-0-26"}, "spec": {"cidr": "10.0.0.0/26", "pool": "blue", "node": "n1"},
            "status": {"conditions": [{
                "type": "Conflict", "status": "True", "reason": "InUse", "message": "node n2 has pods in it",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        });
        check(|it| it.blocks = vec![object(conflict)], &["block 10.0.0.0/26", "node n2 has pods in it"]);
    }

    #[test]
    fn what_is_switched_off_is_no_problem() {
        let mut objects = well();
        objects.pools = vec![object(pool(&json!({}), true))];
        objects.sessions.clear();
        let (text, is_well) = text(&objects);
        assert!(is_well, "{text}");
        assert!(text.contains("disabled") && text.contains("ready  -  "), "{text}");
    }
}
