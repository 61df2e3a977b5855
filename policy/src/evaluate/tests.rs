//! The specifications' sentences, each with a flow.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{Flow, Side, evaluate, evaluate_audited};
use crate::{
    NamedPort, Node, Objects, Pod, PodName, PolicyId, PolicyRef, Protocol, convert, convert_cluster,
    v1alpha2::ClusterNetworkPolicy,
};

fn pod(name: &str, address: &str) -> Pod {
    let (namespace, short) = name.split_once('/').unwrap();
    Pod {
        name: PodName::new(namespace, short),
        labels: Arc::new([("pod".to_owned(), short.to_owned())].into()),
        addresses: vec![address.parse().unwrap()],
        ports: vec![NamedPort { name: "web".into(), protocol: Protocol::Tcp, number: 8080 }],
        host_network: false,
        finished: false,
        terminating: false,
        created: 0,
        announced: vec![],
    }
}

fn objects(policies: &str) -> Objects {
    let mut objects = Objects::default();
    for pod in [pod("x/a", "10.0.0.1"), pod("x/b", "10.0.0.2"), pod("y/c", "10.0.0.3")] {
        objects.pods.insert(pod.name.clone(), Arc::new(pod));
    }
    for policy in serde_saphyr::from_multiple::<NetworkPolicy>(policies).unwrap() {
        let (policy, problems) = convert(&policy);
        assert!(problems.is_empty(), "{problems:?}");
        let policy = policy.unwrap();
        objects.policies.insert(policy.name.clone(), policy);
    }
    objects
}

fn flow(source: &str, destination: &str, port: u16) -> Flow {
    Flow {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: Protocol::Tcp,
        port,
    }
}

#[test]
fn a_denial_names_the_policies_that_isolate_and_an_allowance_the_rule() {
    let objects = objects(
        "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}\n---\n\
         {metadata: {namespace: x, name: web}, spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}, {ports: [{port: web}]}]}}",
    );
    let name = |name: &str| PolicyRef { namespace: "x".into(), name: name.into() };
    let open = evaluate(&objects, &flow("10.0.0.3", "10.0.0.1", 8080));
    assert_eq!(open.ingress, Side::Allowed { policy: PolicyId::Network(name("web")), rule: 1 });
    assert_eq!(open.egress, Side::NotIsolated);
    let closed = evaluate(&objects, &flow("10.0.0.3", "10.0.0.1", 80));
    assert_eq!(closed.ingress, Side::Isolated { by: vec![name("deny"), name("web")] });
    assert!(!closed.allowed() && open.allowed());
}

#[test]
fn host_network_and_finished_pods_are_nobody() {
    let mut objects = objects("{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}");
    let to_a = flow("10.0.0.3", "10.0.0.1", 80);
    assert!(!evaluate(&objects, &to_a).allowed());
    Arc::make_mut(objects.pods.get_mut(&PodName::new("x", "a")).unwrap()).finished = true;
    assert!(evaluate(&objects, &to_a).allowed());
    let a = Arc::make_mut(objects.pods.get_mut(&PodName::new("x", "a")).unwrap());
    (a.finished, a.host_network) = (false, true);
    assert!(evaluate(&objects, &to_a).allowed());
}

#[test]
fn a_reused_address_is_the_younger_pods_and_never_a_terminating_ones() {
    let mut objects = objects("{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}");
    let to_a = flow("10.0.0.3", "10.0.0.1", 80);
    let mut young = pod("y/new", "10.0.0.1");
    young.created = 1;
    objects.pods.insert(young.name.clone(), Arc::new(young.clone()));
    assert!(evaluate(&objects, &to_a).allowed());
    young.terminating = true;
    objects.pods.insert(young.name.clone(), Arc::new(young));
    assert!(!evaluate(&objects, &to_a).allowed());
}

#[test]
fn an_announced_address_is_a_pods_own_unless_another_pod_has_it_or_is_said_to() {
    let mut objects = objects("");
    let mut said = pod("y/said", "10.0.0.9");
    said.announced = std::mem::take(&mut said.addresses);
    said.created = 9;
    let address = said.announced[0];
    objects.pods.insert(said.name.clone(), Arc::new(said.clone()));
    assert_eq!(objects.owners().get(&address).map(|pod| &pod.name), Some(&said.name));
    let mut rival = said.clone();
    rival.name.name = "rival".into();
    objects.pods.insert(rival.name.clone(), Arc::new(rival.clone()));
    assert_eq!(objects.owners().get(&address), None);
    rival.addresses = std::mem::take(&mut rival.announced);
    (rival.terminating, rival.created) = (true, 0);
    objects.pods.insert(rival.name.clone(), Arc::new(rival.clone()));
    assert_eq!(objects.owners().get(&address).map(|pod| &pod.name), Some(&rival.name));
}

#[test]
fn a_pod_cannot_block_itself() {
    let objects = objects(
        "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}",
    );
    assert!(evaluate(&objects, &flow("10.0.0.1", "10.0.0.1", 80)).allowed());
}

/// The objects with cluster policies, one to a line: what follows the name is the spec, and more of the metadata in front
/// of it.
fn with_cluster(mut objects: Objects, policies: &[(&str, &str)]) -> Objects {
    for (name, spec) in policies {
        let text = format!("{{metadata: {{name: {name}}}, spec: {{subject: {{namespaces: {{}}}}, {spec}}}}}");
        let policy: ClusterNetworkPolicy = serde_saphyr::from_str(&text).unwrap();
        let policy = convert_cluster(&policy).0.unwrap();
        objects.cluster_policies.insert(policy.name.clone(), policy);
    }
    objects
}

/// Whom `x/a` may reach on which ports, by what the egress side says.
fn check(objects: &Objects, destination: &str, port: u16, expected: &str) {
    let decision = evaluate(objects, &flow("10.0.0.1", destination, port));
    assert_eq!(words(&decision.egress), expected, "{destination} {port}");
}

fn words(side: &Side) -> String {
    match side {
        Side::NotIsolated => "nothing".to_owned(),
        Side::Allowed { policy: PolicyId::Cluster(name), rule } => format!("{name}[{rule}] accepts"),
        Side::Allowed { policy: PolicyId::Network(name), rule } => format!("{name}[{rule}] opens"),
        Side::Denied { policy, rule } => format!("{policy}[{rule}] denies"),
        Side::Isolated { by } => {
            format!("isolated by {}", by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
    }
}

const ALL: &str = "to: [{networks: [0.0.0.0/0]}]";
const CLOSED: &str = "{metadata: {namespace: x, name: closed}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}}";

#[test]
fn admin_comes_before_network_policies_and_they_before_baseline() {
    let port =
        |number: u16| format!("{ALL}, protocols: [{{tcp: {{destinationPort: {{number: {number}}}}}}}]");
    let admin = format!(
        "tier: Admin, priority: 5, egress: [{{action: Accept, {}}}, {{action: Deny, {}}}, {{action: Pass, {ALL}}}]",
        port(8080),
        port(80)
    );
    let baseline = format!("tier: Baseline, priority: 1, egress: [{{action: Deny, {ALL}}}]");
    let policies = [("admin", admin.as_str()), ("baseline", baseline.as_str())];
    let isolated = with_cluster(objects(CLOSED), &policies);
    check(&isolated, "10.0.0.3", 8080, "admin[0] accepts");
    check(&isolated, "10.0.0.3", 80, "admin[1] denies");
    check(&isolated, "10.0.0.3", 81, "isolated by x/closed");
    let open = with_cluster(objects(""), &policies);
    check(&open, "10.0.0.3", 81, "baseline[0] denies");
    // A network policy of the other direction, or of other pods, is none.
    let other = CLOSED.replace("Egress", "Ingress");
    check(&with_cluster(objects(&other), &policies), "10.0.0.3", 81, "baseline[0] denies");
    let without_admin = with_cluster(objects(CLOSED), &policies[1..]);
    check(&without_admin, "10.0.0.3", 80, "x/closed[0] opens");
}

#[test]
fn the_lowest_priority_decides_first_and_of_equal_ones_the_first_name() {
    let rule = |priority: u16, action: &str| {
        format!("tier: Admin, priority: {priority}, egress: [{{action: {action}, {ALL}}}]")
    };
    for (one, two, expected) in [
        ((7, "Deny"), (8, "Accept"), "a[0] denies"),
        ((8, "Deny"), (7, "Accept"), "b[0] accepts"),
        ((7, "Deny"), (7, "Accept"), "a[0] denies"),
        ((7, "Accept"), (7, "Deny"), "a[0] accepts"),
    ] {
        let (one, two) = (rule(one.0, one.1), rule(two.0, two.1));
        check(&with_cluster(objects(""), &[("b", &two), ("a", &one)]), "10.0.0.3", 80, expected);
    }
}

#[test]
fn pass_leaves_its_tier_and_nothing_else() {
    let deny = format!("{{action: Deny, {ALL}}}");
    let pass = format!("{{action: Pass, {ALL}}}");
    let tier = |tier: &str, priority: u16, rules: &str| {
        format!("tier: {tier}, priority: {priority}, egress: [{rules}]")
    };
    let admin = [tier("Admin", 1, &format!("{pass}, {deny}")), tier("Admin", 2, &deny)];
    let baseline = [tier("Baseline", 1, &pass), tier("Baseline", 2, &deny)];
    let admin = [("a1", admin[0].as_str()), ("a2", admin[1].as_str())];
    let baseline = [("b1", baseline[0].as_str()), ("b2", baseline[1].as_str())];
    check(&with_cluster(objects(CLOSED), &admin), "10.0.0.3", 81, "isolated by x/closed");
    check(&with_cluster(objects(""), &admin), "10.0.0.3", 81, "nothing");
    check(&with_cluster(objects(""), &[admin, baseline].concat()), "10.0.0.3", 81, "nothing");
    check(&with_cluster(objects(""), &[admin[0], baseline[1]]), "10.0.0.3", 81, "b2[0] denies");
}

#[test]
fn no_rule_that_matches_isolates_nobody() {
    let admin =
        "tier: Admin, priority: 1, egress: [{action: Accept, to: [{networks: [192.0.2.0/24]}]}], ingress: []";
    check(&with_cluster(objects(""), &[("a", admin)]), "10.0.0.3", 80, "nothing");
}

#[test]
fn what_egress_accepts_needs_ingress_all_the_same() {
    let accept = format!("tier: Admin, priority: 1, egress: [{{action: Accept, {ALL}}}]");
    let deny = "tier: Admin, priority: 2, ingress: [{action: Deny, from: [{namespaces: {}}]}]";
    let objects = with_cluster(objects(""), &[("out", &accept), ("in", deny)]);
    let decision = evaluate(&objects, &flow("10.0.0.1", "10.0.0.3", 80));
    assert_eq!(
        (words(&decision.egress), words(&decision.ingress)),
        ("out[0] accepts".into(), "in[0] denies".into())
    );
    assert!(!decision.allowed());
    // A pod in its node's network is no peer of ingress.
    assert!(evaluate(&objects, &flow("192.0.2.1", "10.0.0.3", 80)).allowed());
}

#[test]
fn a_subject_is_chosen_by_the_labels_of_its_namespace_and_its_own() {
    for (subject, denied) in [
        ("{namespaces: {matchLabels: {kubernetes.io/metadata.name: x}}}", true),
        ("{namespaces: {matchLabels: {kubernetes.io/metadata.name: 'y'}}}", false),
        ("{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: a}}}}", true),
        ("{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}", false),
        ("{pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {}}}", false),
    ] {
        let text = format!(
            "{{metadata: {{name: p}}, spec: {{tier: Admin, priority: 1, subject: {subject}, egress: [{{action: Deny, {ALL}}}]}}}}"
        );
        let mut objects = objects("");
        let policy = convert_cluster(&serde_saphyr::from_str(&text).unwrap()).0.unwrap();
        objects.cluster_policies.insert("p".into(), policy);
        check(&objects, "10.0.0.3", 80, if denied { "p[0] denies" } else { "nothing" });
    }
}

#[test]
fn a_named_port_has_the_protocol_and_number_of_the_destination_pod() {
    let mut objects = with_cluster(
        objects(""),
        &[(
            "p",
            "tier: Admin, priority: 1, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}]",
        )],
    );
    let c = Arc::make_mut(objects.pods.get_mut(&PodName::new("y", "c")).unwrap());
    c.ports = vec![NamedPort { name: "web".into(), protocol: Protocol::Udp, number: 53 }];
    check(&objects, "10.0.0.2", 8080, "p[0] denies");
    check(&objects, "10.0.0.3", 8080, "nothing");
    check(&objects, "10.0.0.3", 53, "nothing");
    let udp = Flow { protocol: Protocol::Udp, ..flow("10.0.0.1", "10.0.0.3", 53) };
    assert_eq!(words(&evaluate(&objects, &udp).egress), "p[0] denies");
}

#[test]
fn nodes_are_their_addresses_and_pods_in_their_network_have_them() {
    let mut objects = with_cluster(
        objects(""),
        &[(
            "p",
            "tier: Admin, priority: 1, egress: [{action: Accept, to: [{nodes: {matchLabels: {os: a}}}]}, {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]",
        )],
    );
    for (name, os, addresses) in
        [("n1", "a", ["192.0.2.1", "2001:db8::1"]), ("n2", "b", ["192.0.2.2", "2001:db8::2"])]
    {
        let node = Node {
            labels: [("os".to_owned(), os.to_owned())].into(),
            addresses: addresses.map(|address| address.parse().unwrap()).into(),
            ..Node::default()
        };
        objects.nodes.insert(name.into(), node);
    }
    let mut host = pod("y/host", "192.0.2.1");
    host.host_network = true;
    objects.pods.insert(host.name.clone(), Arc::new(host));
    check(&objects, "192.0.2.1", 80, "p[0] accepts");
    check(&objects, "192.0.2.2", 80, "p[1] denies");
    let six = Flow { source: "10.0.0.1".parse().unwrap(), ..flow("10.0.0.1", "2001:db8::1", 80) };
    assert_eq!(words(&evaluate(&objects, &six).egress), "p[0] accepts");
    // It is no subject either, nor is it one of the namespace's pods.
    assert_eq!(words(&evaluate(&objects, &flow("192.0.2.1", "203.0.113.9", 80)).egress), "nothing");
}

#[test]
fn what_a_node_sends_through_a_tunnel_is_the_nodes_in_the_family_of_its_source() {
    let mut objects = objects(
        "{metadata: {namespace: x, name: node}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.1/32}}]}]}}",
    );
    for (name, addresses, tunnels) in [
        ("n1", ["192.0.2.1", "2001:db8::1"], ["10.244.1.0", "fd00:1::"]),
        ("n2", ["192.0.2.2", "2001:db8::2"], ["10.244.2.0", "fd00:2::"]),
    ] {
        let [addresses, tunnels] =
            [addresses, tunnels].map(|all| all.map(|address| address.parse().unwrap()).into());
        objects.nodes.insert(name.into(), Node { addresses, tunnels, ..Node::default() });
    }
    let is_allowed = |objects: &Objects, source: &str, destination: &str| {
        evaluate(objects, &flow(source, destination, 80)).allowed()
    };
    for (source, expected) in
        [("192.0.2.1", true), ("10.244.1.0", true), ("10.244.1.1", false), ("10.244.2.0", false)]
    {
        assert_eq!(is_allowed(&objects, source, "10.0.0.1"), expected, "{source}");
    }
    // Its other family is none of the block's, whatever addresses the node has.
    assert!(!is_allowed(&objects, "fd00:1::", "10.0.0.1"));
}

#[test]
fn networks_hold_pods_and_namespaces_no_pod_in_its_nodes_network() {
    let mut objects = with_cluster(
        objects(""),
        &[
            ("p", "tier: Admin, priority: 1, egress: [{action: Deny, to: [{networks: [10.0.0.0/30]}]}]"),
            ("q", "tier: Admin, priority: 2, egress: [{action: Accept, to: [{namespaces: {}}]}]"),
        ],
    );
    let mut host = pod("y/host", "192.0.2.1");
    host.host_network = true;
    objects.pods.insert(host.name.clone(), Arc::new(host));
    let far = pod("y/far", "10.0.0.9");
    objects.pods.insert(far.name.clone(), Arc::new(far));
    check(&objects, "10.0.0.3", 80, "p[0] denies");
    check(&objects, "10.0.0.9", 80, "q[0] accepts");
    check(&objects, "192.0.2.1", 80, "nothing");
}

#[test]
fn what_cannot_be_read_is_closed() {
    for (rule, near, far) in [
        (
            "{action: Accept, to: [{future: {}}]}, {action: Deny, to: [{namespaces: {}}]}",
            "p[1] denies",
            "nothing",
        ),
        ("{action: Deny, to: [{future: {}}]}", "p[0] denies", "p[0] denies"),
        ("{action: Pass, to: [{future: {}}]}", "p[0] denies", "p[0] denies"),
        ("{action: Pass, to: [{namespaces: {}}], protocols: [{future: {}}]}", "p[0] denies", "nothing"),
        ("{action: Accept, to: [{domainNames: [example.org]}, {namespaces: {}}]}", "p[0] accepts", "nothing"),
    ] {
        let spec = format!("tier: Admin, priority: 1, egress: [{rule}]");
        let objects = with_cluster(objects(""), &[("p", &spec)]);
        check(&objects, "10.0.0.3", 80, near);
        check(&objects, "203.0.113.9", 80, far);
    }
}

#[test]
fn a_policy_in_audit_opens_and_isolates_nothing_until_it_is_asked_what_it_would_do() {
    let audit = "metadata: {annotations: {margay.dev/enforcement: audit}, ";
    let closed = CLOSED.replace("metadata: {", audit);
    let objects_of = |policy: &str| objects(policy);
    let to = |port| flow("10.0.0.1", "10.0.0.3", port);
    let network = objects_of(&closed);
    assert_eq!(words(&evaluate(&network, &to(81)).egress), "nothing");
    assert_eq!(words(&evaluate_audited(&network, &to(81)).egress), "isolated by x/closed");
    assert_eq!(words(&evaluate_audited(&network, &to(80)).egress), "x/closed[0] opens");
    // It does not open what an enforced one closes.
    let deny = "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}, policyTypes: [Egress]}}";
    let both = objects_of(&format!("{closed}\n---\n{deny}"));
    assert_eq!(words(&evaluate(&both, &to(80)).egress), "isolated by x/deny");
    let mut cluster = with_cluster(
        objects(""),
        &[("p", &format!("tier: Admin, priority: 1, egress: [{{action: Deny, {ALL}}}]"))],
    );
    cluster.cluster_policies.get_mut("p").unwrap().enforcement = crate::Enforcement::Audit;
    assert!(evaluate(&cluster, &to(80)).allowed());
    assert_eq!(words(&evaluate_audited(&cluster, &to(80)).egress), "p[0] denies");
}

#[test]
fn a_pod_reaches_itself_whatever_the_cluster_says() {
    let deny = format!("tier: Admin, priority: 1, egress: [{{action: Deny, {ALL}}}]");
    assert!(
        evaluate(&with_cluster(objects(""), &[("p", &deny)]), &flow("10.0.0.1", "10.0.0.1", 80)).allowed()
    );
}
