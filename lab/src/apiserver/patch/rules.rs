//! How lists of the built-in kinds merge.

/// How two lists of one field become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListRule {
    /// The new list replaces the old.
    Atomic,
    /// Items with the same value of the first key are the same item; server-side apply compares all keys.
    Keyed(&'static [&'static str]),
    /// The union of plain values.
    Set,
}

/// The rule for the list `field` directly below `parent` in an object of `kind`.
///
/// `parent` is the name of the nearest enclosing field, the list's name for items of lists. The rules are those of
/// the `patchStrategy` and `patchMergeKey` tags of `k8s.io/api`, written by field name because the names are
/// unambiguous there but for the exceptions that come first.
pub(super) fn rule(kind: &str, parent: &str, field: &str) -> ListRule {
    use ListRule::{Atomic, Keyed, Set};
    if parent == "metadata" {
        return match field {
            "ownerReferences" => Keyed(&["uid"]),
            "finalizers" => Set,
            _ => Atomic,
        };
    }
    match kind {
        "NetworkPolicy"
        | "EndpointSlice"
        | "Endpoints"
        | "Role"
        | "ClusterRole"
        | "RoleBinding"
        | "ClusterRoleBinding"
        | "CustomResourceDefinition"
        | "Event"
        | "Ingress" => return Atomic,
        _ => {}
    }
    match (parent, field) {
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => {
            Keyed(&["containerPort", "protocol"])
        }
        ("spec", "ports") if kind == "Service" => Keyed(&["port", "protocol"]),
        ("status", "addresses") if kind == "Node" => Keyed(&["type"]),
        ("", "secrets") if kind == "ServiceAccount" => Keyed(&["name"]),
        (
            _,
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "env"
            | "imagePullSecrets"
            | "volumes"
            | "resourceClaims"
            | "schedulingGates",
        ) => Keyed(&["name"]),
        (_, "volumeMounts") => Keyed(&["mountPath"]),
        (_, "volumeDevices") => Keyed(&["devicePath"]),
        (_, "hostAliases" | "podIPs" | "hostIPs") => Keyed(&["ip"]),
        (_, "topologySpreadConstraints") => Keyed(&["topologyKey", "whenUnsatisfiable"]),
        ("status", "conditions") => Keyed(&["type"]),
        ("spec", "podCIDRs") if kind == "Node" => Set,
        _ => Atomic,
    }
}
