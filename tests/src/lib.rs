//! Integration tests on the real kernel; see `tests/`.
