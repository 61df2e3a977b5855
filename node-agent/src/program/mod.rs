//! Drivers: the wanted state to the kernel, the disk and the speaker.

pub(crate) mod announce;
pub(crate) mod bgp;
pub(crate) mod bgp_status;
pub(crate) mod cni;
pub(crate) mod connections;
pub(crate) mod ebpf;
pub(crate) mod endpoint;
pub(crate) mod leak;
pub(crate) mod network_condition;
pub(crate) mod nft;
pub(crate) mod overlay;
pub(crate) mod pod_mtu;
pub(crate) mod sysctl;
pub(crate) mod takedown;
pub(crate) mod uplink;
