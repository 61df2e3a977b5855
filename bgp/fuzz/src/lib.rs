//! The pure cores of the speaker, compiled without its daemon.
//!
//! The sources are those of `margay-bgp`. Its own package would bring everything that its tasks need, and all of
//! that would have to be compiled once more with libFuzzer's flags.

#[path = "../../src/asn.rs"]
pub mod asn;
#[path = "../../src/bfd/mod.rs"]
pub mod bfd;
#[path = "../../src/bmp/mod.rs"]
pub mod bmp;
#[path = "../../src/family.rs"]
pub mod family;
#[path = "../../src/fsm/mod.rs"]
pub mod fsm;
#[path = "../../src/hold_time.rs"]
pub mod hold_time;
#[path = "../../src/identifier.rs"]
pub mod identifier;
#[path = "../../src/policy/mod.rs"]
pub mod policy;
#[path = "../../src/prefix.rs"]
pub mod prefix;
#[path = "../../src/rib/mod.rs"]
pub mod rib;
#[path = "../../src/wire/mod.rs"]
pub mod wire;

pub use asn::Asn;
pub use family::{Family, FamilySet};
pub use hold_time::HoldTime;
pub use identifier::BgpIdentifier;
pub use prefix::Prefix;
