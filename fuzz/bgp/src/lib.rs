//! The pure cores of the speaker and its configuration, compiled without its daemon.
//!
//! The sources are those of `margay-bgp`. Its own package would bring everything that its tasks need, and all of
//! that would have to be compiled once more with libFuzzer's flags.
#![allow(dead_code)]

#[path = "../../../bgp/src/asn.rs"]
pub mod asn;
#[path = "../../../bgp/src/bfd/mod.rs"]
pub mod bfd;
#[path = "../../../bgp/src/bmp/mod.rs"]
pub mod bmp;
#[expect(unused_imports, reason = "the daemon uses more of it than what parses does")]
#[path = "../../../bgp/src/config/mod.rs"]
pub mod config;
#[path = "../../../bgp/src/control/message.rs"]
pub mod control;
#[path = "../../../bgp/src/family.rs"]
pub mod family;
#[path = "../../../bgp/src/fsm/mod.rs"]
pub mod fsm;
#[path = "../../../bgp/src/hold_time.rs"]
pub mod hold_time;
#[path = "../../../bgp/src/identifier.rs"]
pub mod identifier;
#[path = "../../../bgp/src/policy/mod.rs"]
pub mod policy;
#[path = "../../../bgp/src/policy_test.rs"]
pub mod policy_test;
#[path = "../../../bgp/src/prefix.rs"]
pub mod prefix;
#[path = "../../../bgp/src/rib/mod.rs"]
pub mod rib;
#[path = "../../../bgp/src/wire/mod.rs"]
pub mod wire;

pub use asn::Asn;
pub use family::{Family, FamilySet};
pub use hold_time::HoldTime;
pub use identifier::BgpIdentifier;
pub use prefix::Prefix;
