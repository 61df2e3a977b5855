//! The time of day, for what says when something was: nothing follows from it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bmp::Timestamp;

#[expect(clippy::disallowed_methods, reason = "others read it, and nothing follows from it here")]
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same as messages of BMP have it.
pub(super) fn timestamp() -> Timestamp {
    since_1970().into()
}
