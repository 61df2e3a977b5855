//! The speaker against BIRD 2, on the real kernel.
//!
//! Each test has two network namespaces of its own, joined by a veth pair: BIRD at 192.0.2.1 and `2001:db8::1`, the
//! speaker at 192.0.2.2 and `2001:db8::2`. Needs root, `ip`, `bird` and `birdc`, and the speaker's binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the harness fails a test by panicking, and its helpers are not test functions"
)]

mod bird;
mod configure;
mod harness;
mod restart;
mod shutdown;
