//! The speaker against BIRD 2, FRR and GoBGP, on the real kernel.
//!
//! Each test has network namespaces of its own. Those of [`harness`] have BIRD at 192.0.2.1 and `2001:db8::1`, the
//! speaker at 192.0.2.2 and `2001:db8::2`; those of [`lab`] have any of the three around the speaker. Needs root,
//! `ip`, the daemons with their clients, `bgpdump`, pmacct's `pmbmpd`, and the speaker's binary.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the harness fails a test by panicking, and its helpers are not test functions"
)]

mod add_path;
mod bfd;
mod bird;
mod bmp;
mod configure;
mod dump;
mod exchange;
mod graceful;
mod harness;
mod lab;
mod next_hop;
mod operate;
mod reflection;
mod refresh;
mod resolve;
mod restart;
mod security;
mod shutdown;
mod storm;
mod weights;
