//! How many entries maps have room for where nobody says else: enough for any node.

/// Of `ENDPOINTS`: pod links.
pub const ENDPOINTS: u32 = 4096;
/// Of `LOCAL`: the addresses of this node's pods.
pub const LOCAL: u32 = 8192;
/// Of `UPLINKS`: interfaces to other nodes.
pub const UPLINKS: u32 = 1024;
/// Of `TUNNELS`: ways to other nodes through a tunnel, one for each block of theirs.
pub const TUNNELS: u32 = 16_384;
/// Of `ADDRESSES`: those that policy names by a class of their own.
pub const ADDRESSES: u32 = 262_144;
/// Of `RANGES`: prefixes of addresses that policy names.
pub const RANGES: u32 = 65_536;
/// Of `PODS`: blocks of pods' addresses.
pub const PODS: u32 = 16_384;
/// Of `VERDICTS`: what policy sets say.
pub const VERDICTS: u32 = 1_048_576;
/// Of `DENIALS`: why packets are dropped.
pub const DENIALS: u32 = 16_384;
/// Of `FLOWS`: those of which both ends were heard.
pub const FLOWS: u32 = 262_144;
/// Of `EMBRYOS`: those of which one was.
pub const EMBRYOS: u32 = 65_536;
/// Of `STACKED`: flows of the stack.
pub const STACKED: u32 = 65_536;
/// Of `FRAGMENTS`: packets in fragments.
pub const FRAGMENTS: u32 = 8192;
