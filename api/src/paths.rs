//! Where things are on a node.

/// Endpoint records and sockets: on a file system that a reboot empties, as it ends all pods.
pub const RUN_DIR: &str = "/run/margay";
/// Address allocations: kept over reboots.
pub const STATE_DIR: &str = "/var/lib/margay";
/// Below [`RUN_DIR`]: one record for each pod interface.
pub const ENDPOINTS: &str = "endpoints";
/// Below [`RUN_DIR`]: the socket on which the agent serves the plugin.
pub const AGENT_SOCKET: &str = "agent.sock";
/// Below [`RUN_DIR`]: the socket on which the speaker serves the agent.
pub const BGP_SOCKET: &str = "bgp.sock";
/// Below [`RUN_DIR`]: the MTU that pods get now, as long as there are pods with a larger one.
pub const POD_MTU: &str = "pod-mtu";
/// Below [`RUN_DIR`]: the numbers of interfaces at which an agent has left the discipline `clsact` without filters.
pub const CLSACT: &str = "clsact";
/// Below [`STATE_DIR`]: the address blocks.
pub const IPAM: &str = "ipam";
/// Where runtimes look for network configurations.
pub const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// The network configuration's file there.
pub const CNI_CONF_FILE: &str = "10-margay.conflist";
/// The network's name in it.
pub const CNI_NETWORK: &str = "margay";
/// The `type` of our plugin, which is its file name in `/opt/cni/bin`.
pub const CNI_TYPE: &str = "margay";
/// Where runtimes look for plugins.
pub const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// The bpf file system.
pub const BPF_DIR: &str = "/sys/fs/bpf";
/// Below [`BPF_DIR`]: the maps and links of the eBPF dataplane, in a folder for each version of their layouts.
pub const BPF_PINS: &str = "margay";
/// How the names of the eBPF dataplane's filters begin, on kernels where its programs are attached as such.
pub const BPF_FILTER_PREFIX: &str = "margay_";
/// The table of nftables, of family `inet`.
pub const NFT_TABLE: &str = "margay";
