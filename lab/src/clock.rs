//! Waiting for what no event announces.

use anyhow::Context;
use std::time::Duration;

/// How often a look is taken.
const PERIOD: Duration = Duration::from_millis(20);

/// Takes looks until one finds something.
///
/// # Errors
/// When nothing has been found within `limit`; `what` says what was waited for.
pub async fn until<T, Look>(limit: Duration, what: &str, mut look: impl FnMut() -> Look) -> anyhow::Result<T>
where
    Look: Future<Output = Option<T>>,
{
    let mut looks = tokio::time::interval(PERIOD);
    let found = async {
        loop {
            looks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(limit, found).await.ok().with_context(|| format!("{what}: not within {limit:?}"))
}

/// Runs something until it is done or the time is up.
///
/// # Errors
/// Its own, or that it took longer than `limit`; `what` says what it was.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.with_context(|| what.to_owned()),
        Err(_elapsed) => anyhow::bail!("{what}: not done within {limit:?}"),
    }
}

/// Lets a change have its effect, where what is looked at may look the same before it.
#[expect(clippy::disallowed_methods, reason = "there is no event to wait for when nothing changes")]
pub(crate) async fn settle(time: Duration) {
    tokio::time::sleep(time).await;
}
