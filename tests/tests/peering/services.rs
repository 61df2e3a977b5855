//! Addresses of Services are announced by the nodes that serve them.

use margay_lab::Lab;
use serde_json::json;

use crate::cluster::{ROUTER, apply, kubectl, router, start, until_router, until_state};

/// Puts a Service of type `LoadBalancer`, with both policies as said.
fn put_service(lab: &Lab, internal: &str, external: &str) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "externalIPs": ["198.51.100.9", "203.0.113.200"],
            "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
            "ports": [{"port": 80, "protocol": "TCP"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
    });
    lab.api_server().unwrap().put_raw(service).unwrap();
}

/// Puts its endpoints: nodes, each with the conditions ready, serving and terminating.
fn put_endpoints(lab: &Lab, endpoints: &[(&str, [bool; 3])]) {
    let endpoints: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(index, (node, [ready, serving, terminating]))| {
            json!({
                "addresses": [format!("10.244.9.{index}")], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            })
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [],
    });
    lab.api_server().unwrap().put_raw(slice).unwrap();
}

const READY: [bool; 3] = [true, true, false];
const ENDING: [bool; 3] = [false, true, true];
/// How the router sees the two nodes.
const N1: &str = "172.18.0.2";
const N2: &str = "172.18.0.3";

/// Waits until the router has the range of cluster IPs, and no address of a Service.
async fn until_the_range_alone_is_there(lab: &Lab) {
    let hosts = ["203.0.113.9/32", "198.51.100.9/32", "10.96.0.9/32"];
    until_router(lab, "show route", &["10.96.0.0/16"], &hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_services_follow_their_endpoints_and_policies() {
    let mut lab = start(2).await;
    lab.run_router(&router(&[("n1", 1, 64512, None), ("n2", 2, 64512, None)])).await.unwrap();
    put_service(&lab, "Cluster", "Cluster");
    put_endpoints(&lab, &[("n1", READY)]);
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\nspec: {address: 172.18.0.1, asn: 64600}\n---\n\
         apiVersion: margay.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n\
         spec: {serviceAddresses: {clusterIPs: [10.96.0.0/16], externalIPs: [198.51.100.0/24], \
         loadBalancerIPs: [203.0.113.0/25]}, announcements: [{cidr: 203.0.113.0/24, communities: ['64512:80']}]}\n",
    )
    .await;
    until_state(&lab, 0, ROUTER, "Established").await;
    until_state(&lab, 1, ROUTER, "Established").await;
    // The policy Cluster: all nodes, wherever the endpoints are.
    for prefix in ["10.96.0.0/16", "198.51.100.9/32", "203.0.113.9/32"] {
        until_router(&lab, &format!("show route {prefix} all"), &[N1, N2], &[]).await;
    }
    until_router(&lab, "show route 203.0.113.9/32 all", &["(64512,80)"], &[]).await;
    // An address that is in no range of its kind, and a cluster IP without a policy of its own.
    until_router(&lab, "show route", &["10.96.0.0/16"], &["203.0.113.200/32", "10.96.0.9/32"]).await;
    // Nodes neither hear of each other's Services nor install their own.
    for node in lab.nodes() {
        let routes = node.bgp_routes().await.unwrap();
        let of_services =
            |it: &&String| ["10.96.", "198.51.100.", "203.0.113."].iter().any(|net| it.contains(net));
        assert_eq!(routes.iter().find(of_services), None, "{}: {routes:?}", node.name());
    }

    // Both policies Local: the node with the endpoint alone, for cluster IPs beside the range of all.
    put_service(&lab, "Local", "Local");
    for prefix in ["10.96.0.9/32", "198.51.100.9/32", "203.0.113.9/32"] {
        until_router(&lab, &format!("show route {prefix} all"), &[N1], &[N2]).await;
    }
    until_router(&lab, "show route 10.96.0.0/16 all", &[N1, N2], &[]).await;
    // An endpoint that ends gives way to one that is ready elsewhere, and serves on where there is none.
    put_endpoints(&lab, &[("n1", ENDING), ("n2", READY)]);
    until_router(&lab, "show route 203.0.113.9/32 all", &[N2], &[N1]).await;
    put_endpoints(&lab, &[("n1", ENDING)]);
    until_router(&lab, "show route 203.0.113.9/32 all", &[N1], &[N2]).await;
    // With the last endpoint all goes but the range.
    put_endpoints(&lab, &[]);
    until_the_range_alone_is_there(&lab).await;

    // A node that is excluded from load balancing draws no such traffic.
    put_service(&lab, "Local", "Cluster");
    put_endpoints(&lab, &[("n1", READY), ("n2", READY)]);
    until_router(&lab, "show route 203.0.113.9/32 all", &[N1, N2], &[]).await;
    kubectl(&lab, "label node n2 node.kubernetes.io/exclude-from-external-load-balancers=").await;
    until_router(&lab, "show route 203.0.113.9/32 all", &[N1], &[N2]).await;
    until_router(&lab, "show route 10.96.0.9/32 all", &[N1, N2], &[]).await;
    kubectl(&lab, "delete service web").await;
    until_the_range_alone_is_there(&lab).await;
    lab.stop().await;
}
