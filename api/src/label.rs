//! Labels of Kubernetes objects that are ours, or that we heed.

/// On a node: it reflects routes for the nodes without this label (RFC 4456). The value is the cluster, as an address or
/// a number; nodes of one cluster do not take each other's reflected routes.
pub const ROUTE_REFLECTOR: &str = "margay.dev/route-reflector";
/// On a node: it draws no traffic to external and load balancer IPs of Services.
pub const EXCLUDE_FROM_LOAD_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
