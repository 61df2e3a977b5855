//! Objects of the API, of any content, become verdicts that the reference evaluator agrees with: documents of JSON, each an object.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Namespace as NamespaceObject, Node as NodeObject, Pod as PodObject},
    networking::v1::NetworkPolicy,
};
use libfuzzer_sys::fuzz_target;
use margay_policy::{
    Namespace, Objects, Problem, Protocol,
    compile::{Compiler, Touched, Verdict, Way},
    convert, convert_cluster, convert_node, convert_pod,
    evaluate::{Flow, evaluate, evaluate_audited},
    v1alpha2::ClusterNetworkPolicy,
};
use serde_json::{Deserializer, Value};

fuzz_target!(|input: &[u8]| {
    let mut objects = Objects::default();
    for object in Deserializer::from_slice(input).into_iter::<Value>().map_while(Result::ok).take(32) {
        add(&mut objects, object);
    }
    let mut compiler = Compiler::default();
    let everything = Touched::everything(&objects);
    compiler.update(&objects, |_| true, &everything);
    let again = compiler.update(&objects, |_| true, &everything);
    assert!(again.is_empty(), "what is known already changes something: {again:?}");
    agree(&objects, &compiler);
});

fn add(objects: &mut Objects, object: Value) {
    match object["kind"].as_str() {
        Some("Namespace") => {
            let Ok(object) = serde_json::from_value::<NamespaceObject>(object) else { return };
            let name = object.metadata.name.unwrap_or_default();
            let labels = object.metadata.labels.unwrap_or_default();
            objects.namespaces.insert(name.clone(), Namespace { name, labels });
        }
        Some("Pod") => {
            let Ok(object) = serde_json::from_value::<PodObject>(object) else { return };
            let (pod, _problems) = convert_pod(&object);
            objects.pods.insert(pod.name.clone(), Arc::new(pod));
        }
        Some("Node") => {
            let Ok(object) = serde_json::from_value::<NodeObject>(object) else { return };
            let (node, _problems) = convert_node(&object);
            objects.nodes.insert(object.metadata.name.unwrap_or_default(), node);
        }
        Some("NetworkPolicy") => {
            let Ok(object) = serde_json::from_value::<NetworkPolicy>(object) else { return };
            let (policy, problems) = convert(&object);
            assert!(policy.is_some() || !problems.is_empty(), "passed over in silence");
            named(&problems);
            objects.policies.extend(policy.map(|policy| (policy.name.clone(), policy)));
        }
        Some("ClusterNetworkPolicy") => {
            let Ok(object) = serde_json::from_value::<ClusterNetworkPolicy>(object) else { return };
            let (policy, problems) = convert_cluster(&object);
            assert!(policy.is_some() || !problems.is_empty(), "passed over in silence");
            named(&problems);
            objects.cluster_policies.extend(policy.map(|policy| (policy.name.clone(), policy)));
        }
        _ => {}
    }
}

/// What is wrong is named with the path of its field.
fn named(problems: &[Problem]) {
    for Problem { field, reason, .. } in problems {
        assert!(field.starts_with("spec") || field.starts_with("metadata"), "{field}");
        assert!(!reason.is_empty(), "{field}");
    }
}

/// The compiled state and the reference evaluator decide alike about flows between all that there is, and a stranger.
fn agree(objects: &Objects, compiler: &Compiler) {
    let owners: BTreeMap<IpAddr, _> = objects.owners();
    let nodes = objects.nodes.values().flat_map(|node| node.addresses.iter().copied());
    let ranges = compiler.ranges().map(|(range, _)| range.first);
    let strangers = [IpAddr::from([203, 0, 113, 9]), "2001:db8:ffff::9".parse().expect("an address")];
    let ends: BTreeSet<IpAddr> = owners.keys().copied().chain(nodes).chain(ranges).chain(strangers).collect();
    let ends: Vec<IpAddr> = ends.into_iter().take(10).collect();
    for (source, destination) in ends.iter().flat_map(|source| ends.iter().map(move |to| (*source, *to))) {
        if source == destination {
            continue;
        }
        for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Sctp, 65535)] {
            let flow = Flow { source, destination, protocol, port };
            let (now, audited) = (evaluate(objects, &flow), evaluate_audited(objects, &flow));
            let sides = [
                (Way::Egress, source, destination, &now.egress, &audited.egress),
                (Way::Ingress, destination, source, &now.ingress, &audited.ingress),
            ];
            for (way, near, far, now, audited) in sides {
                let verdict = compiler
                    .pod_at(near)
                    .map_or(Verdict::Allow, |pod| compiler.verdict(pod, way, far, Some((protocol, port))));
                assert_eq!(verdict.passes(), now.allows(), "{flow:?} {way:?}: {now:?}");
                let is_found = matches!(verdict, Verdict::Audit(_));
                assert_eq!(is_found, now.allows() && !audited.allows(), "{flow:?} {way:?}: {audited:?}");
            }
        }
    }
}
