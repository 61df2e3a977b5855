//! Alerts and dashboard ask for what the agent really tells, and alerts fire when they should: by Debian's Prometheus.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    drops::{deny, policy, start_with, until_counted},
    node::{Node, Process, get, on_node},
};

const PROMETHEUS: &str = "127.0.0.1:9090";

fn manifests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/monitoring").join(name)
}

/// The rules as Prometheus itself has them in a file.
fn rules() -> Value {
    let text = fs::read_to_string(manifests("prometheusrule.yaml")).unwrap();
    serde_saphyr::from_str::<Value>(&text).unwrap()["spec"].clone()
}

fn texts<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    values.into_iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

fn alerts() -> Vec<Value> {
    rules()["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// What all panels ask, with the variables as Grafana puts them in.
fn panels() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(manifests("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    texts(targets.map(|target| &target["expr"]))
        .into_iter()
        .map(|text| text.replace("$node", ".*").replace("$__rate_interval", "1m"))
        .collect()
}

/// The names of our metrics in a query.
fn names(query: &str) -> BTreeSet<String> {
    query
        .split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| word.starts_with("margay_"))
        .map(str::to_owned)
        .collect()
}

/// A bpf file system, which ends with this.
struct Mount(PathBuf);

impl Mount {
    fn bpf(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        assert!(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(at).status().unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, as the agent that uses it may end after this.
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

/// What Prometheus answers to a query, or its complaint.
async fn ask(query: &str) -> Result<Vec<Value>, String> {
    let encoded: Vec<String> = query.bytes().map(|octet| format!("%{octet:02X}")).collect();
    let encoded = encoded.concat();
    let answer = get(PROMETHEUS, &format!("/api/v1/query?query={encoded}")).await?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
}

/// A Prometheus on the node, which asks the agent every second.
fn start_prometheus(node: &Node) -> Process {
    fs::write(node.path("rules.yaml"), rules().to_string()).unwrap();
    let configuration = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "margay", "static_configs": [
            {"targets": ["127.0.0.1:9099"], "labels": {"node": "n1"}},
        ]}],
    });
    fs::write(node.path("prometheus.yaml"), configuration.to_string()).unwrap();
    let path = |name: &str| node.path(name).display().to_string();
    let arguments = [
        format!("--config.file={}", path("prometheus.yaml")),
        format!("--storage.tsdb.path={}", path("tsdb")),
        format!("--web.listen-address={PROMETHEUS}"),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Process::start_at(Path::new("/usr/bin/prometheus"), &arguments, &node.path("prometheus.log"))
}

#[test]
fn every_query_is_about_metrics_that_the_agent_has_and_nothing_is_alarmed_when_all_is_well() {
    on_node(async |node| {
        // One policy drops and one would: so that the series which come with their first packet are there.
        let mut audited = policy("audited", &json!({"podSelector": {"matchLabels": {"app": "a"}}}));
        audited["metadata"]["annotations"] = json!({"margay.dev/enforcement": "audit"});
        let bpf = Mount::bpf(&node.path("bpf"));
        let configuration = json!({"bgp": {"enabled": false}, "dataplane": "ebpf", "bpfDir": bpf.0});
        let [a, b] = start_with(node, &configuration, &[deny(), audited]).await;
        a.send(&b);
        b.send(&a);
        let labels = |policy: &str| format!("{{kind=\"NetworkPolicy\",policy=\"default/{policy}\"");
        for (metric, policy) in [("drops", "deny"), ("audit", "audited")] {
            let line = format!("margay_policy_{metric}_total{},direction=\"ingress\"}} 2", labels(policy));
            until_counted(node, &line).await;
        }

        let _prometheus = start_prometheus(node);
        node.eventually("Prometheus has asked the agent a few times", async || {
            let count = ask("count_over_time(up{job=\"margay\"}[1m]) >= 3 and up == 1").await?;
            if count.is_empty() {
                Err(fs::read_to_string(node.path("prometheus.log")).unwrap())
            } else {
                Ok(())
            }
        })
        .await;

        let queries: Vec<String> =
            panels().into_iter().chain(texts(alerts().iter().map(|alert| &alert["expr"]))).collect();
        assert!(queries.len() > 25, "{queries:?}");
        let mut unknown = BTreeSet::new();
        for query in &queries {
            ask(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
            for name in names(query) {
                if ask(&format!("count({{__name__=\"{name}\"}})")).await.unwrap().is_empty() {
                    unknown.insert(name);
                }
            }
        }
        assert_eq!(
            unknown,
            BTreeSet::new(),
            "the agent has no such metrics: {:?}",
            node.get("/metrics").await
        );
        // A machine that is busy for a moment is no alert: all is well at some moment, and nothing fires before.
        node.eventually("nothing is wrong", async || {
            for query in texts(alerts().iter().map(|alert| &alert["expr"])) {
                let found = ask(&query).await?;
                if !found.is_empty() {
                    return Err(format!("{query}: {found:?}"));
                }
            }
            Ok(())
        })
        .await;
        let firing = ask("ALERTS{alertstate=\"firing\"}").await.unwrap();
        assert!(firing.is_empty(), "{firing:?}");
    });
}

#[test]
fn every_alert_fires_when_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("rules.yaml"), rules().to_string()).unwrap();
    let series = |series: &str, values: &str| {
        let open = if series.ends_with('}') { series.replace('}', ",") } else { format!("{series}{{") };
        json!({"series": format!("{open}job=\"margay\",node=\"n1\",instance=\"i\"}}"), "values": values})
    };
    // What is wrong from the tenth minute on, and which alerts are there at the thirtieth.
    let cases = [
        (vec![series("up", "1+0x10 0+0x30")], vec!["MargayAgentDown"]),
        (vec![series("margay_ready", "1+0x10 0+0x30")], vec!["MargayNodeNotReady"]),
        (
            vec![series("margay_nft_transactions_total{outcome=\"refused\"}", "0+0x10 1+1x30")],
            vec!["MargayPolicyRefused"],
        ),
        (
            vec![series("margay_invalid_objects{resource=\"x\"}", "0+0x10 1+0x30")],
            vec!["MargayInvalidObject"],
        ),
        (
            vec![
                series("margay_bgp_neighbors", "3+0x40"),
                series("margay_bgp_sessions_established", "3+0x10 2+0x30"),
            ],
            vec!["MargayBGPSessionDown"],
        ),
        (
            vec![
                series("margay_bgp_neighbors", "3+0x40"),
                series("margay_bgp_sessions_established", "3+0x10 0+0x30"),
            ],
            vec!["MargayBGPIsolated", "MargayBGPSessionDown"],
        ),
        (
            vec![
                series("margay_program_seconds_bucket{le=\"1.0\"}", "0+0x40"),
                series("margay_program_seconds_bucket{le=\"5.0\"}", "0+0x5 0+60x35"),
                series("margay_program_seconds_bucket{le=\"+Inf\"}", "0+0x5 0+60x35"),
            ],
            vec!["MargaySlow"],
        ),
        (vec![series("margay_repaired_total", "0+0x15 0+2x25")], vec!["MargayRepairs"]),
        (vec![series("margay_ipam_unrecorded_links", "0+0x10 2+0x30")], vec!["MargayLostRecords"]),
        (vec![series("margay_drops_total{reason=\"spoof\"}", "0+0x10 0+120x30")], vec!["MargaySpoofing"]),
        (
            vec![
                series("margay_short_way_open", "1+0x10 0+0x30"),
                series("margay_dataplane{dataplane=\"ebpf\"}", "1+0x40"),
            ],
            vec!["MargayShortWayClosed"],
        ),
        (
            vec![
                series("margay_ebpf_map_entries{map=\"flows\"}", "90+0x10 91+0x30"),
                series("margay_ebpf_map_capacity{map=\"flows\"}", "100+0x40"),
                // One of which nobody counts the entries.
                series("margay_ebpf_map_capacity{map=\"fragments\"}", "1+0x40"),
            ],
            vec!["MargayMapNearlyFull"],
        ),
    ];
    let all: BTreeSet<String> = texts(alerts().iter().map(|alert| &alert["alert"])).into_iter().collect();
    let tested = cases.iter().flat_map(|(_, expected)| expected.iter().map(|name| (*name).to_owned()));
    assert_eq!(tested.collect::<BTreeSet<_>>(), all, "an alert has no case here");

    let tests = cases.map(|(input, expected)| {
        // An alert that promtool is not asked about is not looked at: so all are, at both times.
        let at = |minutes: u32, expected: &[&str]| -> Vec<Value> {
            let sample = |name: &&str| json!({"labels": format!("{{__name__=\"ALERTS\", alertname=\"{name}\"}}"), "value": 1});
            let samples: Vec<Value> = expected.iter().map(sample).collect();
            vec![json!({
                "expr": "count by (__name__, alertname) (ALERTS{alertstate=\"firing\"})",
                "eval_time": format!("{minutes}m"), "exp_samples": samples,
            })]
        };
        let checks = [at(5, &[]), at(30, &expected)].concat();
        json!({"interval": "1m", "input_series": input, "promql_expr_test": checks})
    });
    let file = json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests});
    fs::write(path("tests.yaml"), file.to_string()).unwrap();
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(folder.path()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&text));
    }
}
