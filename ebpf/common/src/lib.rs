//! Map layouts shared by the kernel programs and the agent.
//!
//! Owns the bytes on both sides of a map: keys and values are `repr(C)`, their padding is explicit, and their
//! sizes and offsets are asserted at compile time. It holds no logic but
//! what both sides must see alike.
#![no_std]

/// Says of a type that its bytes are all that there is to it.
macro_rules! plain {
    ($of:ty) => {
        // SAFETY: the type is `repr(C)` of integers and octets, its padding is a field, as the assertions beside it show, and every
        // bit pattern is a value of it.
        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "a promise about the layout, which only this crate can make")]
        unsafe impl aya::Pod for $of {}
    };
}

pub mod address;
pub mod capacity;
pub mod control;
pub mod counter;
pub mod denial;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod tunnel;
pub mod verdict;

/// Changes with every change of a layout or of what it means: maps of another version are not used, but made anew.
///
/// For open connections to go on over an upgrade and a rollback, agents of other versions read `CONTROL`, `FLOWS` and
/// `EMBRYOS` once, to give their flows to the stack. So what these mean changes only with their names, or the sizes of
/// their keys or values.
pub const LAYOUT_VERSION: u32 = 7;
