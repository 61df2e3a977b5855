//! Messages as they are on the wire: RFC 4271 section 4 with the extensions in `docs/bgp.md`.
//!
//! Decoders take a slice, never panic, and say what a fault calls for: a NOTIFICATION to send, or one of the milder
//! actions of RFC 7606. Encoders append whole messages to the caller's buffer. Nothing here knows about sessions.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

pub mod attr;
pub mod capability;
pub mod encode;
pub mod header;
pub mod message;
pub mod nlri;
pub mod notification;
pub mod open;
mod reader;
pub mod refresh;
pub mod update;

pub use attr::{AsWidth, Attributes, NextHop};
pub use capability::{AddPath, Capabilities, GracefulRestart, LongLived};
pub use header::{Frame, HEADER_LEN, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, MessageKind};
pub use message::Message;
pub use notification::Notification;
pub use open::Open;
pub use refresh::{RefreshKind, RouteRefresh};
pub use update::{OwnedUpdate, PeerKind, Update, UpdateContext};

#[cfg(test)]
mod tests;
