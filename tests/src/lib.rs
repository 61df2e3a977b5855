//! Integration tests on the real kernel; see `tests/`.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test helper fails its test by panicking")]

pub mod guide;
pub mod programs;

/// How many times as long storms and faults take as in `make test`: `MARGAY_SOAK`, which `make soak` sets.
///
/// # Panics
/// When that is no number.
pub fn soak() -> usize {
    let Ok(text) = std::env::var("MARGAY_SOAK") else { return 1 };
    text.parse().unwrap_or_else(|error| panic!("MARGAY_SOAK is `{text}`: {error}; write a number"))
}
