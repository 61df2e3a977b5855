//! Pods that are there follow an MTU that has become smaller.

use std::fs;

use margay_api::{agent::Response, endpoint::EndpointId, paths};
use margay_netlink::{
    Socket,
    link::{self, IfName},
    netns::Namespace,
};
use serde_json::json;

use crate::node::{DUAL, Node, Pod, on_node};

fn mtu_of(name: &str) -> u32 {
    let name: IfName = name.parse().unwrap();
    link::by_name(&mut Socket::open().unwrap(), &name).unwrap().unwrap().mtu
}

/// The MTU of the pod's end, of the host's, and in the record.
fn mtus(node: &Node, pod: &Pod) -> [u32; 3] {
    let record = node.records().read(&EndpointId::of(&pod.id, "eth0")).unwrap().unwrap();
    let in_pod = {
        let _inside = pod.namespace.enter().unwrap();
        mtu_of("eth0")
    };
    [in_pod, mtu_of(&record.host_ifname), record.mtu]
}

/// As the agent says it.
fn say(node: &Node, mtu: &str) {
    fs::write(node.run_dir().join(paths::POD_MTU), mtu).unwrap();
}

fn set_in(namespace: &Namespace, mtu: &str) {
    let _inside = namespace.enter().unwrap();
    let set = std::process::Command::new("ip").args(["link", "set", "eth0", "mtu", mtu]).status().unwrap();
    assert!(set.success());
}

#[test]
fn a_status_and_an_add_make_the_mtu_of_pods_that_are_there_smaller_and_never_larger() {
    on_node(DUAL, Some(Response::Done), |node| {
        let pod = Pod::new("c1");
        let result = node.add(&pod);
        let status = || node.call("STATUS", &pod, &json!({}));
        status().unwrap();
        assert_eq!(mtus(node, &pod), [1400; 3], "nobody has said anything");
        say(node, "1350\n");
        status().unwrap();
        assert_eq!(mtus(node, &pod), [1350; 3]);
        node.call("CHECK", &pod, &json!({"prevResult": result})).unwrap();
        say(node, "1300\n");
        let second = Pod::new("c2");
        node.call("ADD", &second, &json!({"mtu": 1300})).unwrap();
        assert_eq!([mtus(node, &pod), mtus(node, &second)], [[1300; 3]; 2]);
        // What would be larger, or take IPv6 away, or says nothing.
        for said in ["1400\n", "1279\n", "", "large"] {
            say(node, said);
            status().unwrap();
            assert_eq!(mtus(node, &pod), [1300; 3], "{said:?}");
        }
        // What a later plugin of the list has made smaller stays.
        set_in(&pod.namespace, "1290");
        say(node, "1295\n");
        status().unwrap();
        assert_eq!(mtus(node, &pod), [1290, 1295, 1295]);
    });
}

#[test]
fn pods_of_another_network_keep_theirs_and_one_that_is_gone_keeps_no_other_from_it() {
    on_node(DUAL, Some(Response::Done), |node| {
        // By the order of their records the one that is gone comes first.
        let [gone, other, pod] = ["c3", "c2", "c1"].map(Pod::new);
        node.add(&gone);
        node.call("ADD", &other, &json!({"name": "another"})).unwrap();
        node.add(&pod);
        let mut record = node.records().read(&EndpointId::of("c3", "eth0")).unwrap().unwrap();
        record.netns = "/run/netns/no-such".into();
        node.records().write(&record).unwrap();
        say(node, "1350\n");
        node.call("STATUS", &pod, &json!({})).unwrap();
        assert_eq!(mtus(node, &other), [1400; 3]);
        assert_eq!(mtus(node, &pod), [1350; 3]);
        assert_eq!(mtus(node, &gone), [1400; 3], "it is tried again");
    });
}
