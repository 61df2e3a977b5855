//! STATUS tells a runtime what is wrong before its scheduler finds out.

use serde_json::json;

use crate::{
    node::{Node, on_node},
    plugin::{Call, Outcome},
};

async fn until(node: &Node, code: u64, words: &str) {
    let call = Call {
        verb: "STATUS",
        network: "margay",
        container: String::new(),
        ifname: "",
        netns: None,
        pod: None,
        more: json!({}),
        directory: node.path(""),
    };
    node.eventually(words, async || match call.run() {
        Outcome::Success(_) if code == 0 => Ok(()),
        Outcome::Failure(error) if error["code"] == code && error["msg"].to_string().contains(words) => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[test]
fn status_is_51_while_the_agent_or_its_api_is_away_and_50_while_there_is_no_address() {
    on_node(async |node| {
        node.configure_agent(&json!({"bgp": {"enabled": false}}));
        until(node, 51, "is the margay pod of this node running").await;
        node.stop_api().await;
        node.put_node(&json!({}));
        node.start_agent();
        until(node, 51, "api: not listed yet").await;
        node.start_api().await;
        until(node, 50, "ipam: node n1 has no spec.podCIDRs").await;
        node.put_node(&json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}));
        until(node, 0, "pods can be added").await;
        node.kill_agent();
        until(node, 51, "is the margay pod of this node running").await;
    });
}
