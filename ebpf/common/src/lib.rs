//! Map layouts shared by the kernel programs and the agent.
//!
//! Owns the bytes on both sides of a map: keys and values are `repr(C)`, their padding is explicit, and their
//! sizes and offsets are asserted at compile time. It holds no logic.
#![no_std]

pub mod traffic;
