//! Links, queueing disciplines, filters, addresses, routes, neighbours, forwarding entries, namespaces, nftables, NFLOG, tracked
//! connections and policies of xfrm of the kernel, typed and thin.
//!
//! Everything here is synchronous. The CNI plugin must not start a runtime, and a netlink request is answered
//! within the system call that sends it, so waiting for one costs nothing. Asynchronous callers run a batch on
//! a thread of their own, or wait for a [`Monitor`] through its file descriptor.
//!
//! A verb is a function that makes a [`Request`]; [`Socket::execute`] sends one, [`Socket::execute_all`] many in
//! one system call. Functions that read the kernel's state take the socket and give back owned values.

pub mod addr;
pub mod conntrack;
mod error;
pub mod fdb;
pub mod filter;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod link;
mod mac;
mod monitor;
pub mod neigh;
pub mod netns;
pub mod nflog;
pub mod nftables;
pub mod qdisc;
mod request;
pub mod route;
mod socket;
pub mod xfrm;

pub use error::Error;
pub use mac::{MacAddr, MacAddrError};
pub use monitor::{Event, Group, Monitor};
pub use netlink_packet_route::RouteNetlinkMessage;
pub use nix::errno::Errno;
pub use request::Request;
pub use socket::Socket;
