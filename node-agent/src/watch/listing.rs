//! All objects of a kind, listed in the way that the API server can.

use std::fmt::Debug;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tracing::info;

use super::{
    guarded::{Guarded, Kind},
    status,
};

/// What a watcher says.
pub(super) type Event<O> = watcher::Result<watcher::Event<Guarded<O>>>;

/// All objects of a kind, or the one of that name, and what happens to them.
pub(super) fn watched<O>(
    api: Api<Guarded<O>>,
    name: Option<&str>,
    resource: &'static str,
) -> BoxStream<'static, Event<O>>
where
    O: Kind + Clone + Debug + Send + 'static,
{
    let base = match name {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    let streamed = watcher(api.clone(), base.clone().streaming_lists()).default_backoff().boxed();
    let first =
        Watched { api, base, resource, listing: Listing::Stream, events: streamed, is_listing: false };
    stream::unfold(first, |mut watched| async move { Some((watched.next().await?, watched)) }).boxed()
}

/// How the API server is asked for all there is of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    /// As events of the watch: Kubernetes has it behind the feature gate `WatchList`, which is beta since 1.32.
    Stream,
    /// In pages, and then the watch: all servers have that.
    Pages,
}

impl Listing {
    /// Whether an event says that the server does not know this way: it refuses the parameters, or ends a list without its mark.
    fn fails<T>(self, event: &watcher::Result<watcher::Event<T>>, is_listing: bool) -> bool {
        self == Self::Stream
            && match event {
                Ok(watcher::Event::Init) => is_listing,
                Ok(_) => false,
                Err(error) => matches!(status(error), Some(400 | 422)),
            }
    }
}

/// A watch with the way in which it lists.
struct Watched<O> {
    api: Api<Guarded<O>>,
    base: watcher::Config,
    resource: &'static str,
    listing: Listing,
    events: BoxStream<'static, Event<O>>,
    /// A list has begun and not ended.
    is_listing: bool,
}

impl<O> Watched<O>
where
    O: Kind + Clone + Debug + Send + 'static,
{
    async fn next(&mut self) -> Option<Event<O>> {
        loop {
            let event = self.events.next().await?;
            if self.listing.fails(&event, self.is_listing) {
                info!(
                    resource = self.resource,
                    "the API server does not stream lists to their end; they are asked for in pages"
                );
                self.listing = Listing::Pages;
                self.events = watcher(self.api.clone(), self.base.clone()).default_backoff().boxed();
                self.is_listing = false;
                continue;
            }
            self.is_listing = match event {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => true,
                Ok(_) => false,
                Err(_) => self.is_listing,
            };
            return Some(event);
        }
    }
}
