//! Telling a task something when it is news.

use tokio::sync::watch;

/// Has who listens see `now`, and wakes nobody if it is what was told last.
pub(crate) fn tell<T: PartialEq>(listeners: &watch::Sender<T>, now: T) {
    listeners.send_if_modified(|told| {
        let differs = *told != now;
        *told = now;
        differs
    });
}
