//! The objects of a cluster of 5,000 nodes and 150,000 pods, as the server stores them and as clients see them.
//!
//! Stored is what tells them apart; [`write`] adds what a real cluster's have besides: environment, volumes, probes,
//! tolerations, conditions, managed fields, and of nodes their images. A pod is some 9.5 kB so, a node 10.

use std::{fmt::Write as _, net::Ipv4Addr, sync::LazyLock};

use serde_json::{Value, json};

pub(crate) const NODES: u32 = 5_000;
/// Of each node.
pub(crate) const PODS: u32 = 30;
pub(crate) const NAMESPACES: u32 = 125;
/// Of each namespace.
const APPS: u32 = 24;
/// Of each namespace, for the first of its apps.
pub(crate) const POLICIES: u32 = 8;
/// In this app of a few namespaces there is what looks at all others.
const MONITORING: u32 = 23;
/// The node that is measured, and those that reflect routes.
pub(crate) const OWN: u32 = 0;
pub(crate) const REFLECTORS: [u32; 2] = [1, 2];

/// A pod by its number: its round among those of its node, and its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) number: u32,
}

impl Pod {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..NODES * PODS).map(|number| Self { number })
    }

    /// One of each node in each round; another shift in each, so that a node has pods of all kinds.
    pub(crate) fn node(self) -> u32 {
        (self.number + self.number / NODES * 37) % NODES
    }

    pub(crate) fn namespace(self) -> u32 {
        self.number % NAMESPACES
    }

    pub(crate) fn app(self) -> u32 {
        self.number / NAMESPACES % APPS
    }

    pub(crate) fn name(self) -> String {
        let set = self.namespace() * APPS + self.app();
        format!(
            "{}-{:09x}-{:05x}",
            app_name(self.app()),
            u64::from(set) * 7_919_000_007 % 0xf_ffff_ffff,
            self.number
        )
    }

    /// In the network of its node.
    pub(crate) fn address(self) -> Ipv4Addr {
        let round = self.number / NODES;
        Ipv4Addr::from(u32::from(pod_network(self.node())) + 2 + round)
    }
}

/// What a pod is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has no node yet.
    Created,
    Bound,
    Running(Ipv4Addr),
    /// Its deletion has begun.
    Ending(Ipv4Addr),
}

/// A pod of an app, on a node.
pub(crate) fn pod(namespace: u32, app: u32, name: &str, node: u32, phase: Phase) -> Value {
    let tier = match app {
        MONITORING if namespace < 5 => "monitoring",
        _ => ["front", "back", "batch"][app as usize % 3],
    };
    let mut metadata = json!({
        "namespace": namespace_name(namespace), "name": name, "creationTimestamp": "2026-11-22T04:00:00Z",
        "labels": {
            "app.kubernetes.io/name": app_name(app), "app.kubernetes.io/instance": format!("{}-{}", app_name(app), namespace),
            "app": app_name(app), "tier": tier, "version": "v1.42.0", "pod-template-hash": format!("{:09x}", app * 7919),
        },
    });
    if let Phase::Ending(_) = phase {
        metadata["deletionTimestamp"] = json!("2026-11-22T04:30:00Z");
    }
    let mut spec = json!({"containers": [{"name": "main", "ports": [
        {"name": "http", "containerPort": 8080 + app, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9100, "protocol": "TCP"},
    ]}]});
    if phase != Phase::Created {
        spec["nodeName"] = node_name(node).into();
    }
    let status = match phase {
        Phase::Created | Phase::Bound => json!({"phase": "Pending"}),
        Phase::Running(address) | Phase::Ending(address) => {
            json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]})
        }
    };
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
}

pub(crate) fn app_name(app: u32) -> String {
    format!("service-{app:02}")
}

pub(crate) fn namespace_name(number: u32) -> String {
    format!("team-{}-space-{number:03}", number % 10)
}

fn team_label(number: u32) -> String {
    format!("team-{}", number % 10)
}

pub(crate) fn namespace(number: u32) -> Value {
    let labels = json!({"team": team_label(number), "kubernetes.io/metadata.name": namespace_name(number)});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace_name(number), "labels": labels}})
}

/// The policy of an app.
pub(crate) fn policy(namespace: u32, app: u32, port: u16) -> Value {
    let selector = |key: &str, value: String| json!({"matchLabels": {key: value}});
    let mut spec = json!({"podSelector": selector("app", app_name(app)), "policyTypes": ["Ingress"]});
    let mut ingress = vec![json!({
        "from": [{"podSelector": selector("app", app_name(app + 1))}, {"podSelector": selector("tier", "batch".into())}],
        "ports": [{"protocol": "TCP", "port": port}],
    })];
    match app % 4 {
        0 => ingress.push(json!({
            "from": [{
                "namespaceSelector": selector("team", team_label(namespace + 1)),
                "podSelector": selector("app", app_name(app + 2)),
            }],
            "ports": [{"protocol": "TCP", "port": "http"}],
        })),
        1 => ingress.push(json!({
            "from": [{"ipBlock": {"cidr": "172.16.0.0/12", "except": [format!("172.{}.0.0/16", 16 + app)]}}],
            "ports": [{"protocol": "TCP", "port": 443}],
        })),
        2 => {
            spec["policyTypes"] = json!(["Ingress", "Egress"]);
            spec["egress"] = json!([
                {
                    "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}],
                    "ports": [{"protocol": "TCP", "port": 443}],
                },
                {"to": [{"podSelector": selector("tier", "back".into())}]},
            ]);
        }
        _ => {}
    }
    ingress.push(json!({
        "from": [{"namespaceSelector": {}, "podSelector": selector("tier", "monitoring".into())}],
        "ports": [{"protocol": "TCP", "port": "metrics"}],
    }));
    spec["ingress"] = Value::Array(ingress);
    let metadata = json!({"namespace": namespace_name(namespace), "name": app_name(app)});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

pub(crate) fn node_name(number: u32) -> String {
    format!("node-{number:04}.pool-{}.example", number % 8)
}

/// Where others reach it; all are on one link.
pub(crate) fn node_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 10)) + number)
}

/// The first address of its /24.
pub(crate) fn pod_network(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 192, 0, 0)) + number * 256)
}

/// A node at its so many-th report that it lives.
pub(crate) fn node(number: u32, report: u32) -> Value {
    let name = node_name(number);
    let mut labels = json!({
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": "north", "topology.kubernetes.io/zone": format!("north-{}", number % 3),
        "node.kubernetes.io/instance-type": "m7.4xlarge",
    });
    if REFLECTORS.contains(&number) {
        labels["margay.dev/route-reflector"] = json!("1");
    }
    let at = format!("2026-11-22T{:02}:{:02}:{:02}Z", report / 3600 % 24, report / 60 % 60, report % 60);
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": format!("{}/24", pod_network(number)), "podCIDRs": [format!("{}/24", pod_network(number))]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": node_address(number)}, {"type": "Hostname", "address": name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": at}],
        },
    })
}

/// An object with all that a real one has; `None` for kinds that are stored so.
pub(crate) fn write(stored: &Value) -> Option<String> {
    // What has got annotations has them from those who are measured, and is among the few that are stored whole.
    if !stored["metadata"]["annotations"].is_null() {
        return None;
    }
    let [metadata, spec, status] = match stored["kind"].as_str()? {
        "Pod" => &*POD_REST,
        "Node" => &*NODE_REST,
        _ => return None,
    };
    let mut text = String::with_capacity(16 << 10);
    let kind = &stored["kind"];
    write!(text, "{{\"kind\":{kind},\"apiVersion\":\"v1\"").ok()?;
    for (field, rest) in [("metadata", metadata), ("spec", spec), ("status", status)] {
        write!(text, ",\"{field}\":{}", stored[field]).ok()?;
        // Both are objects that are not empty: the second goes on where the first would end.
        text.pop();
        text.push(',');
        text.push_str(&rest[1..]);
    }
    text.push('}');
    Some(text)
}

/// Of pods' metadata, spec and status, what is not stored.
static POD_REST: LazyLock<[String; 3]> = LazyLock::new(|| {
    let fields = |names: &[&str]| -> Value {
        let fields = names.iter().map(|name| (format!("f:{name}"), json!({})));
        Value::Object(fields.collect())
    };
    let managed = |manager: &str, subresource: &str, fields: Value| {
        json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-11-22T04:00:00Z",
               "fieldsType": "FieldsV1", "subresource": subresource, "fieldsV1": fields})
    };
    let env: Vec<Value> = (0..18)
        .map(|number| match number % 3 {
            0 => json!({"name": format!("SETTING_{number}"), "value": format!("https://backend-{number}.example:8443/path")}),
            1 => json!({"name": format!("SECRET_{number}"), "valueFrom": {"secretKeyRef": {"name": "credentials", "key": format!("key-{number}")}}}),
            _ => json!({"name": format!("FIELD_{number}"), "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}),
        })
        .collect();
    let env_fields = (0..18).map(|number| {
        (format!("k:{{\"name\":\"SETTING_{number}\"}}"), json!({".": {}, "f:name": {}, "f:value": {}}))
    });
    let env_fields = Value::Object(env_fields.collect());
    let metadata = json!({
        "generateName": "service-6d5f8c9b7d-",
        "annotations": {
            "checksum/config": "5f2c9a1d7be3", "kubectl.kubernetes.io/restartedAt": "2026-11-20T09:14:00Z",
            "prometheus.io/scrape": "true", "prometheus.io/port": "9100",
        },
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "service-6d5f8c9b7d", "uid": "5b1ec4c0-7f4e-4f3a-9a53-2f3c5a0c8f11",
                             "controller": true, "blockOwnerDeletion": true}],
        "managedFields": [
            managed("kube-controller-manager", "", json!({
                "f:metadata": {"f:annotations": fields(&["checksum/config", "prometheus.io/scrape", "prometheus.io/port"]), "f:generateName": {},
                               "f:labels": fields(&["app", "tier", "version", "pod-template-hash", "app.kubernetes.io/name", "app.kubernetes.io/instance"]),
                               "f:ownerReferences": {".": {}, "k:{\"uid\":\"5b1ec4c0-7f4e-4f3a-9a53-2f3c5a0c8f11\"}": {}}},
                "f:spec": {"f:affinity": {".": {}, "f:podAntiAffinity": {}}, "f:containers": {"k:{\"name\":\"main\"}": {".": {}, "f:env": env_fields,
                           "f:image": {}, "f:imagePullPolicy": {}, "f:livenessProbe": fields(&["failureThreshold", "httpGet", "periodSeconds", "timeoutSeconds"]),
                           "f:readinessProbe": fields(&["failureThreshold", "httpGet", "periodSeconds", "timeoutSeconds"]), "f:resources": fields(&["limits", "requests"]),
                           "f:securityContext": fields(&["allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"]), "f:volumeMounts": {}}},
                           "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                           "f:serviceAccount": {}, "f:terminationGracePeriodSeconds": {}, "f:topologySpreadConstraints": {}, "f:volumes": {}},
            })),
            managed("kubelet", "status", json!({"f:status": {
                "f:conditions": {"k:{\"type\":\"ContainersReady\"}": fields(&["lastProbeTime", "lastTransitionTime", "status", "type"]),
                                 "k:{\"type\":\"Initialized\"}": fields(&["lastProbeTime", "lastTransitionTime", "status", "type"]),
                                 "k:{\"type\":\"Ready\"}": fields(&["lastProbeTime", "lastTransitionTime", "status", "type"])},
                "f:containerStatuses": {}, "f:hostIP": {}, "f:phase": {}, "f:podIP": {}, "f:podIPs": {".": {}}, "f:startTime": {}}})),
        ],
    });
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "initialDelaySeconds": 5, "timeoutSeconds": 1,
                       "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    let sidecar = json!({
        "name": "proxy", "image": "registry.example/mesh/proxy:1.24.1@sha256:0f3e9d1c2b4a5968778695a4b3c2d1e0f3e9d1c2b4a5968778695a4b3c2d1e0f",
        "command": ["/bin/proxy", "--config", "/etc/proxy/config.yaml"], "env": env, "livenessProbe": probe, "readinessProbe": probe,
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "250m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/proxy"}, {"name": "tmp", "mountPath": "/tmp"},
                         {"name": "kube-api-access-x7k2p", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
        "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false},
    });
    let spec = json!({
        "initContainers": [sidecar],
        "volumes": [
            {"name": "config", "configMap": {"name": "service-config", "defaultMode": 420}}, {"name": "tmp", "emptyDir": {}},
            {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}},
        ],
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "service",
        "serviceAccount": "service", "securityContext": {"runAsUser": 1000, "fsGroup": 1000}, "schedulerName": "default-scheduler",
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
            "labelSelector": {"matchLabels": {"app": "service"}}, "topologyKey": "kubernetes.io/hostname"}}]}},
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
                                       "labelSelector": {"matchLabels": {"app": "service"}}}],
    });
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-22T04:00:09Z"});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(condition);
    let container = |name: &str| {
        json!({
            "name": name, "state": {"running": {"startedAt": "2026-11-22T04:00:07Z"}}, "lastState": {}, "ready": true, "restartCount": 0,
            "image": "registry.example/service:1.42.0", "imageID": "registry.example/service@sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730",
            "containerID": "containerd://4c01db0b339c5d4a6f3ac4a7a54dba8ab1d9f6d5b3f1a30bfa4d53d3f45d9e0a", "started": true,
        })
    };
    let status = json!({
        "conditions": conditions,
        "hostIP": "10.128.0.10", "hostIPs": [{"ip": "10.128.0.10"}], "startTime": "2026-11-22T04:00:01Z", "qosClass": "Burstable",
        "initContainerStatuses": [container("proxy")], "containerStatuses": [container("main")],
    });
    [metadata, spec, status].map(|rest| rest.to_string())
});

/// The same of nodes.
static NODE_REST: LazyLock<[String; 3]> = LazyLock::new(|| {
    let images: Vec<Value> = (0..50_u64)
        .map(|number| {
            let names = [
                format!("registry.example/service-{number}@sha256:{:064x}", number * 0x1234_5678_9abc_def1),
                format!("registry.example/service-{number}:1.{number}.0"),
            ];
            json!({"names": names, "sizeBytes": 48_233_115 + number})
        })
        .collect();
    let metadata = json!({
        "annotations": {"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": "2026-11-22T04:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:status": {"f:allocatable": {"f:memory": {}}, "f:conditions": {"k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}}}, "f:images": {}}}}],
    });
    let spec = json!({"providerID": "example:///north-1/i-0123456789abcdef0"});
    let resources = json!({"cpu": "16", "ephemeral-storage": "209702892Ki", "memory": "64Gi", "pods": "110"});
    let status = json!({
        "capacity": resources, "allocatable": resources, "images": images, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {"machineID": "b81db2f4e6f24a6ab6b7d3b0a4a1b6b5", "kernelVersion": "6.18.0", "osImage": "Debian GNU/Linux 13 (trixie)",
                     "containerRuntimeVersion": "containerd://2.3.0", "kubeletVersion": "v1.36.1", "operatingSystem": "linux", "architecture": "amd64"},
    });
    [metadata, spec, status].map(|rest| rest.to_string())
});
