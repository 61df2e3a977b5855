//! Bidirectional forwarding detection, RFC 5880 in asynchronous mode, as a pure core.
//!
//! [`Session`] takes [`Input`]s with the time and appends [`Output`]s to the caller's buffer; it owns no socket and
//! no clock. Which session a packet is for is the caller's business: by `your_discriminator`, or by addresses where
//! that is 0 (section 6.8.6).
//!
//! ```text
//!            hears Down                 hears Init or Up
//!   Down ───────────────▶ Init ───────────────────────────▶ Up
//!    ▲ └──────────────────── hears Init ───────────────────▶ │
//!    │                      │                                │
//!    └── silence, AdminDown ┴── silence, Down, AdminDown ────┘
//! ```
//!
//! Left out: demand mode and the echo function, which nobody has to offer; authentication (section 6.7).
//!
//! Invariants: nothing is sent faster than the neighbour takes it; while not Up, a packet a second at most, beside
//! answers and changes of the state.

mod packet;
mod session;

pub use packet::{Diagnostic, Malformed, PACKET_LEN, Packet, State};
pub use session::{Input, Loss, Output, Session, SessionConfig, Timers};

#[cfg(test)]
mod tests;
