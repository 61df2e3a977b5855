//! `margayctl policy`, as a shell and a CI pipeline run it.

#![expect(clippy::unwrap_used, reason = "helpers fail a test by panicking and are not test functions")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use margay_lab::{apiserver::ApiServer, cluster_network_policies};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A shop: `web` may reach `db` on its port `sql`, everything else is closed; nothing isolates egress.
const SHOP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: db, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report, namespace: shop}
spec:
  jobTemplate: {spec: {template: {metadata: {labels: {app: report}}, spec: {containers: [{name: c, image: c}]}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: shop}
spec: {podSelector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: sql}]
";

struct Answer {
    status: i32,
    out: String,
    err: String,
}

fn margayctl(folder: &Path, arguments: &[&str]) -> Answer {
    let output = Command::new(env!("CARGO_BIN_EXE_margayctl"))
        .current_dir(folder)
        .arg("policy")
        .args(arguments)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Answer {
        status: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn explain_names_the_rule_that_opens() {
    let shop = folder(&[("k8s/shop.yaml", SHOP)]);
    let answer = margayctl(
        shop.path(),
        &["explain", "--from", "shop/web", "--to", "shop/db", "--port", "5432/tcp", "--manifests", "k8s"],
    );
    assert_eq!(
        answer.out,
        "allowed: shop/web to shop/db on 5432/TCP\n  \
         egress   not isolated: no policy with Egress selects shop/web\n  \
         ingress  allowed by NetworkPolicy shop/web-to-db, ingress rule 1 (from pods app=web of shop, port sql/TCP)\n"
    );
    assert_eq!((answer.status, answer.err.as_str()), (0, ""));
}

#[test]
fn explain_names_the_isolation_that_no_rule_opened_and_what_the_rules_lack() {
    let shop = folder(&[("shop.yaml", SHOP)]);
    let explain =
        ["explain", "--from", "shop/report", "--to", "shop/db", "--port", "sql", "--manifests", "."];
    let answer = margayctl(shop.path(), &explain);
    assert_eq!(
        answer.out,
        "denied: shop/report to shop/db on 5432/TCP\n  \
         egress   not isolated: no policy with Egress selects shop/report\n  \
         ingress  denied: shop/db is selected by NetworkPolicy shop/deny-all, NetworkPolicy shop/web-to-db, and no rule of theirs allows this\n             \
         NetworkPolicy shop/deny-all has no ingress rule\n             \
         NetworkPolicy shop/web-to-db, ingress rule 1 (from pods app=web of shop, port sql/TCP): the peer does not match\n"
    );
    assert_eq!(answer.status, 1);

    let answer = margayctl(shop.path(), &[&explain[..], &["-o", "json"]].concat());
    let json: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(json["allowed"], false);
    assert_eq!(json["verdicts"][0]["ingress"]["verdict"], "denied");
    assert_eq!(
        json["verdicts"][0]["ingress"]["isolated_by"],
        json!(["NetworkPolicy shop/deny-all", "NetworkPolicy shop/web-to-db"])
    );
    assert_eq!(answer.status, 1);
}

#[test]
fn explain_says_to_whom_policy_does_not_apply_and_of_whom_the_address_is_missing() {
    let shop = folder(&[(
        "shop.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {namespace: x, name: host}, spec: {hostNetwork: true, containers: []}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {namespace: x, name: done}, status: {phase: Succeeded, podIP: 10.0.0.1}}\n---\n\
         {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: x, name: p}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b}}\n",
    )]);
    let explain = |from: &str, to: &str| {
        let arguments = ["explain", "--from", from, "--to", to, "--port", "80", "--manifests", "."];
        margayctl(shop.path(), &arguments).out
    };
    let host = explain("x/a", "x/host");
    assert!(host.starts_with("allowed: "), "{host}");
    assert!(host.contains("ingress  x/host uses its node's network: no policy selects it\n"), "{host}");
    let done = explain("x/done", "x/b");
    assert!(done.contains("note: x/done has finished: it has no address any more"), "{done}");
    let unknown = explain("x/a", "x/b");
    assert!(
        unknown.contains(
            "note: x/a has no known address: 10.0.0.0/8 of NetworkPolicy x/p was taken not to match it"
        ),
        "{unknown}"
    );
    let known = explain("10.9.9.9", "x/b");
    assert!(known.starts_with("allowed: 10.9.9.9 to x/b on 80/TCP\n"), "{known}");
    assert!(known.contains("egress   10.9.9.9 is no pod: no policy selects it\n"), "{known}");
}

/// The shop with policies of the cluster before and behind its own, one of them in audit.
const CLUSTER: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 5
  subject: {namespaces: {}}
  ingress:
    - {action: Pass, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}
    - {name: strangers, action: Deny, from: [{namespaces: {}}]}
  egress:
    - {name: metadata, action: Deny, to: [{networks: [169.254.169.254/32]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: quiet, annotations: {margay.dev/enforcement: audit}}
spec:
  tier: Baseline
  priority: 9
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{networks: [203.0.113.0/24]}]}]
---
{apiVersion: v1, kind: Pod, metadata: {namespace: other, name: stranger}}
";

#[test]
fn explain_names_tier_rule_and_action_of_a_cluster_policy_and_what_one_in_audit_would_do() {
    let shop = folder(&[("shop.yaml", SHOP), ("cluster.yaml", CLUSTER)]);
    let explain = |from: &str, to: &str| {
        let arguments = ["explain", "--from", from, "--to", to, "--port", "5432", "--manifests", "."];
        margayctl(shop.path(), &arguments)
    };
    let denied = explain("shop/web", "169.254.169.254");
    assert_eq!(
        denied.out,
        "denied: shop/web to 169.254.169.254 on 5432/TCP\n  \
         egress   denied by ClusterNetworkPolicy guard (Admin, priority 5), egress rule 1 \"metadata\" (Deny to 169.254.169.254/32, all ports)\n  \
         ingress  169.254.169.254 is no pod: no policy selects it\n"
    );
    assert_eq!(denied.status, 1);
    let stranger = explain("other/stranger", "shop/db");
    assert!(
        stranger.out.contains(
            "ingress  denied by ClusterNetworkPolicy guard (Admin, priority 5), ingress rule 2 \"strangers\" (Deny from all pods of all namespaces, all ports)\n"
        ),
        "{}",
        stranger.out
    );
    let passed = explain("shop/web", "shop/db");
    assert!(
        passed.out.contains(
            "egress   not isolated: no ClusterNetworkPolicy accepts or denies this, and no NetworkPolicy with Egress selects shop/web\n  \
             ingress  allowed by NetworkPolicy shop/web-to-db, ingress rule 1"
        ),
        "{}",
        passed.out
    );
    let quiet = explain("shop/web", "203.0.113.9");
    assert!(quiet.out.starts_with("allowed: "), "{}", quiet.out);
    assert!(
        quiet.out.ends_with(
            "note: would deny: ClusterNetworkPolicy quiet (Baseline, priority 9), egress rule 1 (Deny to 203.0.113.0/24, all ports) is in audit\n"
        ),
        "{}",
        quiet.out
    );
    let matrix = margayctl(shop.path(), &["matrix", "-A", "--port", "5432", "--manifests", "."]);
    assert!(matrix.out.ends_with("in audit, not enforced: ClusterNetworkPolicy quiet\n"), "{}", matrix.out);
    assert!(matrix.out.contains("\nother/stranger"), "{}", matrix.out);
}

#[test]
fn an_isolation_in_audit_is_told_and_denies_nothing() {
    let objects = "{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b}}\n---\n\
         {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: x, name: p, annotations: {margay.dev/enforcement: audit}}, spec: {podSelector: {}}}";
    let here = folder(&[("a.yaml", objects)]);
    let explain = ["explain", "--from", "x/a", "--to", "x/b", "--port", "80", "--manifests", "."];
    let answer = margayctl(here.path(), &explain);
    assert_eq!(
        answer.out,
        "allowed: x/a to x/b on 80/TCP\n  egress   not isolated: no policy with Egress selects x/a\n  \
         ingress  not isolated: no policy with Ingress selects x/b\n  note: would deny: NetworkPolicy x/p is in audit\n"
    );
    let answer = margayctl(here.path(), &[&explain[..], &["-o", "json"]].concat());
    let json: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((&json["allowed"], &json["would_deny"]), (&json!(true), &json!(["NetworkPolicy x/p"])));
}

#[test]
fn an_allowance_that_depends_on_an_unknown_address_passes_no_test() {
    let objects = "{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b}}\n---\n\
         {apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: p}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]}}";
    let here = folder(&[
        ("k8s/a.yaml", objects),
        ("t.yaml", "cases: [{from: x/a, to: x/b, port: 80, expect: allow}]\n"),
    ]);
    let test = |network: &[&str]| {
        margayctl(here.path(), &[&["test", "t.yaml", "--manifests", "k8s"], network].concat())
    };
    let answer = test(&[]);
    assert_eq!(answer.status, 2, "{}", answer.out);
    assert!(
        answer.out.contains(
            "x/b has no known address: 10.0.0.0/8 of ClusterNetworkPolicy p was taken not to match it"
        ),
        "{}",
        answer.out
    );
    assert_eq!(test(&["--pod-cidr", "192.168.0.0/16"]).status, 0);
    assert_eq!(test(&["--pod-cidr", "10.244.0.0/16"]).status, 1);
}

#[test]
fn matrix_prints_who_may_reach_whom() {
    let shop = folder(&[("shop.yaml", SHOP)]);
    let answer = margayctl(shop.path(), &["matrix", "-n", "shop", "--port", "5432", "--manifests", "."]);
    assert_eq!(
        answer.out,
        "FROM \\ TO  db  report  web\n\
         db         -   -       -\n\
         report     -   -       -\n\
         web        +   -       -\n\n\
         + allowed   - denied\n"
    );
    assert_eq!(answer.status, 0);
    let answer = margayctl(shop.path(), &["matrix", "-A", "-o", "json", "--manifests", "."]);
    let json: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(json["groups"], json!([["shop/db"], ["shop/report"], ["shop/web"]]));
    assert_eq!(json["cells"][2], json!(["some", "denied", "denied"]));
}

const EXPECTATIONS: &str = "\
name: the shop
manifests: [../k8s]
cases:
  - {from: shop/web, to: shop/db, port: 5432, expect: allow, because: NetworkPolicy shop/web-to-db}
  - {name: <report> stays out, from: shop/report, to: shop/db, port: sql, expect: deny, because: NetworkPolicy shop/deny-all}
";

#[test]
fn test_passes_when_all_is_as_expected_and_writes_junit() {
    let shop = folder(&[("k8s/shop.yaml", SHOP), ("tests/shop.yaml", EXPECTATIONS)]);
    let answer = margayctl(shop.path(), &["test", "tests/shop.yaml", "--junit", "out.xml"]);
    assert_eq!(
        answer.out,
        "the shop\n  ok      shop/web to shop/db on 5432: allow\n  ok      <report> stays out\n\
         2 passed, 0 failed, 0 could not be judged\n"
    );
    assert_eq!((answer.status, answer.err.as_str()), (0, ""));
    assert_eq!(
        fs::read_to_string(shop.path().join("out.xml")).unwrap(),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"margayctl policy test\" tests=\"2\" failures=\"0\" errors=\"0\">\n  \
         <testsuite name=\"the shop\" tests=\"2\" failures=\"0\" errors=\"0\">\n    \
         <testcase classname=\"the shop\" name=\"shop/web to shop/db on 5432: allow\"/>\n    \
         <testcase classname=\"the shop\" name=\"&lt;report&gt; stays out\"/>\n  \
         </testsuite>\n\
         </testsuites>\n"
    );
}

#[test]
fn test_fails_with_the_explanation_and_status_1() {
    let wrong = "cases:\n  - {from: shop/report, to: shop/db, port: sql, expect: allow}\n  \
                 - {from: shop/web, to: shop/db, port: sql, expect: allow, because: NetworkPolicy shop/other}\n";
    let shop = folder(&[("k8s/shop.yaml", SHOP), ("t.yaml", wrong)]);
    let answer = margayctl(shop.path(), &["test", "t.yaml", "--manifests", "k8s", "--junit", "out.xml"]);
    assert_eq!(answer.status, 1);
    assert!(answer.out.starts_with(
        "t.yaml\n  FAILED  shop/report to shop/db on sql: allow\n          expected allow, but it is denied\n            \
         denied: shop/report to shop/db on 5432/TCP\n"
    ));
    assert!(
        answer.out.contains("expected allow because of NetworkPolicy shop/other, but it is allowed\n"),
        "{}",
        answer.out
    );
    assert!(answer.out.ends_with("0 passed, 2 failed, 0 could not be judged\n"), "{}", answer.out);
    let xml = fs::read_to_string(shop.path().join("out.xml")).unwrap();
    assert!(
        xml.contains("<failure message=\"expected allow, but it is denied\">denied: shop/report"),
        "{xml}"
    );
}

#[test]
fn a_denial_that_depends_on_an_unknown_address_passes_no_test() {
    let objects = "{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a}}\n---\n\
         {apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b}}\n---\n\
         {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: x, name: p}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}";
    let cases = "cases: [{from: x/a, to: x/b, port: 80, expect: deny}]\n";
    let here = folder(&[
        ("k8s/a.yaml", objects),
        ("t.yaml", cases),
        ("far.yaml", &format!("podCIDRs: [192.168.0.0/16]\n{cases}")),
    ]);
    let answer = margayctl(here.path(), &["test", "t.yaml", "--manifests", "k8s"]);
    assert!(
        answer.out.contains("whether it is denied depends on addresses that are not known"),
        "{}",
        answer.out
    );
    assert_eq!(answer.status, 2);
    let near = ["test", "t.yaml", "--manifests", "k8s", "--pod-cidr", "10.244.0.0/16"];
    assert_eq!(margayctl(here.path(), &near).status, 1);
    assert_eq!(margayctl(here.path(), &["test", "far.yaml", "--manifests", "k8s"]).status, 0);
}

#[test]
fn what_of_a_policy_cannot_be_read_fails_a_test_and_is_a_warning_elsewhere() {
    let odd = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: odd}, spec: {podSelector: {}, ingress: [{from: [{}]}]}}";
    let shop = folder(&[("k8s/a.yaml", SHOP), ("k8s/odd.yaml", odd), ("tests/shop.yaml", EXPECTATIONS)]);
    let problem = "k8s/odd.yaml:1: NetworkPolicy shop/odd: spec.ingress[0].from[0]: names no peer; give podSelector, namespaceSelector or ipBlock";
    let answer = margayctl(shop.path(), &["test", "tests/shop.yaml"]);
    assert_eq!(answer.status, 1);
    assert!(
        answer.out.contains(&format!("FAILED  the objects can be read\n          tests/../{problem}\n")),
        "{}",
        answer.out
    );
    let answer = margayctl(shop.path(), &["matrix", "-n", "shop", "--manifests", "k8s"]);
    assert_eq!((answer.status, answer.err), (0, format!("warning: {problem}\n")));
}

#[test]
fn what_cannot_be_answered_is_status_2_and_says_what_to_do() {
    let shop = folder(&[
        ("k8s/shop.yaml", SHOP),
        ("broken/a.yaml", "kind: Pod\nmetadata: {name: [}\n"),
        ("empty/readme.txt", ""),
        ("lost.yaml", "cases:\n  - {from: shop/nobody, to: shop/db, port: 80, expect: deny}\n"),
        ("typo.yaml", "cases:\n  - {from: shop/web, to: shop/db, port: 80, expected: deny}\n"),
        (
            "broken.yaml",
            "manifests: [broken]\ncases:\n  - {from: shop/web, to: shop/db, port: 80, expect: deny}\n",
        ),
    ]);
    let explain = |manifests, port| {
        vec!["explain", "--from", "shop/web", "--to", "shop/db", "--port", port, "--manifests", manifests]
    };
    for (arguments, expected) in [
        (explain("broken", "80"), "broken/a.yaml:2: "),
        (explain("empty", "80"), "read manifests empty: no .yaml, .yml or .json file is below it"),
        (explain("nowhere", "80"), "read manifests nowhere: No such file"),
        (explain("k8s", "http"), "shop/db has no port named `http`; it has sql (5432/TCP)"),
        (explain("k8s", "80/icmp"), "`ICMP` is not one of TCP, UDP, SCTP"),
        (
            vec!["test", "lost.yaml", "--manifests", "k8s"],
            "from: no pod shop/nobody; in namespace `shop` there are db, report, web",
        ),
        (vec!["test", "typo.yaml", "--manifests", "k8s"], "typo.yaml:2: "),
        (vec!["test", "typo.yaml", "--manifests", "k8s"], "expected"),
        (vec!["test", "broken.yaml"], "broken/a.yaml:2: "),
        (vec!["matrix", "-n", "shop", "--kubeconfig", "nowhere"], "read kubeconfig nowhere"),
        (vec!["matrix", "--manifests", "k8s"], "--namespace <NAMESPACE>"),
    ] {
        let answer = margayctl(shop.path(), &arguments);
        let said = answer.err + &answer.out;
        assert_eq!(answer.status, 2, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// A stranger reads them before anything else: what their comments say must be so.
#[test]
fn every_example_policy_does_what_its_expectations_say() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(examples.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.extension().is_some_and(|end| end == "yaml"));
        let mut names: Vec<String> =
            files.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let has_policy =
        |name: &String| fs::read_to_string(examples.join(name)).unwrap().contains("kind: NetworkPolicy");
    let mut policies = names("recipes");
    policies.extend(names("cluster"));
    policies.extend(names(".").into_iter().filter(|name| has_policy(name)));
    policies.sort();
    let tests = names("tests");
    assert_eq!(policies, tests);
    let files = tests.iter().map(|name| format!("tests/{name}")).collect::<Vec<_>>();
    let arguments: Vec<&str> = std::iter::once("test").chain(files.iter().map(String::as_str)).collect();
    let answer = margayctl(&examples, &arguments);
    assert_eq!(answer.status, 0, "{}{}", answer.out, answer.err);
}

#[tokio::test]
async fn the_three_ask_a_cluster_where_no_manifests_are_given() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = ApiServer::new();
    let pod = |name: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
               "spec": {"containers": [{"name": "c", "image": "c"}]}, "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}})
    };
    let open = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "open"},
                      "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
                               "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}]}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let denied = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "nodes"},
                        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                                 "egress": [{"action": "Deny", "to": [{"nodes": {"matchLabels": {"rack": "r1"}}}]}]}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"rack": "r1"}},
                      "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    for object in
        [namespace, node, pod("web", "10.0.0.1"), pod("db", "10.0.0.2"), pod("other", "10.0.0.3"), open]
    {
        api.put_raw(object).unwrap();
    }
    let server = api.clone();
    let serving = tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "users": [{"name": "lab", "user": {}}],
    });
    let expectations = "cases:\n  - {from: shop/other, to: shop/db, port: 80, expect: deny}\n";
    let here = folder(&[("config", &config.to_string()), ("t.yaml", expectations)]);
    let path = here.path().to_owned();
    let [explain, matrix, test] = tokio::task::spawn_blocking(move || {
        let explain =
            ["explain", "--from", "shop/web", "--to", "shop/db", "--port", "80", "--kubeconfig", "config"];
        [
            margayctl(&path, &explain),
            margayctl(&path, &["matrix", "-n", "shop", "--kubeconfig", "config"]),
            margayctl(&path, &["test", "t.yaml", "--kubeconfig", "config"]),
        ]
    })
    .await
    .unwrap();
    let path = here.path().to_owned();
    // So far the kind was not installed.
    api.put_raw(cluster_network_policies()).unwrap();
    api.put_raw(denied).unwrap();
    let to_node = tokio::task::spawn_blocking(move || {
        margayctl(
            &path,
            &["explain", "--from", "shop/web", "--to", "192.0.2.1", "--port", "80", "--kubeconfig", "config"],
        )
    });
    let to_node = to_node.await.unwrap();
    serving.abort();
    assert!(
        to_node.out.contains("egress   denied by ClusterNetworkPolicy nodes (Admin"),
        "{}{}",
        to_node.out,
        to_node.err
    );
    assert!(
        explain.out.starts_with("allowed: shop/web to shop/db on 80/TCP\n"),
        "{}{}",
        explain.out,
        explain.err
    );
    assert!(matrix.out.starts_with("FROM \\ TO  db  other  web\ndb         .   +      +\nother      -   .      +\nweb        +   +      .\n"), "{}", matrix.out);
    assert_eq!((explain.status, matrix.status, test.status), (0, 0, 0), "{}", test.out);
}
