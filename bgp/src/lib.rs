//! A BGP-4 speaker as a library: wire format, session machine, routing tables, daemon.
//!
//! [`wire`], [`bmp`], [`bfd`], [`fsm`], [`policy`] and [`rib`] are pure: no clock, socket or task. [`daemon`] drives them. A program that only
//! configures a running speaker needs [`config`] and [`control`].

pub mod asn;
pub mod bfd;
pub mod bmp;
pub mod check;
pub mod config;
pub mod control;
pub mod daemon;
pub mod family;
pub mod fsm;
pub mod hold_time;
pub mod identifier;
pub mod policy;
pub mod policy_test;
pub mod prefix;
pub mod rib;
pub mod wire;

pub use asn::Asn;
pub use family::{Family, FamilySet};
pub use hold_time::HoldTime;
pub use identifier::BgpIdentifier;
pub use prefix::Prefix;
