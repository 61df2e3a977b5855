//! Waiting for a time that may not be set.

use tokio::time::{Instant, sleep_until};

/// Waits until then; for ever without a time.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
