//! Annotations of Kubernetes objects that are ours.

/// On a pod, written by the agent of its node when its interface is made: its addresses, separated by commas. Other
/// nodes go by it until the pod's status has its addresses.
pub const POD_IPS: &str = "margay.dev/pod-ips";
