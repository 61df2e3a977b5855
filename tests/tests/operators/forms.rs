//! Each subcommand of margayctl answers in the form that it is asked for, with the same exit status.

use std::collections::BTreeSet;

use margay_lab::{Lab, LabConfig};
use margay_tests::guide::programs;
use serde_json::Value;

use crate::{
    cluster::{apply, run, start},
    walkthrough::shell,
};

/// What has no answer in forms, with the test of it.
const WITHOUT: [(&str, &str); 4] = [
    ("completion", "a script: `shells_get_completions_and_kubectl_a_plugin`"),
    ("diag", "an archive: `diag` in ctl/tests/cluster.rs"),
    ("monitor", "lines without an end: agent/drops.rs, with `-o json`"),
    ("node cleanup", "refuses while the agent runs: below"),
];

/// Asked on a node, of its agent, its speaker and its disk.
const ON_A_NODE: [&str; 15] = [
    "endpoints",
    "ipam show",
    "ipam check",
    "bgp neighbors",
    "bgp collectors",
    "bgp routes",
    "bgp explain 10.244.2.0/24",
    "bgp dump /run/margay/routes.mrt",
    "bgp refresh 172.18.0.3",
    "ebpf status",
    "ebpf endpoints",
    "ebpf classes",
    "ebpf verdicts",
    "ebpf flows",
    "node status",
];
/// Asked anywhere, of the API server.
const ANYWHERE: [&str; 6] = [
    "status",
    "version",
    "bgp status",
    "policy explain --from default/b --to default/a --port 80",
    "policy matrix -n default",
    "policy test manifests/examples/tests/allow-my-app.yaml --manifests manifests/examples/00-my-app.yaml \
     --manifests manifests/examples/allow-my-app.yaml --manifests manifests/examples/deny-all.yaml",
];
/// It ends a session, so it comes last.
const LAST: &str = "bgp reset 172.18.0.3";

/// The subcommands that its help names, down to those that have none of their own.
fn subcommands(path: &str) -> BTreeSet<String> {
    let output = std::process::Command::new(programs().join("margayctl"))
        .args(path.split(' ').filter(|word| !word.is_empty()))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return [path.to_owned()].into() };
    let lines = list.lines().take_while(|line| !line.is_empty());
    // What goes on in a further line is indented more.
    let names =
        lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|it| !it.is_empty()));
    names
        .filter(|name| *name != "help")
        .flat_map(|name| subcommands(format!("{path} {name}").trim_start()))
        .collect()
}

/// What a command prints on standard output, and its exit status.
async fn ask(lab: &Lab, command: &str, form: &str) -> (String, i32) {
    let program = programs().join("margayctl");
    let line =
        format!("{} {command} -o {form} 2> /dev/null; status=$?; echo; echo $status", program.display());
    let said = if command == LAST || ON_A_NODE.contains(&command) || command.starts_with("node ") {
        lab.node(0).output("bash", &["-c", &line]).await.unwrap()
    } else {
        shell(lab, &line).await.0
    };
    let (answer, status) = said.trim_end().rsplit_once('\n').unwrap();
    (answer.to_owned(), status.parse().unwrap())
}

async fn check(lab: &Lab, command: &str) {
    let (table, status) = ask(lab, command, "table").await;
    assert!(status < 2, "{command}: {status}: {table}");
    let is_data = |value: &Value| value.is_object() || value.is_array();
    let (json, same) = ask(lab, command, "json").await;
    assert_eq!(same, status, "{command} -o json: {json}");
    let value: Value =
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{command}: {error}: {json}"));
    assert!(is_data(&value), "{command}: {json}");
    let (yaml, same) = ask(lab, command, "yaml").await;
    assert_eq!(same, status, "{command} -o yaml: {yaml}");
    let value: Value =
        serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{command}: {error}: {yaml}"));
    // Of nothing, both forms are the same.
    let is_empty = ["[]", "{}"].contains(&json.trim());
    assert!(is_data(&value) && (yaml != json || is_empty), "{command}: {yaml}");
    let (wide, same) = ask(lab, command, "wide").await;
    assert_eq!(same, status, "{command} -o wide: {wide}");
    // No other has columns that are left out as long as nobody asks.
    let has_more = |text: &str| ["ADDRESSES", "KERNEL"].iter().all(|column| text.contains(column));
    assert_eq!(
        (has_more(&table), has_more(&wide)),
        (false, command == "status"),
        "{command}: {wide}\n{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_subcommand_answers_as_a_table_wide_json_and_yaml_with_one_exit_status() {
    let name = |command: &&str| {
        let words =
            command.split(' ').take_while(|word| word.starts_with(|first: char| first.is_ascii_lowercase()));
        words.take(2).collect::<Vec<_>>().join(" ")
    };
    let asked = ON_A_NODE.iter().chain(&ANYWHERE).chain([&LAST]).map(name);
    let known: BTreeSet<String> = asked.chain(WITHOUT.map(|(name, _)| name.to_owned())).collect();
    assert_eq!(subcommands(""), known, "a case for each subcommand");

    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    run(&lab, "a", "n1").await;
    run(&lab, "b", "n2").await;
    let isolated = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: default}\n\
                    spec: {podSelector: {}}\n";
    apply(&lab, isolated).await;
    for command in ON_A_NODE.iter().chain(&ANYWHERE).chain([&LAST]) {
        check(&lab, command).await;
    }
    let (said, status) = ask(&lab, "node cleanup --dry-run", "json").await;
    assert_eq!((said.trim(), status), ("", 1), "the agent runs");
    lab.stop().await;
}
