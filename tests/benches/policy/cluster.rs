//! The objects of a cluster of any size, made of namespaces that are all alike.
//!
//! A namespace has ten apps with ten pods and one policy each. Policies name apps of their own namespace, all of their tenant, which has one
//! namespace, apps of other teams' namespaces, blocks of addresses, the name server and the monitoring; ports by number, range and name.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Apps of a namespace, pods of an app.
pub(crate) const APPS: usize = 10;
pub(crate) const REPLICAS: usize = 10;
/// The node that is measured.
pub(crate) const NODE: &str = "n1";
/// Where the pods of that node have their addresses.
pub(crate) const POD_CIDR: &str = "10.202.0.0/23";

/// A pod by its place: namespace, app, replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) namespace: usize,
    pub(crate) app: usize,
    pub(crate) replica: usize,
}

impl Place {
    pub(crate) fn name(self) -> String {
        format!("a{}-{}", self.app, self.replica)
    }

    /// On another node; addresses tell the namespaces apart.
    pub(crate) fn remote_address(self) -> Ipv4Addr {
        let [namespace, pod] = [self.namespace, self.app * REPLICAS + self.replica + 1];
        Ipv4Addr::new(10, 64, u8::try_from(namespace).unwrap(), u8::try_from(pod).unwrap())
    }

    /// Its object, with the address of its interface.
    pub(crate) fn object(self, node: &str, address: Option<&str>) -> Value {
        let tier = ["front", "back", "monitoring"][self.replica % 3];
        let ports = [("http", 8080), ("metrics", 9100)]
            .map(|(name, port)| json!({"name": name, "containerPort": port + self.app}));
        let status = address.map_or_else(
            || json!({"phase": "Pending"}),
            |address| json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}),
        );
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": namespace_name(self.namespace), "name": self.name(),
                "labels": {"app": app_label(self.app), "tier": tier, "pod-template-hash": format!("{:x}", self.app * 7919)},
            },
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "registry.example/app:1", "ports": ports}]},
            "status": status,
        })
    }
}

pub(crate) fn namespace_name(number: usize) -> String {
    format!("ns{number}")
}

pub(crate) fn app_label(number: usize) -> String {
    format!("app{}", number % APPS)
}

pub(crate) fn team_label(number: usize) -> String {
    format!("team{}", number % 10)
}

/// Of one namespace alone.
pub(crate) fn tenant_label(number: usize) -> String {
    format!("tenant{number}")
}

pub(crate) fn namespace(number: usize) -> Value {
    let labels = json!({"team": team_label(number), "tenant": tenant_label(number)});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_name(number), "labels": labels}})
}

/// The policy of an app.
pub(crate) fn policy(namespace: usize, app: usize) -> Value {
    let selector = |key: &str, value: String| json!({"matchLabels": {key: value}});
    let mut ingress = vec![json!({
        "from": [{"podSelector": selector("app", app_label(app + 1))}],
        "ports": [{"protocol": "TCP", "port": 8000 + app}],
    })];
    let mut spec = json!({"podSelector": selector("app", app_label(app)), "policyTypes": ["Ingress"]});
    match app % 5 {
        0 => ingress.push(json!({
            "from": [{
                "namespaceSelector": selector("team", team_label(namespace + 1)),
                "podSelector": selector("app", app_label(app + 2)),
            }],
            "ports": [{"protocol": "TCP", "port": "http"}],
        })),
        1 => ingress.push(json!({
            "from": [
                {"ipBlock": {"cidr": "172.16.0.0/12", "except": [format!("172.{}.0.0/16", 16 + app)]}},
                {"ipBlock": {"cidr": format!("198.51.{namespace}.0/24")}},
                {"namespaceSelector": selector("tenant", tenant_label(namespace))},
            ],
            "ports": [{"protocol": "TCP", "port": 443}],
        })),
        2 => ingress.push(json!({
            "from": [{"namespaceSelector": {"matchExpressions": [
                {"key": "team", "operator": "In", "values": [team_label(namespace), team_label(namespace + 1)]},
            ]}}],
            "ports": [{"protocol": "TCP", "port": 9000, "endPort": 9010}],
        })),
        3 => {
            spec["policyTypes"] = json!(["Ingress", "Egress"]);
            spec["egress"] = json!([
                {
                    "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}],
                    "ports": [{"protocol": "TCP", "port": 443}],
                },
                {
                    "to": [{"namespaceSelector": selector("kubernetes.io/metadata.name", "kube-system".into())}],
                    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
                },
                {"to": [{"podSelector": selector("app", app_label(app + 3))}]},
            ]);
        }
        _ => ingress.push(json!({
            "from": [{"namespaceSelector": {}, "podSelector": selector("tier", "monitoring".into())}],
            "ports": [{"protocol": "TCP", "port": "metrics"}],
        })),
    }
    spec["ingress"] = Value::Array(ingress);
    let metadata = json!({"namespace": namespace_name(namespace), "name": app_label(app)});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

/// All pods of so many namespaces.
pub(crate) fn places(namespaces: usize) -> impl Iterator<Item = Place> {
    let of_app = |namespace, app| (0..REPLICAS).map(move |replica| Place { namespace, app, replica });
    (0..namespaces).flat_map(move |namespace| (0..APPS).flat_map(move |app| of_app(namespace, app)))
}
