//! Many changes that come fast are a few transactions.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::node::{on_node, table};

const PODS: usize = 500;
/// Changes that the agent writes at once, and the shortest time between two writes after these (`node-agent/src/pace.rs`).
const BURST: u128 = 8;
const PACE: Duration = Duration::from_millis(40);

fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n2", "containers": [{"name": "c", "image": "i"}]},
        "status": {"podIPs": [{"ip": address(number)}]},
    })
}

fn address(number: usize) -> String {
    format!("10.1.{}.{}", number / 250, number % 250 + 1)
}

#[test]
fn a_rollout_of_500_pods_is_a_few_transactions_and_none_of_them_is_missing() {
    on_node(async |node| {
        node.configure_agent(&json!({"bgp": {"enabled": false}}));
        node.put_node(&json!({"podCIDRs": ["10.0.0.0/24"]}));
        let own = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own", "labels": {"app": "own"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        });
        node.api.put_raw(own).unwrap();
        node.put_record("own", "10.0.0.9");
        node.put_policy("web", "own", "web");
        node.start_agent();
        node.ready().await;
        let transactions = async || {
            let metrics = node.get("/metrics").await.unwrap();
            let line =
                metrics.lines().find(|line| line.contains("nft_transactions_total{outcome=\"applied\"}"));
            line.unwrap().rsplit(' ').next().unwrap().parse::<usize>().unwrap()
        };
        let before = transactions().await;
        let begin = Instant::now();
        for number in 0..PODS {
            node.api.put_raw(pod(number)).unwrap();
            // One event after the other, as they come from a controller.
            tokio::task::yield_now().await;
        }
        let has_all = |table: &str| (0..PODS).all(|number| table.contains(&address(number)));
        node.eventually("all pods are known", async || match table()? {
            table if has_all(&table) => Ok(()),
            table => Err(format!("{} octets", table.len())),
        })
        .await;
        let count = transactions().await - before;
        // However long a busy machine takes for all of it.
        let most = BURST + begin.elapsed().as_millis() / PACE.as_millis() + 1;
        assert!(count >= 1 && count as u128 <= most, "{count} transactions for {PODS} pods; at most {most}");
    });
}
