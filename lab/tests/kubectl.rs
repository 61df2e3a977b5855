//! Stock kubectl against the in-memory API server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use margay_lab::apiserver::ApiServer;
use serde_json::{Value, json};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

const DEADLINE: Duration = Duration::from_secs(30);

struct Cluster {
    api: ApiServer,
    home: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Cluster {
    async fn new() -> Self {
        let api = ApiServer::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let home = tempfile::tempdir().unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": {}}],
        });
        std::fs::write(home.path().join("config"), config.to_string()).unwrap();
        let server = api.clone();
        let serving =
            tokio::spawn(async move { server.serve(listener, std::future::pending()).await.unwrap() });
        Self { api, home, serving }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .args(arguments.split('|').flat_map(split))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &str, input: &str) -> Output {
        let mut child = self.command(arguments).spawn().unwrap_or_else(|error| {
            panic!("run kubectl: {error}; these tests need the kubectl binary in PATH")
        });
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("kubectl {arguments} did not end"))
            .unwrap()
    }

    /// What kubectl prints; it must succeed.
    async fn ok(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "kubectl {arguments}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kubectl complains about; it must fail.
    async fn fails(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(!output.status.success(), "kubectl {arguments} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    async fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{arguments} -o json"), "").await).unwrap()
    }

    fn start(&self, arguments: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut child = self.command(arguments).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }
}

/// Words, of which those in single quotes may hold spaces.
fn split(arguments: &str) -> Vec<String> {
    let pieces = arguments.split('\'').enumerate();
    pieces
        .flat_map(|(index, piece)| match index % 2 {
            0 => piece.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>(),
            _ => vec![piece.to_owned()],
        })
        .collect()
}

async fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, words: &[&str]) -> String {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if words.iter().all(|w| line.contains(w)) {
                return line;
            }
        }
        panic!("the watch ended before {words:?}")
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("no line with {words:?}"))
}

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 80}]
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p1, labels: {app: web}}
spec:
  containers: [{name: c, image: 'nginx:1', ports: [{containerPort: 80}]}]
";

const BOUND: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p1, labels: {app: web}}
spec:
  nodeName: n1
  containers: [{name: c, image: 'nginx:1'}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_network_policy_is_applied_edited_and_deleted() {
    let c = Cluster::new().await;
    assert_eq!(c.ok("apply -f -", POLICY).await.trim(), "networkpolicy.networking.k8s.io/web created");
    let stored = c.json("get netpol web").await;
    assert_eq!(stored["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(stored["spec"]["ingress"][0]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
    assert_eq!(stored["metadata"]["generation"], 1);

    let again = c.ok("apply -f -", POLICY).await;
    assert!(again.contains("configured") || again.contains("unchanged"), "{again}");
    assert_eq!(
        c.json("get netpol web").await["metadata"]["resourceVersion"],
        stored["metadata"]["resourceVersion"]
    );

    c.ok("apply -f -", &POLICY.replace("port: 80", "port: 8080")).await;
    let mut edit = c.command("edit netpol web");
    edit.env("KUBE_EDITOR", "sed -i s/8080/9090/");
    let edited = tokio::time::timeout(DEADLINE, edit.output()).await.unwrap().unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    let stored = c.json("get networkpolicies web").await;
    assert_eq!(stored["spec"]["ingress"][0]["ports"][0]["port"], 9090);
    assert_eq!(stored["metadata"]["generation"], 3);

    let table = c.ok("get netpol", "").await;
    assert!(table.contains("POD-SELECTOR") && table.contains("app=web"), "{table}");
    assert!(c.ok("describe netpol web", "").await.contains("To Port: 9090/TCP"));
    c.ok("delete netpol web", "").await;
    assert!(c.fails("get netpol web", "").await.contains("(NotFound)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_policies_and_unknown_fields_are_refused() {
    let c = Cluster::new().await;
    let invalid =
        POLICY.replace("{port: 80}", "{port: 80, endPort: 70}").replace("name: web}", "name: -bad}");
    let message = c.fails("apply -f -", &invalid).await;
    assert!(
        message.contains("spec.ingress[0].ports[0].endPort") && message.contains("metadata.name"),
        "{message}"
    );
    let unknown = POLICY.replace("  podSelector: {matchLabels: {app: web}}", "  podSelecter: {}");
    let message = c.fails("apply -f -", &unknown).await;
    assert!(message.contains("unknown field \"spec.podSelecter\""), "{message}");
    let wrong = POLICY.replace("ports: [{port: 80}]", "ports: 80");
    assert!(c.fails("apply --validate=false -f -", &wrong).await.contains("BadRequest"));
    assert!(c.fails("-n nowhere apply -f -", POLICY).await.contains("namespaces \"nowhere\" not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_created_watched_described_and_deleted() {
    let c = Cluster::new().await;
    c.ok(
        "apply -f -",
        "---\n{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 192.0.2.0/24}}",
    )
    .await;
    let (mut watch, mut lines) = c.start("get pods -w -o wide");
    c.ok("create -f -", BOUND).await;
    line_with(&mut lines, &["p1", "Pending", "n1"]).await;
    let status = "patch pod p1 --subresource=status -p \
        '{\"status\":{\"phase\":\"Running\",\"podIP\":\"192.0.2.5\",\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}'";
    c.ok(status, "").await;
    line_with(&mut lines, &["p1", "Running", "192.0.2.5"]).await;
    c.ok("wait --for=condition=Ready pod/p1 --timeout=20s", "").await;
    assert!(c.ok("describe pod p1", "").await.contains("Status:           Running"));
    assert!(c.ok("describe node n1", "").await.contains("default                     p1"));

    c.ok("label pod p1 tier=front", "").await;
    c.ok("annotate pod p1 note=x", "").await;
    let selected = c.ok("get pods -l tier=front,app!=db --field-selector spec.nodeName=n1 -o name", "").await;
    assert_eq!(selected, "pod/p1\n");
    assert_eq!(c.ok("get pods -l tier=back -o name", "").await, "");

    // A bound pod waits for its kubelet, which deletes it for good.
    let (mut waiting, _output) = c.start("delete pod p1");
    line_with(&mut lines, &["p1", "Terminating"]).await;
    c.ok("delete pod p1 --grace-period=0 --force", "").await;
    assert!(tokio::time::timeout(DEADLINE, waiting.wait()).await.unwrap().unwrap().success());
    assert!(c.api.find("v1", "Pod", "default", "p1").is_none());
    watch.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_every_form_are_taken() {
    let c = Cluster::new().await;
    c.ok("apply -f -", POD).await;
    c.ok("patch pod p1 -p '{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"nginx:2\"}]}}'", "").await;
    c.ok("patch pod p1 --type=merge -p '{\"metadata\":{\"labels\":{\"app\":null,\"m\":\"1\"}}}'", "").await;
    c.ok(
        "patch pod p1 --type=json -p '[{\"op\":\"add\",\"path\":\"/metadata/labels/j\",\"value\":\"1\"}]'",
        "",
    )
    .await;
    let pod = c.json("get pod p1").await;
    assert_eq!(pod["metadata"]["labels"], json!({"m": "1", "j": "1"}));
    assert_eq!(pod["spec"]["containers"][0]["image"], "nginx:2");
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
    let refused = c.fails("patch pod p1 -p '{\"spec\":{\"dnsPolicy\":\"Default\"}}'", "").await;
    assert!(refused.contains("pod updates may not change fields"), "{refused}");

    c.ok("apply --server-side -f -", POLICY).await;
    let other = POLICY.replace("port: 80", "port: 81");
    assert!(c.fails("apply --server-side --field-manager=other -f -", &other).await.contains("1 conflict"));
    c.ok("apply --server-side --field-manager=other --force-conflicts -f -", &other).await;
    let dry = c.ok("apply --dry-run=server -f - -o json", &POLICY.replace("name: web", "name: dry")).await;
    assert!(dry.contains("uid"), "{dry}");
    assert!(c.api.find("networking.k8s.io/v1", "NetworkPolicy", "default", "dry").is_none());

    let current = c.ok("get netpol web -o json", "").await;
    c.ok("label netpol web a=b", "").await;
    assert!(c.fails("replace -f -", &current).await.contains("Conflict"));
    assert!(c.fails("create -f -", POLICY).await.contains("AlreadyExists"));
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_served_once_defined() {
    let c = Cluster::new().await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pools.margay.dev"},
        "spec": {
            "group": "margay.dev", "scope": "Cluster", "names": {"plural": "pools", "kind": "Pool", "shortNames": ["pl"]},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "CIDR", "type": "string", "jsonPath": ".spec.cidr"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["cidr"], "properties": {
                        "cidr": {"type": "string", "pattern": "^[0-9./]+$"},
                        "size": {"type": "integer", "default": 26, "maximum": 32},
                    }},
                    "status": {"type": "object", "properties": {"used": {"type": "integer"}}},
                }}},
            }],
        },
    });
    c.ok("apply -f -", &definition.to_string()).await;
    c.ok("wait --for=condition=Established crd/pools.margay.dev --timeout=20s", "").await;
    let pool =
        "---\n{apiVersion: margay.dev/v1alpha1, kind: Pool, metadata: {name: a}, spec: {cidr: 192.0.2.0/24}}";
    c.ok("apply -f -", pool).await;
    c.ok("apply -f -", &pool.replace("0/24", "0/25")).await;
    let stored = c.json("get pl a").await;
    assert_eq!(stored["spec"], json!({"cidr": "192.0.2.0/25", "size": 26}));
    assert_eq!(stored["metadata"]["generation"], 2);
    assert!(c.ok("get pools", "").await.contains("CIDR"));
    let status =
        "patch pool a --subresource=status --type=merge -p '{\"status\":{\"used\":3},\"spec\":{\"size\":1}}'";
    c.ok(status, "").await;
    let stored = c.json("get pool a").await;
    assert_eq!((&stored["status"]["used"], &stored["spec"]["size"]), (&json!(3), &json!(26)));
    let invalid = pool.replace("192.0.2.0/24", "all").replace("name: a", "name: b");
    assert!(c.fails("apply -f -", &invalid).await.contains("spec.cidr"));
    assert!(c.fails("apply -f -", &pool.replace("spec: {", "spec: {x: 1, ")).await.contains("unknown field"));
    assert!(c.ok("api-resources --api-group=margay.dev", "").await.contains("Pool"));
    c.ok("delete crd pools.margay.dev", "").await;
    c.fails("get pools", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_when_its_last_pod_does() {
    let c = Cluster::new().await;
    c.ok("create namespace team", "").await;
    c.ok("-n team apply -f -", BOUND).await;
    c.ok("-n team apply -f -", POLICY).await;
    c.ok("delete namespace team --wait=false", "").await;
    let pod = c.json("-n team get pod p1").await;
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    assert!(c.ok("get namespaces", "").await.contains("Terminating"));
    assert!(c.fails("-n team create -f -", POLICY).await.contains("being terminated"));
    c.ok("-n team delete pod p1 --grace-period=0 --force", "").await;
    assert!(c.api.find("v1", "Namespace", "", "team").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_services_and_imperative_commands_work() {
    let c = Cluster::new().await;
    let resources = c.ok("api-resources", "").await;
    for name in ["networkpolicies", "customresourcedefinitions", "daemonsets", "leases", "endpointslices"] {
        assert!(resources.contains(name), "{resources}");
    }
    assert!(c.ok("version", "").await.contains("Server Version: v1.32"));
    c.ok("create configmap cm --from-literal=a=b", "").await;
    assert_eq!(c.json("get cm cm").await["data"], json!({"a": "b"}));
    c.ok("create secret generic s --from-literal=a=b", "").await;
    assert_eq!(c.json("get secret s").await["data"], json!({"a": "Yg=="}));
    c.ok("create deployment d --image=nginx:1 --port=80 --replicas=2", "").await;
    let deployment = c.json("get deployment d").await;
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
    c.ok("expose deployment d --port=80 --target-port=8080", "").await;
    let service = c.json("get svc d").await;
    assert!(service["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."), "{service}");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 8080);
    assert_eq!(c.ok("auth can-i create pods", "").await.trim(), "yes");
    c.ok("run one --image=nginx:1", "").await;
    assert!(c.ok("get all", "").await.contains("pod/one"));
    c.ok("delete pod,svc,deploy --all", "").await;
    assert!(c.api.list("v1", "Pod").is_empty());
}
