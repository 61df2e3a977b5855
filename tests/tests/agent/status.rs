//! STATUS tells a runtime what is wrong before its scheduler finds out.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use serde_json::json;

use crate::{
    node::{Node, on_node, program},
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

#[test]
fn agent_and_speaker_answer_nobody_but_root_even_if_others_can_open_their_sockets() {
    on_node(async |node| {
        node.start_speaker();
        node.put_node(&json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}));
        node.start_agent();
        node.ready().await;
        // Where another user can start it.
        let margayctl = node.path("margayctl");
        fs::copy(program("margayctl"), &margayctl).unwrap();
        for open in ["", "run", "run/agent.sock", "run/bgp.sock"] {
            fs::set_permissions(node.path(open), Permissions::from_mode(0o777)).unwrap();
        }
        let ask = |user: &str, what: &[&str]| {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", user, "--clear-groups"])
                .arg(&margayctl)
                .arg("--run-dir")
                .arg(node.path("run"));
            let output = command.args(what).output().unwrap();
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        };
        let (status, neighbors) = (["node", "status"].as_slice(), ["bgp", "neighbors"].as_slice());
        assert!(ask("0", status).contains("pods can be added"), "{}", ask("0", status));
        assert!(
            ask("65534", status).contains("the agent answers root, and not user 65534"),
            "{}",
            ask("65534", status)
        );
        assert!(ask("0", neighbors).contains("NEIGHBOR"), "{}", ask("0", neighbors));
        let refused = ask("65534", neighbors);
        assert!(
            refused.contains("the speaker answers root and its own user, and not user 65534"),
            "{refused}"
        );
    });
}
