//! The session machine of one neighbour: RFC 4271 section 8 as a pure core.
//!
//! [`Session`] takes [`Input`]s with the time and appends [`Output`]s to the caller's buffer. It owns no socket: a
//! connection is one of two [`Direction`]s, of which at most one survives (section 6.8). Failing dials and failing
//! sessions end up as inputs again.
//!
//! ```text
//!            start                dial refused / lost
//!   Idle ───────────▶ Connect ───────────────────────▶ Active ──┐ connect-retry timer
//!    ▲  idle-hold        │  ▲                            │  ▲    │
//!    │  timer            │  └────────────────────────────┼──┴────┘
//!    │                   │ connected                     │ accepted
//!    │                   ▼                               ▼
//!    │  per connection:  OpenSent ──OPEN──▶ OpenConfirm ──KEEPALIVE──▶ Established
//!    └──────────────────────┴── any failure ──┴────────────────────────────┘
//! ```
//!
//! Invariants: an `Up` is followed by exactly one `Down` before the next `Up`; at most one connection is
//! Established; every connection handed in gets exactly one `Close` unless it was reported lost.

mod backoff;
mod connection;
mod graceful;
mod session;

pub use connection::{Direction, Negotiated};
pub use graceful::{Helper, Order};
pub use session::{DownReason, Input, Output, Penalty, Received, Sending, Session, SessionConfig, State};

#[cfg(test)]
mod tests;
