//! eBPF: a short way round the node's stack for flows between pods that policy allows.
//!
//! ```text
//!  core ─ what has changed ─> ShortWay ─> maps <─ programs at the pods' links and at all other interfaces
//!    └── links that may talk ─> links::run ─ attaches those ─┘
//!  program/overlay ─ what its tunnels write before packets ─> TunnelMap ─> one map more
//! ```
//!
//! The programs let nothing in that nftables would not, and drop nothing: what they do not plainly allow goes on to the stack,
//! where the table of [`super::nft`] judges it. So both are kept up to date, the table first, and the short way can be closed at any time:
//! the flows that were on it are then [given](handover) to the kernel's connection tracking, and go on through the stack.
//!
//! Maps are not written in transactions. While they are, their [revision](margay_ebpf_common::control::Control) says so: no flow
//! is judged then, and those that come are the stack's. With the next revision all others are judged anew, each at its next packet.

#[cfg(test)]
mod agreement;
mod capability;
mod contents;
mod driver;
mod handover;
mod hook;
mod links;
mod maps;
mod means;
mod mirror;
mod object;
mod occupancy;
#[cfg(test)]
mod own;
mod prefix;
mod ring;
mod short_way;
mod sizes;
mod sys;
mod tunnels;

pub(crate) use contents::origin as origin_of;
pub(crate) use links::Attachments;
pub(crate) use ring::{Part, Ring, links as links_of};
pub(crate) use short_way::ShortWay;
pub(crate) use sizes::{Sizes, SizesFile};
pub(crate) use tunnels::TunnelMap;
#[cfg(test)]
pub(crate) use {own::with_bpf_fs, tunnels::for_test as tunnels_for_test};
