//! The specification's sentences, each with a flow.

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{Flow, Side, evaluate};
use crate::{NamedPort, Objects, Pod, PodName, Protocol, convert};

fn pod(name: &str, address: &str) -> Pod {
    let (namespace, short) = name.split_once('/').unwrap();
    Pod {
        name: PodName::new(namespace, short),
        labels: [("pod".to_owned(), short.to_owned())].into(),
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
        objects.pods.insert(pod.name.clone(), pod);
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
    let name = |name: &str| crate::PolicyRef { namespace: "x".into(), name: name.into() };
    let open = evaluate(&objects, &flow("10.0.0.3", "10.0.0.1", 8080));
    assert_eq!(open.ingress, Side::Allowed { policy: name("web"), rule: 1 });
    assert_eq!(open.egress, Side::NotIsolated);
    let closed = evaluate(&objects, &flow("10.0.0.3", "10.0.0.1", 80));
    assert_eq!(closed.ingress, Side::Denied { isolated_by: vec![name("deny"), name("web")] });
    assert!(!closed.allowed() && open.allowed());
}

#[test]
fn host_network_and_finished_pods_are_nobody() {
    let mut objects = objects("{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}");
    let to_a = flow("10.0.0.3", "10.0.0.1", 80);
    assert!(!evaluate(&objects, &to_a).allowed());
    objects.pods.get_mut(&PodName::new("x", "a")).unwrap().finished = true;
    assert!(evaluate(&objects, &to_a).allowed());
    let a = objects.pods.get_mut(&PodName::new("x", "a")).unwrap();
    (a.finished, a.host_network) = (false, true);
    assert!(evaluate(&objects, &to_a).allowed());
}

#[test]
fn a_reused_address_is_the_younger_pods_and_never_a_terminating_ones() {
    let mut objects = objects("{metadata: {namespace: x, name: deny}, spec: {podSelector: {}}}");
    let to_a = flow("10.0.0.3", "10.0.0.1", 80);
    let mut young = pod("y/new", "10.0.0.1");
    young.created = 1;
    objects.pods.insert(young.name.clone(), young.clone());
    assert!(evaluate(&objects, &to_a).allowed());
    young.terminating = true;
    objects.pods.insert(young.name.clone(), young);
    assert!(!evaluate(&objects, &to_a).allowed());
}

#[test]
fn an_announced_address_is_a_pods_own_unless_another_pod_has_it_or_is_said_to() {
    let mut objects = objects("");
    let mut said = pod("y/said", "10.0.0.9");
    said.announced = std::mem::take(&mut said.addresses);
    said.created = 9;
    let address = said.announced[0];
    objects.pods.insert(said.name.clone(), said.clone());
    assert_eq!(objects.owners().get(&address).map(|pod| &pod.name), Some(&said.name));
    let mut rival = said.clone();
    rival.name.name = "rival".into();
    objects.pods.insert(rival.name.clone(), rival.clone());
    assert_eq!(objects.owners().get(&address), None);
    rival.addresses = std::mem::take(&mut rival.announced);
    (rival.terminating, rival.created) = (true, 0);
    objects.pods.insert(rival.name.clone(), rival.clone());
    assert_eq!(objects.owners().get(&address).map(|pod| &pod.name), Some(&rival.name));
}

#[test]
fn a_pod_cannot_block_itself() {
    let objects = objects(
        "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}",
    );
    assert!(evaluate(&objects, &flow("10.0.0.1", "10.0.0.1", 80)).allowed());
}
